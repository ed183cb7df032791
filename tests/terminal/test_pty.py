"""A chat at a pseudo-terminal: what a person sees, and what Ctrl-C and Ctrl-D do."""

import codecs
import errno
import os
import pty
import select
import stat
import sys
import time
from pathlib import Path

import pytest
from scripted_chat import DEADLINE_SECONDS, GREETING, PROGRAM, environment

from chatlm.terminal import HINT


class Terminal:
    """A chat at the other end of a pseudo-terminal."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [*PROGRAM, *arguments], environment)
        self.seen = ""
        self._unread = ""
        self._utf8 = codecs.getincrementaldecoder("utf-8")()

    def wait_for(self, text: str, key: str = "") -> None:
        """Reads on until the screen shows `text`, pressing `key` until then.

        A dumb terminal shows the prompt a moment before it reads keys; one pressed then is lost.
        """
        self.type(key)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text not in self._unread:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self._unread!r}"
            assert self._read(when_quiet=key), f"the chat ended before {text!r}: {self._unread!r}"
        self._unread = self._unread.partition(text)[2]

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
        text = self._utf8.decode(data).replace("\r\n", "\n")
        self._unread += text
        self.seen += text
        return True

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def exit_code(self, key: str = "") -> int:
        """Waits for the end, pressing `key` until it comes."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        self.type(key)
        while self._read(when_quiet=key):
            assert time.monotonic() < deadline, "the chat did not end"
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def terminal(tmp_path: Path):
    opened: list[Terminal] = []

    def start(*arguments: str, **changes: str) -> Terminal:
        opened.append(Terminal(environment(tmp_path, **changes), *arguments))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_a_chat_at_a_terminal(terminal, tmp_path: Path) -> None:
    chat = terminal()
    chat.wait_for(GREETING)
    chat.wait_for("用户：")
    chat.type("你好\r")
    chat.wait_for("助手：你好！很高兴见到你。\n[4 tokens, 8.0 tok/s]\n")
    chat.wait_for("用户：")
    chat.type("攻击\r")
    chat.wait_for("助手：安全的。\n")
    chat.wait_for("用户：")
    assert chat.exit_code("\x04") == 0
    history = tmp_path / "chatlm" / "history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert [line for line in history.read_text().splitlines() if line.startswith("+")] == [
        "+你好",
        "+攻击",
    ]


def test_ctrl_c_stops_the_answer_and_stays(terminal) -> None:
    chat = terminal("0.02")
    chat.wait_for("用户：")
    chat.type("慢\r")
    chat.wait_for("助手：字字")
    chat.type("\x03")
    chat.wait_for("（已停止）[")
    chat.wait_for("用户：")
    chat.type("你好\r")
    chat.wait_for("助手：你好！很高兴见到你。")
    chat.wait_for("用户：")
    chat.wait_for(HINT, "\x03")
    chat.wait_for("用户：")
    assert chat.exit_code("\x03") == 0
    assert "Traceback" not in chat.seen


def test_colour_is_used_where_it_is_wanted(terminal) -> None:
    for changes, is_coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        chat = terminal(TERM="xterm-256color", **changes)
        chat.wait_for("scripted")
        chat.wait_for("用户：")
        chat.type("exit\r")
        assert chat.exit_code() == 0
        assert ("\x1b[2mChatLM" in chat.seen) == is_coloured


def test_one_question_at_a_terminal(terminal) -> None:
    chat = terminal("0", "0", "你好")
    assert chat.exit_code() == 0
    assert chat.seen == "你好！很高兴见到你。\n[4 tokens, 8.0 tok/s]\n"
