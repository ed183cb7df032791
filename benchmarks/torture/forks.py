"""Processes as forks of this one, in a process group of their own.

In: a function. Out: its processes. A forked process leaves by `os._exit`, so nothing that belongs
to the parent is cleaned up in it; it has what the parent had imported and no thread but its own.
"""

import contextlib
import faulthandler
import os
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

Be = Callable[[int], int]
"""What a rank does: its number in, its exit code out."""

TORCHRUN_GRACE_SECONDS = 30.0


def forked(act: Callable[[], object]) -> None:
    """Runs a function in a forked process and waits for it.

    Raises:
        RuntimeError: it failed.
    """
    sys.stdout.flush()
    pid = os.fork()
    if not pid:

        def be() -> int:
            act()
            return 0

        _leave(be)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("a forked process failed: its traceback stands above")


def _leave(act: Callable[[], int]) -> None:
    """Runs a function and ends this process with what it returns."""
    code = 1
    try:
        code = act()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def fork_ranks(ranks: int, be: Be, group: int = 0) -> tuple[int, list[int]]:
    """Starts the ranks in one process group; returns the group and their processes."""
    pids: list[int] = []
    for rank in range(ranks):
        pid = os.fork()
        if not pid:
            os.setpgid(0, group)
            _heed_signals()
            _leave(lambda rank=rank: be(rank))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, group)
        group = group or pid
        pids.append(pid)
    return group, pids


def _heed_signals() -> None:
    """Undoes what nohup or a shell's `&` may have left us: signals that are ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def fork_launcher(ranks: int, be: Be) -> tuple[int, list[int], int]:
    """Starts a process that starts the ranks, as torchrun's agent does.

    When one of them fails it sends SIGTERM to the others, kills after half a minute those that are
    left, and exits with 1; a signal that it receives goes to all of them.

    Returns:
        The group, the ranks, the launcher.
    """
    reader, writer = os.pipe()
    launcher = os.fork()
    if not launcher:
        os.setpgid(0, 0)
        os.close(reader)
        _leave(lambda: _launch(ranks, be, writer))
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpgid(launcher, launcher)
    os.close(writer)
    packed = b""
    while len(packed) < 4 * ranks and (more := os.read(reader, 4 * ranks)):
        packed += more
    os.close(reader)
    return launcher, list(struct.unpack(f"{ranks}i", packed)), launcher


def _launch(ranks: int, be: Be, writer: int) -> int:
    def be_rank(rank: int) -> int:
        os.close(writer)
        return be(rank)

    _, pids = fork_ranks(ranks, be_rank, os.getpid())

    def forward(number: int, _frame: FrameType | None) -> None:
        _send(pids, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)
    os.write(writer, struct.pack(f"{ranks}i", *pids))
    os.close(writer)
    left, deadline, failed = set(pids), float("inf"), False
    while left:
        for pid in list(left):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                left.discard(pid)
                if os.waitstatus_to_exitcode(status) and not failed:
                    failed, deadline = True, time.monotonic() + TORCHRUN_GRACE_SECONDS
                    _send(left, signal.SIGTERM)
        if time.monotonic() > deadline:
            _send(left, signal.SIGKILL)
        time.sleep(0.02)
    return int(failed)


def _send(pids: Sequence[int] | set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def print_into(path: Path, longest_seconds: float) -> None:
    """Sends what this process prints to a file, and where it stands if it takes too long."""
    log = path.open("a", encoding="utf-8", buffering=1)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    sys.stdout = sys.stderr = log
    faulthandler.dump_traceback_later(longest_seconds, file=log)


def can_fork() -> bool:
    """Tells whether this process has no second thread that could hold a lock while it forks."""
    torch = sys.modules.get("torch")
    return threading.active_count() == 1 and (torch is None or torch.get_num_threads() == 1)
