"""R14: the loader's thread raises, dies or hangs.

It must be noticed within 10 s and named in one line; started again, the run must end with the bits
of a run that nothing happened to. A hang that is not ended from outside must end by itself.
"""

import time
from pathlib import Path
from typing import Any

from benchmarks.torture import sickness
from benchmarks.torture.victim import Result, Victim, Workbench

COUNTS = {"full": 20, "slice": 1}
SECONDS = 2.5
TITLE = "the loader raises, dies, hangs"
NOTICED_SECONDS = 10.0
CODES = {"raises": 74, "defect": 75, "dies": 75}
KINDS = ("raises", "hangs", "dies", "hangs", "defect")
SAID = {
    "raises": "error: cannot read step",
    "defect": "error: cannot make step",
    "dies": "error: the loader's thread ended",
    "hangs": "warning: waiting for step",
}
HANG_ENDS_SECONDS = 75.0
NEIGHBOUR = 75


def run(count: int, bench: Workbench) -> Result:
    """Injects `count` times."""
    failures: list[str] = []
    seconds: list[float] = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        ranks = bench.random.choice((1, 1, 2))
        step = bench.random.randint(1, 24)
        # The longest wait is waited for once.
        whole_wait = number == KINDS.index("hangs") + len(KINDS) or count == 1
        problems = _case(bench, kind, ranks, step, seconds, whole_wait=whole_wait)
        failures += [f"{kind} at step {step}, {ranks} ranks: {one}" for one in problems]
    figures = {"longest_until_noticed_seconds": round(max(seconds, default=0.0), 1)}
    return Result("R14", TITLE, count, failures, figures)


def _case(
    bench: Workbench, kind: str, ranks: int, step: int, seconds: list[float], *, whole_wait: bool
) -> list[str]:
    folder = bench.new_run("r14")
    how: dict[str, Any] = {"ranks": ranks, "observe": False}
    whole = bench.reference(**how)
    mark = bench.folder / f"mark-{bench.random.getrandbits(40):x}"
    inject = sickness.sick_loader(kind, step, bench.random.randrange(ranks), mark)
    victim = bench.start(folder, inject=inject, **how)
    logs = bench.folder / "logs" / folder.name
    noticed = _noticed(victim, logs, SAID[kind], mark)
    problems = []
    if noticed is None:
        problems.append("nothing was said")
    else:
        seconds.append(noticed)
        if noticed > NOTICED_SECONDS:
            problems.append(f"noticed after {noticed:.1f} s")
    ends_by_itself = kind != "hangs" or whole_wait
    if ends_by_itself:
        victim.wait(HANG_ENDS_SECONDS)
    victim.kill()
    outcome = victim.outcome()
    if ends_by_itself and not set(outcome.exit_codes) <= {CODES.get(kind, NEIGHBOUR), NEIGHBOUR}:
        problems.append(f"exit codes {outcome.exit_codes}: {outcome.last_line()}")
    if "Traceback" in outcome.log and kind != "dies":
        problems.append("a traceback instead of a line")
    again = bench.finish(folder, **how)
    difference = again.difference(whole)
    return problems + ([f"started again: {difference}"] if difference else [])


def _noticed(victim: Victim, logs: Path, text: str, mark: Path) -> float | None:
    """Returns how long after the fault the log had a text; None if it never had."""
    ended = False
    while True:
        if any(text in path.read_text(errors="replace") for path in logs.glob("*.log")):
            return max(0.0, time.time() - mark.stat().st_mtime)
        if ended or (mark.exists() and time.time() - mark.stat().st_mtime > HANG_ENDS_SECONDS):
            return None
        ended = victim.wait(0.1)
