"""Ctrl-C at any moment: where it may raise, and that no moment ends a chat."""

import os
import random
import signal
from pathlib import Path

import pytest
from scripted_chat import environment

from chatlm.terminal.tty import Interrupts
from terminal.pty_chat import Terminal

ROUNDS = int(os.environ.get("CHATLM_CTRL_C_ROUNDS", "10"))
"""Stopped answers; some hundreds found nothing more."""


def test_ctrl_c_raises_only_where_it_is_allowed() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.take()
        assert not interrupts.take()
        with pytest.raises(KeyboardInterrupt), interrupts.allowed():
            signal.raise_signal(signal.SIGINT)
        assert not interrupts.take()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), interrupts.allowed():
            pytest.fail("Ctrl-C was pressed before")
    assert signal.getsignal(signal.SIGINT) == before


def test_no_moment_for_ctrl_c_ends_a_chat_or_shows_a_traceback(tmp_path: Path) -> None:
    chance = random.Random(3)
    chat = Terminal(environment(tmp_path, TERM="xterm", NO_COLOR="1"), "0.001")
    try:
        chat.wait_for("用户：")
        for _ in range(ROUNDS):
            chat.type("慢\r")
            chat.wait_for(chance.choice(["慢", "助手：", "助手：字", "字" * 20]))
            for _ in range(chance.choice([1, 1, 2])):
                chat.type("\x03")
            chat.wait_for("（已停止）")
            chat.wait_for("用户：")
            chat.type("你好\r")
            chat.wait_for("助手：你好！很高兴见到你。")
            chat.wait_for("用户：")
        assert chat.exit_code("\x04") == 0
        assert "Traceback" not in chat.seen
    finally:
        chat.close()
