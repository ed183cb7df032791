"""Things made ahead in a thread, by one who may be slow, fail, or never answer.

In: a function and what to call it with. Out: its results in order. The thread is a daemon: one that
hangs in a file system that has gone away must not keep the process from ending. It does not know
what it makes.
"""

import queue
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from chatlm import log
from chatlm.errors import ChatLMError, NeighbourError, StorageError

Key = TypeVar("Key")
Value = TypeVar("Value")

PATIENCE_SECONDS = 5.0
"""Until it is said what is waited for."""
LONGEST_SECONDS = 45.0
"""Until the wait is given up: less than the processes of a run wait for one that hangs."""
_GLANCE_SECONDS = 1.0


@dataclass(frozen=True)
class _Made(Generic[Value]):
    value: Value


@dataclass(frozen=True)
class _Failed:
    error: Exception


@dataclass(frozen=True)
class _End:
    pass


_Result: TypeAlias = _Made[Value] | _Failed | _End


class Ahead(Generic[Key, Value]):
    """Yields make(key) for each key; up to `ahead` of them are made before they are asked for.

    Args:
        make: called in the thread, one call at a time.
        keys: in this order.
        ahead: at least 1.
        source: what `make` reads, for messages.
        name: returns what the result of a key is called in messages.
        patience_seconds: until it is said what is waited for.
        longest_seconds: until the wait is given up.
    """

    def __init__(
        self,
        make: Callable[[Key], Value],
        keys: Iterable[Key],
        *,
        ahead: int,
        source: str,
        name: Callable[[Key], str] = "step {}".format,
        patience_seconds: float = PATIENCE_SECONDS,
        longest_seconds: float = LONGEST_SECONDS,
    ) -> None:
        self._make, self._keys = make, iter(keys)
        self._source, self._name = source, name
        self._patience, self._longest = patience_seconds, longest_seconds
        self._results: queue.Queue[_Result[Value]] = queue.Queue(ahead)
        self._closed = threading.Event()
        self._making = ""

    def __iter__(self) -> Generator[Value, None, None]:
        """Yields the results.

        Raises:
            StorageError: what `make` reads cannot be read.
            NeighbourError: it does not answer.
        """
        thread = threading.Thread(target=self._work, name="loader", daemon=True)
        thread.start()
        try:
            while True:
                result = self._next(thread)
                if isinstance(result, _Failed):
                    raise _told(result.error, self._what()) from result.error
                if isinstance(result, _End):
                    return
                yield result.value
        finally:
            self._closed.set()

    def _work(self) -> None:
        for key in self._keys:
            self._making = self._name(key)
            try:
                result = _Made(self._make(key))
            except Exception as error:
                self._put(_Failed(error))
                return
            if not self._put(result):
                return
        self._put(_End())

    def _put(self, result: "_Result[Value]") -> bool:
        """Hands a result over; returns False if nobody wants it any more."""
        while not self._closed.is_set():
            try:
                self._results.put(result, timeout=_GLANCE_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def _next(self, thread: threading.Thread) -> "_Result[Value]":
        started, warned = time.monotonic(), False
        while True:
            # Looked at before the queue: what the thread put last is found, then.
            was_alive = thread.is_alive()
            try:
                return self._results.get(timeout=_GLANCE_SECONDS if was_alive else 0)
            except queue.Empty:
                waited = time.monotonic() - started
            if not was_alive:
                raise NeighbourError(
                    f"the loader's thread ended at {self._what()}: start again with resume=True"
                )
            if waited >= self._longest:
                raise NeighbourError(
                    f"{self._source} did not answer for {waited:.0f} s ({self._making}): is its "
                    "disk or network file system there? then start again with resume=True"
                )
            if waited >= self._patience and not warned:
                warned = True
                log.of_this_process(
                    f"waiting for {self._what()} for {waited:.0f} s; giving up after "
                    f"{self._longest:.0f} s"
                )

    def _what(self) -> str:
        return f"{self._making} of {self._source}"


def _told(error: Exception, what: str) -> Exception:
    """Returns the error as one line where a user can mend it."""
    if isinstance(error, ChatLMError | MemoryError):
        return error
    if isinstance(error, OSError):
        return StorageError(
            f"cannot read {what}: {error}; mend the disk or its connection, then go on with "
            "resume=True"
        )
    place = traceback.extract_tb(error.__traceback__)[-1]
    return NeighbourError(
        f"cannot make {what}: {type(error).__name__}: {' '.join(str(error).split())} "
        f"({place.filename}:{place.lineno}); start again with resume=True"
    )
