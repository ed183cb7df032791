"""The process in which a server's model runs: `python -m chatlm.inference.worker`.

In: messages on stdin. Out: messages on what was stdout. It opens the model, says hello, answers
until stdin ends, and then ends at once, whatever it does: that is how it follows a server that was
killed. It ignores the signals that a terminal or an init system sends to all processes of a
service, because the server lets running answers finish. Writes no text of anybody to its log.
"""

import ctypes
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from chatlm.errors import ChatLMError, ConfigError
from chatlm.inference import wire
from chatlm.inference.engine import Engine, Event, Ticket
from chatlm.inference.open import open_engine

_PR_SET_PDEATHSIG = 1


class Worker:
    """One engine and the two streams."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._outbox: queue.SimpleQueue[wire.Message] = queue.SimpleQueue()
        self._tickets: dict[int, Ticket] = {}
        self._ended: set[int] = set()
        self._lock = threading.Lock()
        self._has_engine = threading.Event()
        self._engine: Engine

    def run(self, make_engine: Callable[[], Engine]) -> int:
        """Opens the engine and answers until the server is gone; returns the exit code.

        Args:
            make_engine: opens the model; what it cannot open is told to the server.
        """
        threading.Thread(target=self._read, name="from the server", daemon=True).start()
        try:
            self._engine = make_engine()
        except ChatLMError as error:
            self._send(["unable", error.exit_code, str(error)])
            return error.exit_code
        self._send(["hello", self._engine.kind, self._engine.max_streams])
        self._has_engine.set()
        while True:  # until `_read` ends the process
            self._send(self._outbox.get())

    def _send(self, message: wire.Message) -> None:
        """Writes a message, and those that wait behind it."""
        frames = [wire.framed(message)]
        while not self._outbox.empty():
            frames.append(wire.framed(self._outbox.get()))
        try:
            self._outgoing.write(b"".join(frames))
            self._outgoing.flush()
        except BrokenPipeError:
            os._exit(0)

    def _read(self) -> None:
        try:
            while (message := wire.read(self._incoming)) is not None:
                self._has_engine.wait()
                self._obey(message)
        except BaseException as error:  # a defect: shown, and the server starts another process
            sys.excepthook(type(error), error, error.__traceback__)
            os._exit(1)
        os._exit(0)

    def _obey(self, message: wire.Message) -> None:
        kind, number = message[0], message[1]
        if kind == "start":
            self._start(number, message)
        elif kind == "cancel":
            with self._lock:
                ticket = self._tickets.get(number)
            if ticket is not None:
                ticket.cancel()
        else:
            raise ValueError(f"a message of unknown kind {kind!r}")

    def _start(self, number: int, message: wire.Message) -> None:
        try:
            request = wire.request_of(message)
            self._engine.check(request.config)
        except ConfigError as error:
            self._outbox.put(["refused", number, str(error)])
            return
        self._outbox.put(["accepted", number])

        def on_event(event: Event) -> None:
            message = wire.event_message(number, event)
            if message[0] != "tokens":
                self._forget(number)
            self._outbox.put(message)

        ticket = self._engine.start(request, on_event)
        with self._lock:
            if number in self._ended:  # it ended before it was written down
                self._ended.discard(number)
            else:
                self._tickets[number] = ticket

    def _forget(self, number: int) -> None:
        with self._lock:
            if self._tickets.pop(number, None) is None:
                self._ended.add(number)


def run(make_engine: Callable[[], Engine]) -> int:
    """Is the whole program: takes the streams over and serves the engine; returns the exit code."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    _follow_parent()
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # a library that prints must not write between the messages
    return Worker(incoming, outgoing).run(make_engine)


def _follow_parent() -> None:
    """Lets Linux end this process when the server ends, even if it hangs in native code."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(argv: Sequence[str]) -> int:
    """Opens what argv names, the arguments of `open_engine`; returns the exit code."""
    folder, device, threads = argv
    return run(lambda: open_engine(Path(folder), device, threads=int(threads)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
