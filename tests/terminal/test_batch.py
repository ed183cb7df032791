"""Pipes and single questions: what is written where, letter by letter, and the exit codes."""

import io
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_chat import ANSWERS, DEADLINE_SECONDS, PROGRAM, ScriptedEngine, environment, session

from chatlm.chat.session import ChatSession
from chatlm.errors import ConfigError, DataError
from chatlm.sanitize import sanitize
from chatlm.terminal.batch import MOST_LINE_BYTES, answer_lines, answer_once
from chatlm.terminal.screen import Screen


def run(
    tmp_path: Path, *arguments: str, stdin: bytes = b"", **changes: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        input=stdin,
        capture_output=True,
        env=environment(tmp_path, **changes),
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def piped(
    text: str | bytes, chat: ChatSession | None = None, *, is_json: bool = False
) -> tuple[str, str, int]:
    """Returns stdout, stderr and the exit code, in memory."""
    out, err = io.StringIO(), io.StringIO()
    lines = io.BytesIO(text if isinstance(text, bytes) else text.encode())
    screen = Screen(out, err, is_plain=True)
    code = answer_lines(chat or session(), lines, screen, is_json=is_json)
    return out.getvalue(), err.getvalue(), code


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# --- pipes ----------------------------------------------------------------------------------------


def test_a_pipe_gets_one_line_an_answer(tmp_path: Path) -> None:
    stdin = (
        '\ufeff你好\r\n\n写两行\n/stats\n攻击\n"""不是多行\n'.encode()
        + b"\xff\xfe\nexit\n/exit\nignored\n"
    )
    result = run(tmp_path, stdin=stdin, TERM="xterm-256color", FORCE_COLOR="1")
    assert result.stdout.decode() == (
        "你好！很高兴见到你。\n"
        "\n"
        "第一行\\n第二行\n"
        "安全的。\n"
        '您问的是「"""不是多行」\n'
        "您问的是「\ufffd\ufffd」\n"
        "您问的是「exit」\n"
    )
    assert result.stderr.decode() == "2 个回答，7 tokens, 7.0 tok/s，平均 0.25 秒出第一个字\n"
    assert result.returncode == 0
    assert not list(tmp_path.rglob("*")), "a pipe has no history file"


def test_a_last_line_without_newline_is_answered() -> None:
    assert piped("你好") == ("你好！很高兴见到你。\n", "", 0)
    assert piped(b"") == ("", "", 0)


def test_a_line_that_cannot_be_answered_does_not_end_the_others() -> None:
    out, err, code = piped("你好\n错\n/retry_\n空\n你好\n")
    assert out == "你好！很高兴见到你。\n\n\n\n你好！很高兴见到你。\n"
    assert err == (
        "error: line 2: out of memory\n"
        "error: line 3: unknown command '/retry_': did you mean '/retry'? (a question may begin "
        "with '/' after a space)\n"
    )
    assert code == 1
    assert piped("/retry_\n错\n")[2] == 2


@pytest.mark.parametrize("line", ["/set top_q=1", "/set", "/load nothing.json"])
def test_a_setting_that_is_refused_ends_the_pipe(line: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    lines = io.BytesIO(f"你好\n{line}\n再见\n".encode())
    with pytest.raises((ConfigError, DataError), match=r"^line 2: "):
        answer_lines(session(), lines, Screen(out, err, is_plain=True))
    assert (out.getvalue(), err.getvalue()) == ("你好！很高兴见到你。\n", "")


@pytest.mark.parametrize(
    ("flags", "second"),
    [([], "甲"), (["--dialogue"], "用户：你好\n助手：你好！很高兴见到你。\n用户：甲\n助手：")],
)
def test_lines_are_asked_alone_unless_they_are_a_dialogue(
    tmp_path: Path, flags: list[str], second: str
) -> None:
    result = run(tmp_path, "0", "3", *flags, stdin="你好\n甲\n".encode())
    answer = f"您问的是「{second}」".replace("\n", "\\n")
    assert result.stdout.decode() == f"你好！很高兴见到你。\n{answer}\n"


def test_a_question_that_was_cut_is_told_with_its_line() -> None:
    out, err, code = piped(f"你好\n{'很长的问题' * 20}\n\n/stats\n")
    assert out == f"你好！很高兴见到你。\n您问的是「{'很长的问题' * 8}」\n\n"
    assert err.startswith("line 2: （问题太长：模型只读到前 40 个 token。）\n2 个回答，")
    assert (err.count("\n"), code) == (2, 0)


def test_a_line_without_end_is_refused_and_not_kept_in_memory() -> None:
    chat = session()
    out, err, code = piped(b"x" * (3 * MOST_LINE_BYTES) + "\n你好\n".encode(), chat)
    assert out == "\n你好！很高兴见到你。\n"
    assert err == "error: line 1: it has more than 1048576 bytes: no question is that long\n"
    assert code == 2
    assert piped(b"x" * (MOST_LINE_BYTES + 1))[2] == 2


def test_lines_are_answered_as_they_come(tmp_path: Path) -> None:
    with subprocess.Popen(
        PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(tmp_path)
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(3):
            process.stdin.write("你好\n".encode())
            process.stdin.flush()
            assert process.stdout.readline().decode() == "你好！很高兴见到你。\n"
        process.stdin.close()


def test_commands_in_a_pipe_write_to_stderr() -> None:
    chat = session(history_turns=2)
    out, err, code = piped("你好\n/reset\n/retry\n你好\n/retry\n", chat)
    assert out == "你好！很高兴见到你。\n\n你好！很高兴见到你。\n你好！很高兴见到你。\n"
    assert err == (
        "对话已清空。\nerror: line 3: nothing to retry: ask a question first\n重新回答：你好\n"
    )
    assert code == 2


def test_an_ascii_locale_changes_nothing(tmp_path: Path) -> None:
    changes = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = run(tmp_path, stdin="你好\n".encode(), **changes)
    assert result.stdout.decode() == "你好！很高兴见到你。\n"


# --- JSON -----------------------------------------------------------------------------------------


def test_json_says_all_about_an_answer() -> None:
    out, err, code = piped("你好\n\n/stats\n错\n写两行\n/retry\n", is_json=True)
    assert records(out) == [
        {
            "question": "你好",
            "answer": "你好！很高兴见到你。",
            "finish_reason": "stop",
            "tokens": 4,
            "seconds": 0.5,
            "tokens_per_second": 8.0,
            "first_token_seconds": 0.25,
            "prompt_tokens": 3,
            "turns_sent": 0,
            "is_cut": False,
        },
        {"question": "", "answer": ""},
        {"question": "错", "error": "out of memory"},
        {
            "question": "写两行",
            "answer": "第一行\n第二行",
            "finish_reason": "stop",
            "tokens": 3,
            "seconds": 0.5,
            "tokens_per_second": 6.0,
            "first_token_seconds": 0.25,
            "prompt_tokens": 4,
            "turns_sent": 0,
            "is_cut": False,
        },
        records(out)[3],
    ]
    assert "你好！很高兴见到你。" in out, "people read it too"
    assert err.splitlines()[1:] == ["error: line 4: out of memory", "重新回答：写两行"]
    assert code == 1


def test_json_keeps_every_letter_and_shows_none_that_a_terminal_obeys() -> None:
    line, _, _ = piped("攻击\n", is_json=True)
    assert json.loads(line)["answer"] == "".join(ANSWERS["攻击"])
    assert line.removesuffix("\n").isprintable()


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_json_is_one_safe_line_and_exact_for_any_answer(pieces: list[str]) -> None:
    class Says(ScriptedEngine):
        def pieces(self, prompt: str) -> list[str]:
            return pieces

    out, _, _ = piped("问\n", ChatSession(Says()), is_json=True)
    assert out.endswith("\n")
    assert "\u3000" in out or out[:-1].isprintable()
    assert json.loads(out)["answer"] == "".join(pieces)
    for char in out[:-1]:
        assert sanitize(f"字{char}") == f"字{char}"


def test_one_question_as_json(tmp_path: Path) -> None:
    result = run(tmp_path, "0", "0", "写两行", "--json")
    (record,) = records(result.stdout.decode())
    assert (record["question"], record["answer"]) == ("写两行", "第一行\n第二行")
    assert (result.stderr, result.returncode) == (b"", 0)
    result = run(tmp_path, "0", "0", "错", "--json")
    assert records(result.stdout.decode()) == [{"question": "错", "error": "out of memory"}]
    assert (result.stderr, result.returncode) == (b"error: out of memory\n", 1)


# --- one question ---------------------------------------------------------------------------------


def test_one_question_gets_its_answer_as_it_is(tmp_path: Path) -> None:
    result = run(tmp_path, "0", "0", "写两行")
    assert result.stdout.decode() == "第一行\n第二行\n"
    assert (result.stderr, result.returncode) == (b"", 0)
    out = io.StringIO()
    assert answer_once(session(), "写两行", Screen(out, out, is_plain=True, streams=False)) == 0
    assert out.getvalue() == "第一行\n第二行\n"


def test_a_model_that_fails_is_exit_1(tmp_path: Path) -> None:
    result = run(tmp_path, "0", "0", "错")
    assert result.stdout.decode() == "半\n"
    assert (result.stderr, result.returncode) == (b"error: out of memory\n", 1)


def test_one_question_that_was_cut_says_so_beside_the_answer() -> None:
    out, err = io.StringIO(), io.StringIO()
    assert answer_once(session(), "很长的问题" * 20, Screen(out, err, is_plain=True)) == 0
    assert out.getvalue() == f"您问的是「{'很长的问题' * 8}」\n"
    assert err.getvalue() == "（问题太长：模型只读到前 40 个 token。）\n"


# --- signals and broken streams -------------------------------------------------------------------


def interrupted(
    tmp_path: Path, number: int, *arguments: str, stdin: int | None = None
) -> tuple[str, bytes, int]:
    """Returns what a slow answer came to after a signal in its midst."""
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    ) as process:
        assert process.stdout is not None
        start = os.read(process.stdout.fileno(), 100)
        process.send_signal(number)
        rest, errors = process.communicate(timeout=DEADLINE_SECONDS)
    return (start + rest).decode(), errors, process.returncode


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_one_question_with_what_came(tmp_path: Path, number: int, code: int) -> None:
    text, errors, returncode = interrupted(tmp_path, number, "0.05", "0", "慢")
    assert re.fullmatch("字{1,900}\n", text)
    assert (errors, returncode) == (b"", code)


def test_ctrl_c_keeps_what_came_in_json_too() -> None:
    class IsInterrupted(ScriptedEngine):
        def pieces(self, prompt: str) -> Iterator[str]:
            yield from ("半", "句")
            time.sleep(0.5)  # both have arrived
            os.kill(os.getpid(), signal.SIGINT)
            while True:
                yield "字"

    out, err = io.StringIO(), io.StringIO()
    chat = ChatSession(IsInterrupted(seconds_a_piece=0.01))
    with pytest.raises(KeyboardInterrupt):
        answer_once(chat, "问", Screen(out, err, is_plain=True), is_json=True)
    (record,) = records(out.getvalue())
    assert record["finish_reason"] == "cancelled"
    assert re.fullmatch("半句字*", record["answer"])
    assert chat.messages[-1].content == record["answer"]


def test_a_reader_that_leaves_ends_the_chat_quietly(tmp_path: Path) -> None:
    command = f"yes 你好 | head -2000 | {' '.join(PROGRAM)} | head -1"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        capture_output=True,
        env=environment(tmp_path),
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert result.stdout.decode() == "你好！很高兴见到你。\n"
    assert b"Traceback" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [[], ["0", "0", "你好"]])
def test_a_full_disk_is_one_line_and_exit_74(tmp_path: Path, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*PROGRAM, *arguments],
            input="你好\n".encode(),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(tmp_path),
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    assert result.stderr == b"error: cannot write the answer: No space left on device\n"
    assert result.returncode == 74
