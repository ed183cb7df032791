"""A chat at a pseudo-terminal: what a person sees, and what his keys, signals and windows do."""

import os
import shlex
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted_chat import GREETING, PROGRAM, environment

from chatlm.terminal.dialogue import HINT
from terminal.pty_chat import SHELL, Terminal

Start = Callable[..., Terminal]
STATS = "[4 tokens, 8.0 tok/s]"


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Start]:
    opened: list[Terminal] = []

    def start(
        *arguments: str, columns: int = 80, ignores_hangup: bool = False, **changes: str
    ) -> Terminal:
        opened.append(
            Terminal(
                environment(tmp_path, **changes),
                *arguments,
                columns=columns,
                ignores_hangup=ignores_hangup,
            )
        )
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def remembered(tmp_path: Path) -> list[str]:
    history = tmp_path / "chatlm" / "history"
    return [line for line in history.read_text().splitlines() if line.startswith("+")]


def test_a_chat_at_a_terminal(terminal: Start, tmp_path: Path) -> None:
    chat = terminal()
    chat.wait_for(GREETING)
    chat.wait_for("用户：")
    chat.type("你好\r")
    chat.wait_for(f"助手：你好！很高兴见到你。\n{STATS}\n")
    chat.wait_for("用户：")
    chat.type("攻击\r")
    chat.wait_for("助手：安全的。\n")
    chat.wait_for("用户：")
    assert chat.exit_code("\x04") == 0
    assert stat.S_IMODE((tmp_path / "chatlm" / "history").stat().st_mode) == 0o600
    assert remembered(tmp_path) == ["+你好", "+攻击"]


def test_colour_is_used_where_it_is_wanted(terminal: Start) -> None:
    for changes, is_coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        chat = terminal(TERM="xterm-256color", **changes)
        chat.wait_for("scripted")
        chat.wait_for("用户：")
        chat.type("exit\r")
        assert chat.exit_code() == 0
        assert ("\x1b[2mChatLM" in chat.seen) == is_coloured


def test_one_question_at_a_terminal(terminal: Start) -> None:
    chat = terminal("0", "0", "你好")
    assert chat.exit_code() == 0
    assert chat.seen == f"你好！很高兴见到你。\n{STATS}\n"


def test_json_at_a_terminal_has_no_prompt(terminal: Start) -> None:
    chat = terminal("--json")
    chat.type("攻击\n")
    line = chat.wait_for("}\n")
    assert (
        '"answer": "安\\u001b[31m全\\u001b]0;标题\\u0007\\u202e的\\u009b2J。\\u0000\\u007f"' in line
    )
    assert "用户" not in chat.seen
    assert chat.exit_code("\x04") == 0


# --- the picture ----------------------------------------------------------------------------------


def test_wide_characters_are_wrapped_by_the_terminal(terminal: Start) -> None:
    chat = terminal("0", columns=24, TERM="xterm", NO_COLOR="1")
    chat.wait_for("用户：")
    chat.type("宽：emoji👩🏽和e\u0301，一个字也不能少\r")
    chat.wait_for("tok/s]")
    assert chat.picture[-7:] == [
        "用户：宽：emoji👩🏽和é，",
        "一个字也不能少",
        "助手：您问的是「宽：emoj",
        "i👩🏽和é，一个字也不能少",
        "」",
        "[1 tokens, 2.0 tok/s]",
        "用户：",
    ] or chat.picture[-6:] == [
        "用户：宽：emoji👩🏽和é，",
        "一个字也不能少",
        "助手：您问的是「宽：emoj",
        "i👩🏽和é，一个字也不能少",
        "」",
        "[1 tokens, 2.0 tok/s]",
    ]


def test_an_answer_is_written_once_whatever_the_window_does(terminal: Start) -> None:
    chat = terminal("0.001", TERM="xterm", NO_COLOR="1")
    chat.wait_for("用户：")
    chat.type("慢\r")
    said = chat.wait_for("助手：字字") and "字字"
    for columns in (31, 97, 7, 60):
        chat.resize(columns)
        said += chat.wait_for("字" * 50) + "字" * 50
    said += chat.wait_for("\n[1000 tokens")
    assert said == "字" * 1000


def test_keys_pressed_too_early_wait_for_the_prompt(terminal: Start) -> None:
    chat = terminal("0.005", TERM="xterm", NO_COLOR="1")
    chat.wait_for("用户：")
    chat.type("/set max_new_tokens=200\r慢\r")
    chat.wait_for("助手：字字")
    chat.type("你好\r/exit")
    answer = chat.wait_for("（到长度上限）")
    assert set(answer) == {"字", "\n"}
    chat.wait_for("助手：你好！很高兴见到你。")
    chat.wait_for("用户：")
    chat.wait_for("/exit")
    assert chat.exit_code("\r") == 0


def test_pasted_lines_are_one_question(terminal: Start) -> None:
    chat = terminal(TERM="xterm", NO_COLOR="1")
    chat.wait_for("用户：")
    chat.type("\x1b[200~写\n三行\n字\x1b[201~\r")
    chat.wait_for("助手：您问的是「写\n三行\n字」\n")
    chat.wait_for("用户：")
    chat.type("甲\x1b\r乙\r")
    chat.wait_for("助手：您问的是「甲\n乙」\n")


# --- signals --------------------------------------------------------------------------------------


def test_ctrl_c_stops_the_answer_and_stays(terminal: Start) -> None:
    chat = terminal("0.02")
    chat.wait_for("用户：")
    chat.type("慢\r")
    chat.wait_for("助手：字字")
    chat.type("\x03")
    assert set(chat.wait_for("（已停止）[")) <= {"字", "\n"}
    chat.wait_for("用户：")
    chat.type("你好\r")
    chat.wait_for("助手：你好！很高兴见到你。")
    chat.wait_for("用户：")
    chat.wait_for(HINT, "\x03")
    chat.wait_for("用户：")
    assert chat.exit_code("\x03") == 0
    assert "Traceback" not in chat.seen


@pytest.mark.parametrize("is_answering", [False, True])
def test_sigterm_ends_the_chat_quietly(terminal: Start, tmp_path: Path, is_answering: bool) -> None:
    chat = terminal("0.02", TERM="xterm", NO_COLOR="1")
    chat.wait_for("用户：")
    chat.type("你好\r")
    chat.wait_for("tok/s]")
    chat.wait_for("用户：")
    if is_answering:
        chat.type("慢\r")
        chat.wait_for("助手：字字")
        assert not chat.echoes
    os.kill(chat.pid, signal.SIGTERM)
    assert chat.exit_code() == 143
    assert "Traceback" not in chat.seen
    assert chat.echoes
    assert remembered(tmp_path) == ["+你好", "+慢"][: 1 + is_answering]


@pytest.mark.parametrize("is_answering", [False, True])
@pytest.mark.parametrize("ignores_hangup", [False, True])
def test_a_chat_ends_with_its_terminal(
    terminal: Start, tmp_path: Path, is_answering: bool, ignores_hangup: bool
) -> None:
    chat = terminal("0.02", TERM="xterm", ignores_hangup=ignores_hangup)
    chat.wait_for("用户：")
    if is_answering:
        chat.type("慢\r")
        chat.wait_for("助手：字字")
    expected = (129 if is_answering else 0) if ignores_hangup else -signal.SIGHUP
    assert chat.hang_up() == expected
    assert remembered(tmp_path) == ["+慢"][:is_answering]


def test_a_suspended_chat_goes_on_where_it_was(tmp_path: Path) -> None:
    command = shlex.join([*PROGRAM, "0.02"])
    shell = Terminal(environment(tmp_path, TERM="xterm", PS1="$ ", NO_COLOR="1"), program=SHELL)
    try:
        shell.type(f"{command}\n")
        shell.wait_for("用户：")
        shell.type("慢\r")
        shell.wait_for("助手：字字")
        shell.type("\x1a")
        shell.wait_for("Stopped")
        shell.type("stty -a | tr ' ;' '\\n\\n' | grep -x -e '-*icanon' -e '-*echo'\n")
        shell.wait_for("\ricanon\necho\n")
        shell.type("fg\n")
        shell.wait_for("字字字")
        assert not shell.echoes
        shell.type("\x03")
        shell.wait_for("（已停止）[")
        shell.wait_for("用户：")
        shell.type("\x1a")
        shell.wait_for("Stopped")
        shell.type("fg\n")
        shell.wait_for("用户：")
        shell.type("你好\r")
        shell.wait_for("助手：你好！很高兴见到你。")
        shell.wait_for("用户：")
        shell.type("\x04")
        shell.wait_for("$ ")
        shell.type("echo code $?\n")
        shell.wait_for("\rcode 0\n")
        shell.exit_code("exit\n")
    finally:
        shell.close()


# --- while the model is being opened --------------------------------------------------------------


def test_a_user_types_while_the_model_is_opened(terminal: Start) -> None:
    chat = terminal("--opening=1.5", TERM="xterm", NO_COLOR="1")
    chat.wait_for(GREETING)
    chat.wait_for("用户：")
    chat.type("/set top_k=3\r你好\r")
    chat.wait_for("top_k=3")
    chat.wait_for("正在打开 scripted …\n")
    chat.wait_for("助手：你好！很高兴见到你。\n")
    chat.wait_for("用户：")
    assert chat.exit_code("\x04") == 0


def test_who_stops_waiting_for_the_model_can_leave(terminal: Start) -> None:
    chat = terminal("--opening=100", TERM="xterm", NO_COLOR="1")
    chat.wait_for("用户：")
    chat.type("你好\r")
    chat.wait_for("正在打开 scripted …\n")
    chat.type("\x03")
    chat.wait_for("（已停止）\n")
    chat.wait_for("用户：")
    assert chat.exit_code("\x04") == 0


def test_a_model_that_cannot_be_opened_ends_the_chat_at_once(terminal: Start) -> None:
    chat = terminal("--opening=0.5fails", TERM="xterm", NO_COLOR="1")
    chat.wait_for("用户：")
    chat.type("你")
    chat.wait_for("error: model.safetensors is damaged\n")
    assert chat.exit_code() == 2
    assert chat.echoes
    assert "Traceback" not in chat.seen


def test_ctrl_c_while_the_model_is_opened_for_one_question_is_130(terminal: Start) -> None:
    chat = terminal("0", "0", "你好", "--opening=100")
    chat.wait_for("正在打开 scripted …\n")
    assert chat.exit_code("\x03") == 130
    assert "Traceback" not in chat.seen
