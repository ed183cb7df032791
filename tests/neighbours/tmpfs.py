"""A small file system in memory, to be filled up or made read-only, where mounting is allowed."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _mount(*words: str | Path) -> bool:
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode == 0


@contextmanager
def mounted(folder: Path, num_bytes: int) -> Iterator[Path]:
    """Gives a file system of so many bytes under `folder`; skips the test where it cannot."""
    folder.mkdir(parents=True)
    if not _mount("-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", folder):
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def make_read_only(folder: Path) -> None:
    """Lets nobody write there any more, not even root."""
    assert _mount("-o", "remount,ro", folder)
