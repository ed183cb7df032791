"""The processes of one start of a training: waiting for them, killing them, counting what is left.

In: process numbers that `forks` returned. Out: `Victim`. Waiting sleeps in the kernel (pidfd).
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.torture.outcome import Outcome, read_outcome

LONGEST_SECONDS = 120


class Victim:
    """One start of a training: its processes, until `outcome`."""

    def __init__(
        self, run: Path, group: int, ranks: list[int], launcher: int, files: list[Path], told: int
    ) -> None:
        self.run, self.group, self.launcher = run, group, launcher
        self.ranks, self._files, self._told = ranks, files, told
        self.started = time.monotonic()
        self.seconds = self.cpu_seconds = 0.0
        self.hung = False
        self._codes: dict[int, int] = {}

    def _own(self) -> list[int]:
        """The processes that are children of this one."""
        return [self.launcher] if self.launcher else self.ranks

    def wait(self, seconds: float = LONGEST_SECONDS) -> bool:
        """Waits until all processes have ended, at most so long; says whether they have."""
        deadline = time.monotonic() + seconds
        for pid in self._own():
            if pid in self._codes:
                continue
            with _watched(pid) as descriptor:
                left = max(0.0, deadline - time.monotonic())
                if not select.select([descriptor], [], [], left)[0]:
                    return False
            self._reap(pid)
        while self.alive():  # of a launcher, or helpers of the ranks
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)
        self.seconds = self.seconds or time.monotonic() - self.started
        return True

    def wait_rank(self, rank: int, seconds: float) -> bool:
        """Waits for one rank, at most so long; says whether it has ended."""
        with contextlib.suppress(ProcessLookupError), _watched(self.ranks[rank]) as descriptor:
            return bool(select.select([descriptor], [], [], seconds)[0])
        return True  # it was reaped before

    def code(self, rank: int) -> int | None:
        """Returns the exit code of a rank without a launcher, None if it has not ended."""
        pid = self.ranks[rank]
        if pid not in self._codes and self.wait_rank(rank, 0):
            self._reap(pid)
        return self._codes.get(pid)

    def wait_for_operation(self, seconds: float = LONGEST_SECONDS) -> bool:
        """Waits until the training says that it is at operation `stop_at`, or has ended."""
        return bool(select.select([self._told], [], [], seconds)[0] and os.read(self._told, 1))

    def _reap(self, pid: int) -> None:
        _, status, used = os.wait4(pid, 0)
        self.cpu_seconds += used.ru_utime + used.ru_stime
        self._codes[pid] = os.waitstatus_to_exitcode(status)

    def kill(self, number: int = signal.SIGKILL, rank: int | None = None) -> None:
        """Sends a signal to one rank, or to all processes (the launcher too)."""
        with contextlib.suppress(ProcessLookupError):
            if rank is None:
                os.killpg(self.group, number)
            else:
                os.kill(self.ranks[rank], number)

    def kill_launcher(self, number: int = signal.SIGKILL) -> None:
        """Sends a signal to the launcher alone."""
        os.kill(self.launcher, number)

    def alive(self) -> list[int]:
        """Returns the processes of this training that run or are stopped."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[2]) == self.group and fields[0] not in "ZX":
                        found.append(int(entry.name))
        return sorted(found)

    def outcome(self, seconds: float = LONGEST_SECONDS) -> Outcome:
        """Waits for the end, at most so long, ends what is left, and returns what it came to."""
        self.hung = not self.wait(seconds)
        orphans = self.end()
        codes = [self._codes[pid] for pid in self._own()]
        outcome = read_outcome(self.run, codes, self._files)
        outcome.seconds, outcome.cpu_seconds = self.seconds, self.cpu_seconds
        outcome.hung, outcome.orphans = self.hung, orphans
        return outcome

    def end(self) -> list[int]:
        """Kills what is left and returns the processes that had to be killed."""
        left = self.alive()
        self.kill(signal.SIGCONT)
        self.kill()
        for pid in self._own():
            if pid not in self._codes:
                self._reap(pid)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-self.group, 0):  # orphans that became ours
                pass
        if self._told >= 0:
            os.close(self._told)
            self._told = -1
        return left


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
