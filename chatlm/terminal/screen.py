"""Where a chat's words go, and in which colour.

In: text. Out: characters on stdout and stderr. An answer is written once, from left to right; the
terminal wraps it. So a resize, a wide character at the edge or an emoji in two parts cannot damage
it, and it is copied as one line.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.text import Text

from chatlm.errors import ChatLMError, StorageError
from chatlm.sanitize import sanitize
from chatlm.terminal.tty import HANGUP_EXIT, give_up


class Screen:
    """Shows text; `is_plain` (a pipe) means diagnostics on stderr and not one control code.

    Attributes:
        is_plain: as above.
        streams: whether an answer is shown while it comes.
    """

    def __init__(self, out: TextIO, err: TextIO, *, is_plain: bool, streams: bool = True) -> None:
        self.is_plain = is_plain
        self.streams = streams
        self._out = out
        self._side = err if is_plain else out
        bare = is_plain or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        self._console = Console(
            file=self._side,
            color_system=None if bare else "standard",
            force_terminal=not is_plain,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
            legacy_windows=False,
        )

    def write(self, text: str) -> None:
        """Writes part of an answer at once.

        Raises:
            StorageError: it cannot be written.
        """
        with _written_to(self._out):
            self._out.write(text)
            self._out.flush()

    def line(self, text: str, style: str = "dim") -> None:
        """Writes a line about the chat."""
        with _written_to(self._side):
            self._console.print(Text(sanitize(text), style=style))

    def error(self, error: ChatLMError | str) -> None:
        """Writes a mistake, which does not end the chat."""
        self.line(f"error: {error}", style="red")

    def clear(self) -> None:
        """Empties the screen, where there is one."""
        if not self.is_plain:
            with _written_to(self._side):
                self._console.clear()


@contextmanager
def _written_to(stream: TextIO) -> Iterator[None]:
    """Turns what goes wrong with a stream into the end that fits it; `cli.run` has broken pipes."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up(stream)
        if error.errno == errno.EIO:  # the terminal is gone
            raise SystemExit(HANGUP_EXIT) from None
        raise StorageError(f"cannot write the answer: {error.strerror}") from error
