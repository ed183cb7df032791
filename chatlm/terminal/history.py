"""The lines that a user has typed, for the arrow keys of later chats.

In: lines. Out: a file that only its owner may read, in the form of prompt_toolkit's FileHistory.
Several chats may write it at the same time. Where it cannot be read or written, a chat remembers
its own lines and nothing else is lost.
"""

import contextlib
import datetime
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import History

MOST_BYTES = 1 << 20
"""Of the file's end that are read at the start."""
# A link that somebody has put there is not written through, a pipe is not waited for.
_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _SAFE


def history_file() -> Path | None:
    """Returns the file that remembers typed lines, made for its owner only; None if impossible."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        path = Path(state).expanduser() / "chatlm" / "history"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, _APPEND, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return path


class LineHistory(History):
    """Lines of earlier chats and of this one; a line that begins with a space is not written."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        super().__init__()

    def load_history_strings(self) -> Iterable[str]:
        """Yields the lines, newest first."""
        entries: list[list[str]] = [[]]
        for line in self._end_of_file().splitlines():
            if line.startswith("+"):
                entries[-1].append(line[1:])
            else:
                entries.append([])
        return ["\n".join(lines) for lines in reversed(entries) if lines]

    def _end_of_file(self) -> str:
        if self._path is None:
            return ""
        try:
            with self._path.open("rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return ""
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - MOST_BYTES))
                return file.read(MOST_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""

    def store_string(self, string: str) -> None:
        """Adds a line at the end of the file, all of it at once."""
        if self._path is None or string.startswith(" "):
            return
        lines = "".join(f"+{line}\n" for line in string.split("\n"))
        entry = f"\n# {datetime.datetime.now()}\n{lines}".encode("utf-8", "replace")
        with contextlib.suppress(OSError):  # a full disk is no reason to stop talking
            file = os.open(self._path, _APPEND, 0o600)
            try:
                os.write(file, entry)
            finally:
                os.close(file)
