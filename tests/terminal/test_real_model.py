"""The whole door with a real (tiny) model, at a pseudo-terminal."""

import os
import signal
import sys
from pathlib import Path

import pytest
from scripted_chat import environment
from tiny_checkpoint import make_checkpoint

from terminal.pty_chat import Terminal

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "step_000500"
    make_checkpoint(folder)
    return folder


def open_chat(model: Path, state: Path, *arguments: str) -> Terminal:
    return Terminal(
        environment(state, TERM="xterm", NO_COLOR="1"),
        f"model={model}",
        "device=cpu",
        *arguments,
        program=[sys.executable, str(ROOT / "cli_demo.py")],
        columns=200,
    )


def test_a_chat_with_a_model_that_opens_meanwhile(model: Path, tmp_path: Path) -> None:
    chat = open_chat(model, tmp_path, "temperature=1.5", "min_new_tokens=4")
    try:
        chat.wait_for(f"ChatLM · {model}\n")
        chat.wait_for("用户：")
        chat.type("你好\r")
        chat.wait_for("助手：")
        chat.wait_for(" tok/s]\n")
        chat.wait_for("用户：")
        chat.type("/show\r")
        chat.wait_for("engine                torch ")
        chat.wait_for("用户：")
        os.kill(chat.pid, signal.SIGTERM)
        assert chat.exit_code() == 143
        assert chat.echoes
        assert "Traceback" not in chat.seen
    finally:
        chat.close()


@pytest.mark.parametrize("ends", ["by SIGTERM", "by Ctrl-D"])
def test_a_chat_can_end_while_its_model_opens(model: Path, tmp_path: Path, ends: str) -> None:
    chat = open_chat(model, tmp_path)
    try:
        chat.wait_for("用户：")
        if ends == "by SIGTERM":
            os.kill(chat.pid, signal.SIGTERM)
            assert chat.exit_code() == 143
        else:
            assert chat.exit_code("\x04") == 0
        assert chat.echoes
        assert "Traceback" not in chat.seen
    finally:
        chat.close()


BETWEEN = """
import os, signal, threading, tty
from pathlib import Path
from chatlm.chat.settings import ChatSettings
from chatlm.inference.engine import Limits
from chatlm.terminal import talk

def converse(*_):
    tty.setraw(0)  # as a library that has not yet begun to care for the modes it found
    os.kill(os.getpid(), signal.SIGTERM)

talk.converse = converse
never = threading.Event()
talk.open_and_talk(Path("model"), Limits(), never.wait, ChatSettings(), talk.Manner())
"""


def test_sigterm_between_two_lines_of_a_library_leaves_the_terminal_as_it_was(
    tmp_path: Path,
) -> None:
    chat = Terminal(environment(tmp_path, TERM="xterm"), program=[sys.executable, "-c", BETWEEN])
    try:
        assert chat.exit_code() == 143
        assert chat.echoes
        assert "Traceback" not in chat.seen
    finally:
        chat.close()
