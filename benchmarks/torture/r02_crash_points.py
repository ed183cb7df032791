"""R2: the process dies just before each file operation of the first, a middle and the last save.

The operations are taken down from an undisturbed run: making the folder, opening, syncing and
renaming each file, the folder's own renaming, the file `best`, deleting what is no longer kept.
After the crash no folder with the name of a checkpoint may be damaged; started again the run must
end with the bits of one that nothing happened to, and leave nothing half done.
"""

import signal

from benchmarks.torture import faults, whole
from benchmarks.torture.victim import SETTINGS, Outcome, Result, Workbench

COUNTS = {"full": 150, "slice": 3}
SECONDS = 2.5
TITLE = "the process dies at each file operation of a save"
EVERY = int(SETTINGS["save_every_steps"])
LAST = int(SETTINGS["max_steps"])
SAVES = {"first": EVERY, "middle": LAST // 2, "last": LAST}


def run(count: int, bench: Workbench) -> Result:
    """Crashes at `count` points, or at all there are, evenly spread."""
    reference = bench.reference()
    points = [
        (name, number)
        for name, step in SAVES.items()
        for number in operations_of(step, reference.operations)
    ]
    chosen = sorted({points[i * len(points) // count] for i in range(count)})
    failures = []
    for name, number in chosen:
        what = reference.operations[number - 1]
        found = crash(bench, number, reference)
        failures += [f"{name} save, before operation {what}: {one}" for one in found]
    figures = {"points_there_are": len(points)}
    figures |= {f"{name}_save": sum(one == name for one, _ in chosen) for name in SAVES}
    return Result("R2", TITLE, len(chosen), failures, figures)


def operations_of(step: int, operations: list[str]) -> list[int]:
    """Returns the numbers of the operations of the save at a step, with what it deletes."""
    starts = [i for i, one in enumerate(operations) if f"os.mkdir .tmp-step_{step:06d}-" in one]
    later = [
        i for i, one in enumerate(operations) if f"os.mkdir .tmp-step_{step + EVERY:06d}" in one
    ]
    return list(range(starts[0] + 1, (later[0] if later else len(operations)) + 1))


def crash(bench: Workbench, number: int, reference: Outcome) -> list[str]:
    """Crashes once and goes on; returns what was wrong."""
    folder = bench.new_run("r02")
    victim = bench.start(folder, inject=faults.die_at(folder, number))
    outcome = victim.outcome()
    if outcome.exit_code != -signal.SIGKILL:
        return [f"it did not come so far: exit code {outcome.exit_code}, {outcome.last_line()}"]
    wrong = whole.damaged(folder) if folder.exists() else []
    return wrong + whole.wrong_at_the_end(folder, bench.finish(folder), reference)
