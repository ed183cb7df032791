"""Disks that are full: small ones in memory, filled up to any page.

In: a folder. Out: a real disk of its own there, of which the kernel says that it is full. Only root
may mount one; `can_mount` tells.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = 4096
BALLAST = "ballast"
_LIBC = ctypes.CDLL(None, use_errno=True)
_DETACH = 2


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """Gives an empty disk in memory, mounted at `place`.

    Raises:
        PermissionError: this process may not mount.
    """
    place.mkdir(parents=True, exist_ok=True)
    options = f"size={megabytes}m,mode=700".encode()
    if _LIBC.mount(b"chatlm", os.fsencode(place), b"tmpfs", 0, options):
        number = ctypes.get_errno()
        raise PermissionError(number, os.strerror(number), str(place))
    try:
        yield place
    finally:
        _LIBC.umount2(os.fsencode(place), _DETACH)


def can_mount(place: Path) -> str:
    """Returns why no disk can be mounted here, or ''."""
    try:
        with small_disk(place, 1):
            return ""
    except PermissionError as error:
        return f"no disk can be mounted here ({error.strerror}): only root may"


def fill(disk: Path, pages_left: int) -> None:
    """Fills a disk so that so many pages are free."""
    found = os.statvfs(disk)
    pages = found.f_bavail * found.f_frsize // PAGE - pages_left
    with (disk / BALLAST).open("ab", buffering=0) as file:
        for _ in range(pages):
            file.write(b"\1" * PAGE)


def free(disk: Path) -> None:
    """Takes the ballast away."""
    (disk / BALLAST).unlink(missing_ok=True)


def pages_of(folder: Path) -> int:
    """Returns the pages that the files of a folder take."""
    return sum(-(-path.stat().st_size // PAGE) for path in folder.rglob("*") if path.is_file())
