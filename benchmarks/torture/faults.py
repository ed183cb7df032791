"""What is injected into a training before it starts: deaths and failures at file operations.

In: a run folder, a number. Out: functions of a rank that `Workbench.start(inject=...)` runs in the
forked process. Nothing of this is in the trainer's own code: Python's audit events name every
file that is opened for writing, renamed, made or removed, and `os.fsync`, which has no event, is
wrapped. Operations inside a save and those on the logs are told apart by their path.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Inject = Callable[[int], None]
Each = Callable[[int, str, str], None]
"""Called before operation number n (from 1): n, its name, its path inside the run folder."""

LOGS = ("metrics.jsonl", "samples.jsonl", "ledger.jsonl", "config.yaml", "loss.png", ".lock")
_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def is_of_a_save(path: str) -> bool:
    """Tells whether a path inside a run folder belongs to a checkpoint, not to the logs."""
    return bool(path) and not any(part.endswith(LOGS) for part in Path(path).parts)


def watch(run: Path, each: Each, chosen: Callable[[str], bool] = is_of_a_save) -> None:
    """Calls `each` before every file operation under `run` of this process, from now on.

    Args:
        run: the run folder; it need not exist yet.
        each: what is told; an exception that it raises is raised by the operation.
        chosen: which paths inside the run folder count.
    """
    counted = 0

    def note(name: str, path: Any) -> None:
        nonlocal counted
        inside = _inside(run, path)
        if inside is not None and chosen(inside):
            counted += 1
            each(counted, name, inside)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if arguments[2] & _WRITING:
                note("open", arguments[0])
        elif event in _CHANGES:
            note(event, arguments[0])

    fsync = os.fsync

    def noted_fsync(file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        note("fsync", Path(f"/proc/self/fd/{number}").readlink())
        fsync(file)

    os.fsync = noted_fsync
    sys.addaudithook(hook)


def _inside(run: Path, path: Any) -> str | None:
    if not isinstance(path, str | bytes | os.PathLike):
        return None
    text = os.fsdecode(path)
    whole = text if os.path.isabs(text) else os.path.abspath(text)  # noqa: PTH117, PTH100
    return os.path.relpath(whole, run) if whole.startswith(f"{run}{os.sep}") else None


def record(run: Path, log: Path, chosen: Callable[[str], bool] = is_of_a_save) -> Inject:
    """Writes every operation of rank 0 as a line `number name path` into `log`."""

    def inject(rank: int) -> None:
        if rank:
            return
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        line = "{} {} {}\n"
        watch(run, lambda *what: _write(descriptor, line.format(*what)), chosen)

    return inject


def _write(descriptor: int, text: str) -> None:
    os.write(descriptor, text.encode())


def die_at(
    run: Path,
    number: int,
    *,
    rank: int = 0,
    chosen: Callable[[str], bool] = is_of_a_save,
    number_of_signal: int = signal.SIGKILL,
) -> Inject:
    """Kills the process of `rank` just before its file operation `number` (from 1)."""

    def act(count: int, _name: str, _path: str) -> None:
        if count == number:
            os.kill(os.getpid(), number_of_signal)

    return _on(rank, lambda: watch(run, act, chosen))


def tell_at(
    run: Path,
    number: int,
    descriptor: int,
    *,
    rank: int = 0,
    chosen: Callable[[str], bool] = is_of_a_save,
) -> Inject:
    """Writes a byte into `descriptor` before operation `number`, and goes on.

    With `os.pipe()` the harness learns that a save is at that place and can act while it runs:
    `Victim.wait_for(reader)`, then `Victim.kill()`.
    """

    def act(count: int, _name: str, _path: str) -> None:
        if count == number:
            os.write(descriptor, b".")

    return _on(rank, lambda: watch(run, act, chosen))


def fail_at(
    run: Path,
    number: int,
    error: OSError,
    *,
    rank: int = 0,
    chosen: Callable[[str], bool] = is_of_a_save,
) -> Inject:
    """Makes operation `number` raise an error, such as `OSError(errno.ENOSPC, ...)`."""

    def act(count: int, _name: str, _path: str) -> None:
        if count == number:
            raise error

    return _on(rank, lambda: watch(run, act, chosen))


def _on(rank: int, act: Callable[[], None]) -> Inject:
    def inject(here: int) -> None:
        if here == rank:
            act()

    return inject


def together(injects: Sequence[Inject]) -> Inject:
    """Injects several faults, in their order."""

    def inject(rank: int) -> None:
        for one in injects:
            one(rank)

    return inject
