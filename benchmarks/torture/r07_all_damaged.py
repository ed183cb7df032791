"""R7: every checkpoint of a run is damaged, each in another way.

The training must not start, must say of each checkpoint what is wrong with it, must change nothing,
and must say the same when it is started again; without resume=True it must not start over the run
either.
"""

import hashlib
from pathlib import Path

from benchmarks.torture.damage import KINDS, damage
from benchmarks.torture.victim import Outcome, Result, Workbench

COUNTS = {"full": 24, "slice": 3}
SECONDS = 1.5
TITLE = "all checkpoints are damaged"
REFUSED = 2


def run(count: int, bench: Workbench) -> Result:
    """Damages all checkpoints of `count` runs."""
    reference = bench.reference()
    failures = []
    for number in range(count):
        folder = bench.copy_of(reference.run, "r07")
        done = {step: _damage_one(bench, step, number) for step in sorted(folder.glob("step_*"))}
        failures += [f"{sorted(done.values())}: {one}" for one in _wrong(bench, folder, done)]
    return Result("R7", TITLE, count, failures, {"checkpoints_a_run": len(reference.steps)})


def _damage_one(bench: Workbench, checkpoint: Path, number: int) -> str:
    """Damages a file; every third time all manifests are gone. Returns the file's name."""
    if number % 3 == 0:
        (checkpoint / "MANIFEST.json").unlink()
        return "MANIFEST.json"
    file = bench.random.choice(sorted(checkpoint.iterdir()))
    damage(file, bench.random.choice([one for one in KINDS if "older" not in one]), bench.random)
    return file.name


def _wrong(bench: Workbench, folder: Path, done: dict[Path, str]) -> list[str]:
    before = _content(folder)
    outcomes = [bench.start(folder, resume=resume).outcome() for resume in (True, True, False)]
    wrong = [one for outcome in outcomes[:2] for one in _not_told(outcome, done)]
    wrong += [f"exit code {one.exit_code}" for one in outcomes if one.exit_code != REFUSED]
    if outcomes[2].losses.keys() - bench.reference().losses.keys() or _content(folder) != before:
        wrong.append("the run folder was changed")
    return wrong


def _not_told(outcome: Outcome, done: dict[Path, str]) -> list[str]:
    told = outcome.last_line()
    return [
        f"{checkpoint.name}: {file} is not named: {told}"
        for checkpoint, file in done.items()
        if f"{checkpoint.name}: {file}" not in told
    ]


def _content(folder: Path) -> dict[str, str]:
    """Returns name -> sha256 of all files of a run but the lock."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
