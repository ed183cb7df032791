"""Which process is meant, on which machine.

In: process ids. Out: `Process`, a process that is not taken for another one that gets its id later,
nor for one of another machine or container. It starts and ends nothing but what `kill` is told to.
"""

import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_START_FIELD = 19
"""Where /proc/<pid>/stat says when a process started, counted behind its name."""


@dataclass(frozen=True)
class Process:
    """One process. `machine` and `started` are "" where the system does not tell them."""

    pid: int
    host: str
    machine: str
    started: str

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"

    def is_here(self) -> bool:
        """Says whether the process is of this machine, and its id means the same here."""
        return bool(self.machine) and self.machine == _machine()

    def is_gone(self) -> bool:
        """Says whether the process is of this machine and has ended, reaped or not."""
        return self.is_here() and bool(self.started) and not self._lives()

    def _lives(self) -> bool:
        state, started = _status(self.pid)
        return started == self.started and state != "Z"

    def kill(self) -> bool:
        """Ends the process at once if it is of this machine; also one that is stopped."""
        if not self.is_here() or not self.started or not self._lives():
            return False
        try:
            os.kill(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def this_process() -> Process:
    """Returns the process that calls."""
    return Process(os.getpid(), socket.gethostname(), _machine(), _status(os.getpid())[1])


def _machine() -> str:
    """Returns a name that no other machine and no other container has; "" if there is none."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 (it points nowhere)
    except OSError:
        return ""


def _status(pid: int) -> tuple[str, str]:
    """Returns a process's state (Z: ended, not reaped) and when it started; "" if not known."""
    try:
        line = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return "", ""
    # The name of a program may hold anything, brackets and spaces too; what follows may not.
    fields = line.rpartition(")")[2].split()
    return fields[0], fields[_START_FIELD]
