"""Small programs that tests start as processes of their own, and what they say."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONGEST_SECONDS = 60
LAUNCHERS_SAY = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION", "CROSS_RANK")


def begin(
    script: str, *words: object, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Starts a Python program; `prefix` is a command that starts it (nohup)."""
    inherited = {key: value for key, value in os.environ.items() if key not in LAUNCHERS_SAY}
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", script, *map(str, words)],
        cwd=ROOT,
        env=inherited | dict(env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    """Returns the next line of a program's stdout."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end_of(process: subprocess.Popen[str]) -> tuple[int, str, float]:
    """Returns a program's exit code, what it wrote to stderr, and how long it still took."""
    started = time.monotonic()
    _, errors = process.communicate(timeout=LONGEST_SECONDS)
    return process.returncode, errors, time.monotonic() - started


def has_ended(pid: int, seconds: float) -> bool:
    """Says whether a process that is not a child of this one ends within some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def kill(pid: int) -> None:
    """Ends a process if it is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
