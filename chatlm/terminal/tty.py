"""What the system does to a chat: Ctrl-C, Ctrl-Z, SIGTERM, keys pressed too early, broken streams.

In: signals and terminal modes. Out: exceptions where they may come, and nothing elsewhere. Knows no
session.
"""

import atexit
import io
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO

from chatlm.errors import ConfigError

CTRL_C_EXIT = 130
HANGUP_EXIT = 129
AT_ONCE_SECONDS = 0.5
"""Two Ctrl-C within this time are one: the second would break into what the first is ending."""


class Interrupts:
    """Ctrl-C as an exception where it is allowed, remembered elsewhere.

    At a prompt Ctrl-C is a key. Pressed anywhere between it is a signal, and would end the chat in
    the middle of whatever that was.
    """

    def __init__(self) -> None:
        self._is_allowed = False
        self._was_pressed = False
        self._raised = -math.inf

    def _press(self, *_: Any) -> None:
        if not self._is_allowed:
            self._was_pressed = True
        elif time.monotonic() - self._raised >= AT_ONCE_SECONDS:
            self._raised = time.monotonic()
            raise KeyboardInterrupt

    def __enter__(self) -> "Interrupts":
        self._previous = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Lets Ctrl-C raise KeyboardInterrupt inside, at once if it was pressed just before."""
        self._is_allowed, self._raised = True, -math.inf
        try:
            if self.take():
                self._raised = time.monotonic()
                raise KeyboardInterrupt
            yield
        finally:
            self._is_allowed = False

    def take(self) -> bool:
        """Tells whether Ctrl-C was pressed since the last time, where it was not allowed."""
        was_pressed, self._was_pressed = self._was_pressed, False
        return was_pressed


@contextmanager
def keys_wait() -> Iterator[None]:
    """Hides keys that are pressed inside; the next prompt gets them.

    Ctrl-Z gives the terminal back as it was, and hides keys again when the chat goes on.
    """
    if sys.platform == "win32" or sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    import termios

    terminal = sys.stdin.fileno()
    usual = termios.tcgetattr(terminal)
    hidden = termios.tcgetattr(terminal)
    hidden[3] &= ~(termios.ECHO | termios.ICANON)

    def suspend(*_: Any) -> None:
        termios.tcsetattr(terminal, termios.TCSANOW, usual)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # here it stands until `fg`
        signal.signal(signal.SIGTSTP, suspend)
        termios.tcsetattr(terminal, termios.TCSANOW, hidden)

    previous = signal.signal(signal.SIGTSTP, suspend)
    termios.tcsetattr(terminal, termios.TCSANOW, hidden)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, previous)
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(terminal, termios.TCSANOW, usual)


def end_on_sigterm() -> Callable[[], None]:
    """Lets SIGTERM end the process with 143, modes of the terminal restored; a second one kills.

    They are restored at the very end too: the signal may come in the moment in which a library has
    changed them and has not yet begun to care for their return.

    Returns:
        What restores them, for an end that is not the interpreter's own.
    """
    usual = _modes()

    def restore() -> None:
        if usual is not None:
            _set_modes(usual)

    def leave(number: int, _frame: Any) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)
        atexit.register(restore)
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    return restore


def _modes() -> list[Any] | None:
    """Returns the modes of the terminal, None where there is none."""
    if sys.platform == "win32" or sys.stdin is None or not sys.stdin.isatty():
        return None
    import termios

    return termios.tcgetattr(sys.stdin.fileno())


def _set_modes(modes: list[Any]) -> None:
    import termios

    with suppress(termios.error, ValueError):  # the terminal is gone, or closed
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSANOW, modes)


@contextmanager
def ctrl_c_ends_at_once() -> Iterator[None]:
    """Lets Ctrl-C end the process with 130 inside, whatever library is just at work."""
    previous = signal.signal(signal.SIGINT, lambda *_: os._exit(CTRL_C_EXIT))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def is_at_keyboard() -> bool:
    """Tells whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def mend_streams() -> None:
    """Makes the standard streams usable: UTF-8 whatever the locale, and none of them missing.

    Raises:
        ConfigError: stdout is closed.
    """
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BytesIO())
    sys.stderr = sys.stderr or io.TextIOWrapper(io.BytesIO())
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.BytesIO())
        raise ConfigError("stdout is closed: there is nowhere to write to")
    use_utf8(sys.stdout, sys.stderr)


def use_utf8(*streams: TextIO) -> None:
    """Makes streams write UTF-8, whatever the locale, and never fail on a character."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="replace")


def give_up(stream: TextIO) -> None:
    """Lets what is left in a broken stream go nowhere, lest Python fails on it at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
