"""Which checkpoints stay, and which one is the best.

In: a run folder. Out: fewer folders in it, and the file `best`. What goes is renamed before it is
deleted, so that no half-deleted folder ever has the name of a checkpoint. Imports no torch.
"""

import shutil
from pathlib import Path

from chatlm.checkpoint import manifest, storage
from chatlm.checkpoint.paths import BEST, saved_steps, step_name

FEWEST = 2
"""Whole checkpoints that always stay: one may turn out to be damaged."""


def prune(run: Path, keep: int, best_step: int) -> None:
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


def point_to_best(run: Path, step: int) -> None:
    """Names the best checkpoint in the file `best`, which chat reads."""
    text = step_name(step) + "\n"
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
