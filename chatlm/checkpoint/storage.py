"""Disks: what is free, what has reached the disk, and failures of a disk as one plain line.

In: paths. Out: nothing, or a `StorageError` that names the path, the bytes needed and those free.
It writes nothing itself. Imports no torch.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatlm.errors import StorageError

MOST_AT_ONCE = 2
"""Checkpoints that must fit before a run starts: the one being written, and the one before it."""
SMALL_FILES = 1 << 22
"""Bytes allowed for the tokenizer and the texts when a checkpoint's size is told."""
_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or have the quota raised",
    errno.EROFS: "make the disk writable",
    errno.EACCES: "make the folder writable",
    errno.ENOENT: "bring the folder back",
    errno.ENOTDIR: "bring the folder back",
    errno.ESTALE: "bring the disk back",
    errno.EIO: "replace the disk",
}


@contextmanager
def guarded(path: Path, needed: int) -> Iterator[None]:
    """Turns a failure to write into one plain line.

    Args:
        path: what is being written.
        needed: bytes it takes.

    Raises:
        StorageError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise failure(path, needed, error) from error


def failure(path: Path, needed: int, error: OSError) -> StorageError:
    """Returns the error for a path that could not be written."""
    advice = _ADVICE.get(error.errno or 0, "see to the disk")
    return StorageError(
        f"cannot write {path} ({error.strerror or error}; needs {needed} bytes, "
        f"{free_bytes(path)} are free): older checkpoints are whole, {advice} and go on with "
        "resume=True"
    )


def free_bytes(path: Path) -> int:
    """Returns what can be written where a path is, or would be; 0 where nothing is."""
    for folder in (path, *path.absolute().parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return 0


def require_space(run: Path, tensor_bytes: int) -> None:
    """Sees to it before a run starts that its checkpoints fit.

    Args:
        run: the run folder, which need not exist yet.
        tensor_bytes: weights and moments of one checkpoint.

    Raises:
        StorageError: there is room for fewer than two.
    """
    needed, free = MOST_AT_ONCE * (tensor_bytes + SMALL_FILES), free_bytes(run)
    if free < needed:
        raise StorageError(
            f"{run} has too little space: {MOST_AT_ONCE} checkpoints need {needed} bytes, {free} "
            "are free: free some, or name another out="
        )


def sync_tree(folder: Path) -> None:
    """Waits until a folder, with everything in it, is on the disk: files first, folders last."""
    paths = sorted(folder.rglob("*"))
    for path in [path for path in paths if path.is_file()]:
        sync(path)
    for path in [*(path for path in paths if path.is_dir()), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
