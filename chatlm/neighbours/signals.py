"""A polite end of a run.

    with StopRequest() as stop:              # from the first line of the program
        ...                                  # here a signal ends the program, nothing is lost
        with stop.finishing_steps():         # the loop: here it asks, and the loop answers
            for step in steps:
                train(step)
                if code := agreed_by_all(stop.code):     # the largest of all processes
                    save()
                    stop.exit(code)

In: SIGINT, SIGTERM, SIGHUP, and the death of the launcher. Out: a request that the loop reads at a
step's end (exit codes 130, 143, 129; 75 for the launcher). A second signal ends the process at
once, and the newest checkpoint on disk stays whole. A signal that the process was told to ignore
(`nohup`) stays ignored. It saves nothing, and knows nothing of other ranks.

Python runs its signal handlers between two bytecodes of the main thread only. A main thread that
waits in a collective, or writes a file, does not come to the next one for long; so signals are read
by a thread, from the file descriptor that the interpreter writes each of them to.
"""

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn

from chatlm import log
from chatlm.errors import NeighbourError
from chatlm.neighbours.launcher import Launcher

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAUNCHER_GRACE_SECONDS = 4.0
"""What is left of a process after its launcher's death was noticed."""
UNWINDING_SECONDS = 3.0
"""How long the main thread may take to end where there is nothing to save."""
SAME_SECONDS = 0.5
"""Under a launcher a signal that comes twice within this time is one: both sides got it, and the
launcher passed it on (systemd and batch systems signal every process of a job)."""
TWIN_SECONDS = 0.1
"""Without one it is shorter, but not nothing: `timeout` signals the program, then its group."""
_LOOK_SECONDS = 0.25
_SHOW_CURSOR = b"\x1b[?25h"


def end_now(code: int, message: str = "") -> NoReturn:
    """Ends the process at once, from any thread, whatever the others are doing."""
    text = f"error: {message}\n".encode() if message else b""
    if os.isatty(2):
        text = _SHOW_CURSOR + text  # a progress bar may have hidden it
    try:
        os.write(2, text)
    finally:
        os._exit(code)


class StopRequest:
    """Knows whether somebody asked the run to stop; a context manager that restores handlers.

    Attributes:
        code: 0, or the exit code of a run that was asked to stop.
    """

    _current: "StopRequest | None" = None

    def __init__(self) -> None:
        self.code = 0
        self._launcher = Launcher()
        self._before: dict[int, Any] = {}
        self._asks_only = False
        self._first = 0.0
        self._deadline: tuple[float, int] | None = None
        self._own_signals = 0
        self._ended = False

    def __enter__(self) -> "StopRequest":
        self._main = threading.get_ident()
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        self._thread = threading.Thread(target=self._watch, name="stop-request", daemon=True)
        # A notebook may run a training in another thread, which gets no signals.
        if threading.current_thread() is threading.main_thread():
            self._fd_before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._interrupt)
        StopRequest._current = self
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        if self._deadline and self._before:
            # The interpreter's own end has no more time either: the kernel sees to it.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            left = self._deadline[0] - time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, max(0.05, left))
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._fd_before)
        StopRequest._current = None
        self._write.send(b"\0")
        self._thread.join()
        self._read.close()
        self._write.close()

    @contextmanager
    def finishing_steps(self) -> Iterator[None]:
        """Within it a request only sets `code`: the caller finishes its step, saves and exits.

        Raises:
            SystemExit: somebody asked before it began, or after the caller last looked.
        """
        self._asks_only = True
        try:
            if not self.code:
                yield
            if self.code:
                self.exit(self.code)
        finally:
            self._asks_only = False

    def exit(self, code: int) -> NoReturn:
        """Ends the run that was asked to stop, by an exception.

        Args:
            code: what the processes agreed upon.

        Raises:
            NeighbourError: the launcher died.
            SystemExit: any other request.
        """
        if code == NeighbourError.exit_code:
            raise NeighbourError("the launcher died and the run has stopped: use resume=True")
        sys.exit(code)

    # ---- the main thread --------------------------------------------------------------------

    def _interrupt(self, number: int, _frame: FrameType | None) -> None:
        """Is the handler: it runs in the main thread, when that comes to its next bytecode."""
        if not self._asks_only and not self._ended:
            sys.exit(self.code or 128 + number)

    # ---- the thread -------------------------------------------------------------------------

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        while not self._ended:
            ready = poll.poll(1000 * _LOOK_SECONDS)
            for number in self._read.recv(64) if ready else b"":
                if number in SIGNALS:
                    self._receive(number)
            if self._launcher.is_dead() and not self._deadline:
                self._lose_launcher()
            if self._deadline and time.monotonic() > self._deadline[0] and not self._ended:
                end_now(self._deadline[1])

    def _receive(self, number: int) -> None:
        now = time.monotonic()
        if self._own_signals:
            self._own_signals -= 1
            return
        if self.code:
            same = TWIN_SECONDS if self._launcher.pid is None else SAME_SECONDS
            if now - self._first > same:
                end_now(128 + number)
            return
        self._first = now
        self.code = 128 + number
        name = signal.Signals(number).name
        if self._asks_only:
            log.info(f"{name}: finishing the step and saving; a second signal ends the run at once")
        else:
            log.info(f"{name}: there is nothing to save, the run ends")
            self._deadline = (now + UNWINDING_SECONDS, self.code)

    def _lose_launcher(self) -> None:
        if self.code and not self._launcher.waits_for_workers:
            return  # the signal that asked for the end ended the launcher too
        self.code = self.code or NeighbourError.exit_code
        pid = self._launcher.pid
        end = "finishing the step and saving" if self._asks_only else "there is nothing to save"
        os.write(2, f"error: the launcher (pid {pid}) died: {end}, at most 5 s\n".encode())
        self._deadline = (time.monotonic() + LAUNCHER_GRACE_SECONDS, self.code)
        if not self._asks_only and self._before:
            # Its handler raises in the main thread, and what the system is doing for it ends.
            self._own_signals += 1
            signal.pthread_kill(self._main, next(iter(self._before)))


def _forget_in_child() -> None:
    """Leaves a forked process without the handlers and the descriptor of its parent."""
    current = StopRequest._current
    if current is not None:
        signal.set_wakeup_fd(-1)
        for number, handler in current._before.items():
            signal.signal(number, handler)
        StopRequest._current = None


os.register_at_fork(after_in_child=_forget_in_child)
