"""The peak memory of a process, for tests that bound it."""

from pathlib import Path


def peak_kib() -> int:
    """Returns the largest resident memory of this process so far, in KiB.

    Not `ru_maxrss`: a process that was just started inherits that figure from its parent.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
