"""One trainer a run folder.

    with Lock(run) as lock:      # by the main process, before anything is read or written there
        ...
        lock.check()             # before a save: the folder is still the one that was locked

In: a folder. Out: an exclusive lock on its file `.lock`, which says who holds it. The kernel frees
it when the process ends, however it ends, so nobody ever has to delete the file. It chooses no
folder; `chatlm.run_folder` does.
"""

import contextlib
import fcntl
import os
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

import ujson

from chatlm import log
from chatlm.errors import ConfigError, StorageError
from chatlm.neighbours.processes import Process, this_process

LOCK = ".lock"
_MODE = 0o644
_LONGEST = 4096
_PATIENCE_SECONDS = 2.0
_PAUSE_SECONDS = 0.05


class Lock:
    """The lock on a run folder, held from `__init__` until `release` or the end of the process.

    A folder that does not exist is made, with its parents.

    Args:
        run: the folder.
        fresh: the folder must not exist yet.

    Raises:
        FileExistsError: it is to be fresh and exists.
        ConfigError: another trainer holds it.
        StorageError: it cannot be made or written.
    """

    def __init__(self, run: Path, *, fresh: bool = False) -> None:
        self.run = run
        self._made: list[Path] = []
        self._descriptor = -1
        try:
            self._made = _make(run, fresh=fresh)
            self._descriptor = self._locked()
            _held.add(self)
            self._sign()
        except FileExistsError:
            if fresh:
                raise
            raise StorageError(f"{run} is no folder: name another out=") from None
        except OSError as error:
            self.release()
            raise StorageError(
                f"cannot write the run folder {run} ({error.strerror}): name another out=, or make "
                "that place writable"
            ) from error

    def _locked(self) -> int:
        """Returns the descriptor of the locked file; it is the file that has the name."""
        path = self.run / LOCK
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        holder, given_up = "", time.monotonic() + _PATIENCE_SECONDS
        while not holder:
            try:
                descriptor = os.open(path, flags, _MODE)
            except FileNotFoundError:  # whoever had made the folder has just removed it
                self._made = _make(self.run, fresh=False)
                continue
            if _is_free(descriptor) and _is_file_of(descriptor, path):
                return descriptor
            holder = _holder(descriptor)
            os.close(descriptor)
            if not holder and time.monotonic() > given_up:
                holder = "it has not said who it is"
            time.sleep(_PAUSE_SECONDS)
        raise _in_use(self.run, holder)

    def _sign(self) -> None:
        record = asdict(this_process()) | {"since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, ujson.dumps(record).encode() + b"\n", 0)
        os.fsync(self._descriptor)

    def check(self) -> None:
        """Makes sure that the folder is still the one that was locked.

        Raises:
            StorageError: it was deleted, moved away or replaced.
        """
        if not _is_file_of(self._descriptor, self.run / LOCK):
            raise StorageError(
                f"the run folder {self.run} was deleted or replaced while the training ran: bring "
                "it back and go on with resume=True, or start anew"
            )

    def release(self) -> None:
        """Gives the folder free; one that was made for this lock and got nothing else is removed.

        The file stays in any other: deleting it is how two trainers come to hold two locks.
        """
        if self._made and self._is_ours():
            with contextlib.suppress(OSError):
                if [path.name for path in self.run.iterdir()] in ([], [LOCK]):
                    (self.run / LOCK).unlink(missing_ok=True)
                    for folder in self._made:
                        folder.rmdir()
        if self in _held:
            _held.remove(self)
            os.close(self._descriptor)

    def _is_ours(self) -> bool:
        return self._descriptor < 0 or _is_file_of(self._descriptor, self.run / LOCK)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def refuse_if_held(run: Path) -> None:
    """Makes sure that no trainer holds a folder at this moment, without taking or making it.

    Raises:
        ConfigError: another trainer holds it.
    """
    try:
        descriptor = os.open(run / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not _is_free(descriptor) and (holder := _holder(descriptor)):
            raise _in_use(run, holder)
    finally:
        os.close(descriptor)


def _in_use(run: Path, holder: str) -> ConfigError:
    return ConfigError(
        f"{run} is in use by another training ({holder}): wait for it or stop it, or name another "
        "out="
    )


def _make(run: Path, *, fresh: bool) -> list[Path]:
    """Makes a folder and its parents; returns those that did not exist, the innermost first."""
    made: list[Path] = []
    missing = [folder for folder in (run, *run.parents) if not folder.exists()]
    for folder in reversed(missing):
        try:
            folder.mkdir()
        except FileExistsError:
            if folder == run and (fresh or not folder.is_dir()):
                raise
            continue
        made.insert(0, folder)
    if fresh and not missing:
        raise FileExistsError(run)
    if not run.is_dir():
        raise FileExistsError(run)
    return made


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat(follow_symlinks=False)
    except OSError:
        return False
    here = os.fstat(descriptor)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _is_free(descriptor: int) -> bool:
    """Takes the lock and says so, unless somebody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning(
            f"the run folder is on a file system without locks ({error.strerror}): see to it "
            "yourself that no second training uses it"
        )
    return True


def _holder(descriptor: int) -> str:
    """Returns who holds a lock; "" if the file still names one that has ended, or nobody."""
    try:
        record = ujson.loads(os.pread(descriptor, _LONGEST, 0))
        since = record.pop("since")
        holder = Process(**record)
    except (ValueError, KeyError, TypeError):
        return ""
    return "" if holder.is_gone() else f"{holder}, since {since}"


def _close_in_child() -> None:
    """Leaves the lock to the process that took it: a child could outlive it and keep it."""
    for lock in _held:
        os.close(lock._descriptor)
    _held.clear()


_held: set[Lock] = set()
os.register_at_fork(after_in_child=_close_in_child)
