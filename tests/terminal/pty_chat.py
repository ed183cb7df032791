"""A chat at the other end of a pseudo-terminal, and the screen that it draws."""

import codecs
import errno
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Sequence

import pyte
from scripted_chat import DEADLINE_SECONDS, PROGRAM


class Terminal:
    """A program, by default a chat, with this as its terminal.

    Attributes:
        pid: of the program. seen: all that it wrote. screen: what a person sees of that.
    """

    def __init__(
        self,
        environment: dict[str, str],
        *arguments: str,
        program: Sequence[str] = PROGRAM,
        columns: int = 80,
        ignores_hangup: bool = False,
    ) -> None:
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            if ignores_hangup:
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.execve(program[0], [*program, *arguments], environment)
        self.seen = ""
        self.screen = pyte.Screen(columns, 24)
        self._stream = pyte.Stream(self.screen)
        self._unread = ""
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self.resize(columns)

    def resize(self, columns: int) -> None:
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, size)
        self.screen.resize(24, columns)

    def wait_for(self, text: str, key: str = "") -> str:
        """Reads on until the program has written `text`, pressing `key` until then.

        A dumb terminal shows the prompt a moment before it reads keys; one pressed then is lost.
        Returns what came before.
        """
        self.type(key)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text not in self._unread:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self._unread!r}"
            assert self._read(when_quiet=key), f"the chat ended before {text!r}: {self._unread!r}"
        before, _, self._unread = self._unread.partition(text)
        return before

    def _read(self, when_quiet: str = "") -> bool:
        """Reads what there is; False at the end."""
        if not select.select([self._descriptor], [], [], 1.0)[0]:
            self.type(when_quiet)
            return True
        try:
            data = os.read(self._descriptor, 4096)
        except OSError as error:  # Linux reports the end of a pseudo-terminal as an error
            if error.errno != errno.EIO:
                raise
            return False
        text = self._utf8.decode(data)
        self._stream.feed(text)
        text = text.replace("\r\n", "\n")
        self._unread += text
        self.seen += text
        return True

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    @property
    def picture(self) -> list[str]:
        """The lines of the screen, without the empty ones at its end."""
        lines = [line.rstrip() for line in self.screen.display]
        return "\n".join(lines).rstrip().split("\n")

    @property
    def echoes(self) -> bool:
        """Whether the terminal shows keys by itself, as it does when no program is at work."""
        modes: int = termios.tcgetattr(self._descriptor)[3]
        return bool(modes & termios.ECHO) and bool(modes & termios.ICANON)

    def exit_code(self, key: str = "") -> int:
        """Waits for the end, pressing `key` until it comes."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        self.type(key)
        while self._read(when_quiet=key):
            assert time.monotonic() < deadline, "the chat did not end"
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def hang_up(self) -> int:
        """Closes the terminal; returns the exit code."""
        os.close(self._descriptor)
        self._descriptor = -1
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        raise AssertionError("the chat goes on without a terminal")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


SHELL = ["/bin/bash", "--norc", "-i"]
