"""Which checkpoints stay, and which one is the best.

In: a run folder. Out: fewer folders in it, and the file `best`. Those that were set aside because
they may hold sick weights are for a person to look at; of them just the newest stay. What goes is
renamed before it is deleted, so that no half-deleted folder ever has the name of a checkpoint.
Imports no torch.
"""

import re
import shutil
from pathlib import Path

from chatlm.checkpoint import manifest, storage
from chatlm.checkpoint.paths import BEST, NONE_IS_GOOD, saved_steps, step_name

FEWEST = 2
"""Whole checkpoints that always stay: one may turn out to be damaged."""
SICK = ".sick-"
"""Begins the name of a checkpoint that was set aside; a number ends it where that was taken."""
MOST_SICK = 3
_SICK = re.compile(rf"{re.escape(SICK)}step_([0-9]+)(?:-([0-9]+))?")


def prune(run: Path, keep: int, best_step: int | None) -> None:
    """Deletes all but the `keep` newest checkpoints and the best one, and never leaves just one.

    Those that are seen to be damaged without reading them neither count nor go.
    """
    usable = [step for step in saved_steps(run) if _looks_whole(run / step_name(step))]
    kept = {*usable[-keep:], best_step} & set(usable)
    if len(kept) < FEWEST:
        kept |= set(usable[-FEWEST:])
    for step in usable:
        if step not in kept:
            _delete(run / step_name(step))


def set_aside(run: Path, step: int) -> Path:
    """Renames the checkpoint of a step, so that nobody goes on from it; returns its new place.

    Raises:
        StorageError: it cannot be renamed.
    """
    folder = run / step_name(step)
    earlier = [again for one, again, _ in _sick(run) if one == step]
    name = f"{SICK}{folder.name}" + (f"-{max(earlier) + 1}" if earlier else "")
    with storage.guarded(run / name, 0):
        return folder.rename(run / name)


def prune_sick(run: Path, keep: int = MOST_SICK) -> None:
    """Deletes all checkpoints that were set aside but the `keep` newest ones.

    Raises:
        StorageError: one cannot be deleted.
    """
    found = sorted(_sick(run))
    for _, _, folder in found[: max(0, len(found) - keep)]:
        _delete(folder)


def _sick(run: Path) -> list[tuple[int, int, Path]]:
    """Returns step, number and folder of each checkpoint that was set aside, in no order."""
    found = ((_SICK.fullmatch(path.name), path) for path in run.glob(f"{SICK}step_*/"))
    return [
        (int(name[1]), int(name[2] or 0), path)
        for name, path in found
        if name and not path.is_symlink()
    ]


def _looks_whole(folder: Path) -> bool:
    """Tells whether all files are there and of the right size."""
    try:
        listed = manifest.read(folder)
        sizes = [(folder / name).stat().st_size for name in listed.files]
    except (ValueError, OSError):
        return False
    return sizes == [entry.bytes for entry in listed.files.values()]


def _delete(folder: Path) -> None:
    gone = folder.with_name(f".old-{folder.name}")
    with storage.guarded(gone, 0):
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone)


def point_to_best(run: Path, step: int | None) -> None:
    """Names the best checkpoint in the file `best`, which chat reads, or says that none is good."""
    text = (NONE_IS_GOOD if step is None else step_name(step)) + "\n"
    part = run / f".tmp-{BEST}"
    with storage.guarded(run / BEST, len(text)):
        part.write_text(text)
        storage.sync(part)
        part.replace(run / BEST)


def sweep(run: Path) -> None:
    """Deletes what runs that died left half written or half deleted; the run's owner calls it.

    Raises:
        StorageError: it cannot be deleted.
    """
    for path in [*run.glob(".tmp-*"), *run.glob(".old-*")]:
        with storage.guarded(path, 0):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
