"""R6: any file of the newest checkpoint is cut, zeroed, lost, mixed up, or has one bit flipped.

Each damage must be found before anything is loaded, and named with its file; the newest checkpoint
that is whole is chosen instead, and the damaged one set aside. Of each kind of damage, and of every
tenth case, the training goes on for real and must end with the bits of a run without damage.
"""

import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.torture import whole
from benchmarks.torture.damage import KINDS, damage
from benchmarks.torture.victim import Outcome, Result, Workbench
from chatlm.checkpoint import verify
from chatlm.errors import ChatLMError

COUNTS = {"full": 360, "slice": 20}
SECONDS = 0.25
TITLE = "damage to any file of a checkpoint"
FLIPS = 30
"""Bits flipped in each file; the other kinds of damage come once a file."""
EVERY = 10


def run(count: int, bench: Workbench) -> Result:
    """Damages `count` times."""
    reference = bench.reference()
    newest = reference.run / f"step_{reference.steps[-1]:06d}"
    cases = list(_cases(newest))
    bench.random.shuffle(cases)
    failures: list[str] = []
    seen: dict[str, int] = {}
    trained = done = 0
    for file, kind in cases:
        if done == count:
            break
        folder = bench.copy_of(reference.run, "r06")
        older = folder / f"step_{reference.steps[-2]:06d}"
        if not damage(folder / newest.name / file, kind, bench.random, older):
            continue
        done += 1
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] == 1 or done % EVERY == 0:
            trained += 1
            found = _wrong_after_training(bench, folder, file, reference)
        else:
            found = _wrong_choice(folder, file, older)
        failures += [f"{file} {kind}: {one}" for one in found]
        if not found:
            shutil.rmtree(folder)
    figures: dict[str, object] = {"trained_to_the_end": trained, **seen}
    return Result("R6", TITLE, done, failures, figures)


def _cases(checkpoint: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(path.name for path in checkpoint.iterdir()):
        for kind in KINDS:
            yield from [(file, kind)] * (FLIPS if kind == KINDS[-1] else 1)


def _wrong_choice(folder: Path, file: str, older: Path) -> list[str]:
    """Lets the next checkpoint be chosen; returns what was wrong."""
    with contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            chosen = verify.newest_whole(folder)
        except ChatLMError as error:
            return [f"no checkpoint was chosen: {error}"]
    if chosen != older:
        return [f"{chosen.name} was chosen, not {older.name}"]
    return [] if file in told.getvalue() else [f"it was not named: {told.getvalue()}"]


def _wrong_after_training(
    bench: Workbench, folder: Path, file: str, reference: Outcome
) -> list[str]:
    outcome = bench.start(folder, resume=True).outcome()
    wrong = whole.wrong_at_the_end(folder, outcome, reference)
    if f"cannot be used ({file}" not in outcome.log:
        wrong.append(f"it was not named: {outcome.log[:300]}")
    aside = f".corrupt-step_{reference.steps[-1]:06d}"
    return wrong + ([] if (folder / aside).is_dir() else ["it was not set aside"])
