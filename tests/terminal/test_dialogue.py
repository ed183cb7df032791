"""Whole chats, compared letter by letter: in memory, through pipes, and at a (pseudo) terminal."""

import io
import os
import re
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from scripted_chat import DEADLINE_SECONDS, GREETING, PROGRAM, environment, session

from chatlm.chat.session import ChatSession
from chatlm.terminal import HINT, Screen, answer_lines, clean_input, converse, history_file

# --- at a keyboard, in memory ---------------------------------------------------------------------


class Typist:
    """Types the lines of a script, echoed as a terminal echoes them; then presses Ctrl-D."""

    def __init__(self, script: list[str | type[BaseException]], out: io.StringIO) -> None:
        self._script = iter([*script, EOFError])
        self._out = out

    def read(self, prompt: str) -> str:
        self._out.write(prompt)
        step = next(self._script)
        if isinstance(step, str):
            self._out.write(f"{step}\n")
            return step
        self._out.write({EOFError: "^D", KeyboardInterrupt: "^C"}[step] + "\n")
        raise step


def transcript(
    script: list[str | type[BaseException]], monkeypatch: pytest.MonkeyPatch, history_turns: int = 0
) -> tuple[str, ChatSession]:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    chat = session(history_turns)
    assert converse(chat, Typist(script, out), Screen(out, out, is_plain=False)) == 0
    return out.getvalue(), chat


def test_a_conversation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    script: list[str | type[BaseException]] = [
        "你好",
        "",
        "写两行",
        "/set temperature=0.7 top_k=20",
        "/retry",
        "/stats",
        "/save 对话.json",
        "/reset",
        "/load 对话.json",
        " /home 是什么？",
        '"""第一段',
        "第二段",
        '"""',
        "exit",
    ]
    text, chat = transcript(script, monkeypatch)
    assert text == GREETING + (
        "用户：你好\n"
        "助手：你好！很高兴见到你。\n"
        "[4 tokens, 8.0 tok/s]\n"
        "用户：\n"
        "用户：写两行\n"
        "助手：第一行\n"
        "第二行\n"
        "[3 tokens, 6.0 tok/s]\n"
        "用户：/set temperature=0.7 top_k=20\n"
        "temperature=0.7 top_k=20\n"
        "用户：/retry\n"
        "重新回答：写两行\n"
        "助手：第一行\n"
        "第二行\n"
        "[3 tokens, 6.0 tok/s]\n"
        "用户：/stats\n"
        "3 个回答，10 tokens, 6.7 tok/s\n"
        "用户：/save 对话.json\n"
        "已保存 2 轮对话到 对话.json\n"
        "用户：/reset\n"
        "对话已清空。\n"
        "用户：/load 对话.json\n"
        "已读入 2 轮对话（单轮模型：历史不会发给它）\n"
        "用户： /home 是什么？\n"
        "助手：您问的是「/home 是什么？」\n"
        "[1 tokens, 2.0 tok/s]\n"
        '用户："""第一段\n'
        "…… 第二段\n"
        '…… """\n'
        "助手：您问的是「第一段\n"
        "第二段」\n"
        "[1 tokens, 2.0 tok/s]\n"
        "用户：exit\n"
    )
    assert len(chat.messages) == 8


def test_mistakes_stay_in_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    script: list[str | type[BaseException]] = [
        "/retyr",
        "/set temprature=1",
        "/set temperature=hot",
        "/set temperature=-1",
        "/set",
        "/load",
        "/load none.json",
        "/retry",
        "/show",
    ]
    text, _ = transcript(script, monkeypatch)
    assert text == GREETING + (
        "用户：/retyr\n"
        "error: unknown command '/retyr': did you mean '/retry'? (a question may begin with '/' "
        "after a space)\n"
        "用户：/set temprature=1\n"
        "error: unknown setting 'temprature': did you mean 'temperature'?\n"
        "用户：/set temperature=hot\n"
        "error: temperature=hot is not a valid float (Value 'hot' of type 'str' could not be "
        "converted to Float)\n"
        "用户：/set temperature=-1\n"
        "error: temperature=-1.0: expected 0 (greedy) or more\n"
        "用户：/set\n"
        "error: /set needs key=value, for example /set temperature=0.7\n"
        "用户：/load\n"
        "error: /load needs a file: one that /save wrote\n"
        "用户：/load none.json\n"
        "error: cannot read the conversation none.json: No such file or directory\n"
        "用户：/retry\n"
        "error: nothing to retry: ask a question first\n"
        "用户：/show\n"
        "temperature           0.0\n"
        "top_k                 0\n"
        "top_p                 1.0\n"
        "max_new_tokens        0\n"
        "min_new_tokens        0\n"
        "num_beams             1\n"
        "length_penalty        1.0\n"
        "repetition_penalty    1.0\n"
        "no_repeat_ngram_size  0\n"
        "seed                  None\n"
        "stop                  []\n"
        "model                 scripted\n"
        "history_turns         0（单轮模型，历史不会发给它）\n"
        "history               0 轮\n"
        "用户：^D\n"
    )


def test_help_is_aligned_by_width_on_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = transcript(["/help"], monkeypatch)
    assert text == GREETING + (
        "用户：/help\n"
        "/help           显示这张表\n"
        "/reset          忘掉这段对话，从头开始\n"
        "/set 键=值 ...  改变生成参数，例如 /set temperature=0.7 top_p=0.9\n"
        "/show           显示模型、参数和历史长度\n"
        "/save [文件]    把对话存成 JSON 文件\n"
        "/load 文件      读回存好的对话\n"
        "/retry          重新回答上一个问题\n"
        "/stats          显示本次会话的回答数、token 数和速度\n"
        "/exit           退出（exit、Ctrl-D 也行）\n"
        "cls             清屏并忘掉这段对话\n"
        '"""             开始多行问题，再用一个 """ 结束\n'
        "Ctrl-C          停止正在生成的回答\n"
        "用户：^D\n"
    )


def test_ctrl_c_at_the_prompt_hints_and_twice_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = KeyboardInterrupt
    text, _ = transcript([stop, "你好", stop, stop, "不再读"], monkeypatch)
    assert text == GREETING + (
        f"用户：^C\n{HINT}\n"
        "用户：你好\n助手：你好！很高兴见到你。\n[4 tokens, 8.0 tok/s]\n"
        f"用户：^C\n{HINT}\n用户：^C\n"
    )


def test_a_multi_turn_model_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = transcript([], monkeypatch, history_turns=3)
    assert text.splitlines()[1] == "多轮模型：最近 3 轮对话会一起发给模型。"


def test_cls_clears_the_screen_and_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    text, chat = transcript(["你好", "cls"], monkeypatch)
    assert chat.messages == []
    assert "\x1b[2J" in text


def test_a_hostile_answer_cannot_drive_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = transcript(["攻击"], monkeypatch)
    assert "助手：安全的。\n" in text
    assert "\x1b" not in text


# --- pipes ----------------------------------------------------------------------------------------


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


def test_a_pipe_gets_one_line_an_answer(tmp_path: Path) -> None:
    stdin = (
        '\ufeff你好\r\n\n写两行\n/stats\n攻击\n"""不是多行\n'.encode()
        + b"\xff\xfe\n/exit\nignored\n"
    )
    result = run(tmp_path, stdin=stdin, TERM="xterm-256color", FORCE_COLOR="1")
    assert result.stdout.decode() == (
        "你好！很高兴见到你。\n"
        "\n"
        "第一行\\n第二行\n"
        "安全的。\n"
        '您问的是「"""不是多行」\n'
        "您问的是「\ufffd\ufffd」\n"
    )
    assert result.stderr.decode() == "2 个回答，7 tokens, 7.0 tok/s\n"
    assert result.returncode == 0


def test_a_last_line_without_newline_is_answered(tmp_path: Path) -> None:
    result = run(tmp_path, stdin="你好".encode())
    assert result.stdout.decode() == "你好！很高兴见到你。\n"
    assert run(tmp_path).stdout == b""


def test_a_mistake_in_a_pipe_is_one_line_and_exit_2(tmp_path: Path) -> None:
    result = run(tmp_path, stdin="你好\n/set top_q=1\n再见\n".encode())
    assert result.stdout.decode() == "你好！很高兴见到你。\n"
    assert result.stderr.decode() == ("error: unknown setting 'top_q': did you mean 'top_p'?\n")
    assert result.returncode == 2


def test_an_ascii_locale_changes_nothing(tmp_path: Path) -> None:
    changes = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = run(tmp_path, stdin="你好\n".encode(), **changes)
    assert result.stdout.decode() == "你好！很高兴见到你。\n"


def test_one_question_gets_its_answer_as_it_is(tmp_path: Path) -> None:
    result = run(tmp_path, "0", "0", "写两行")
    assert (result.stdout.decode(), result.stderr, result.returncode) == (
        "第一行\n第二行\n",
        b"",
        0,
    )


def test_ctrl_c_ends_one_question_with_130(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "0.05", "0", "慢"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        start = os.read(process.stdout.fileno(), 100)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=DEADLINE_SECONDS)
    text = (start + rest).decode()
    assert re.fullmatch("字{1,900}\n", text)
    assert (errors, process.returncode) == (b"", 130)


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


def test_lines_are_answered_as_they_come() -> None:
    out, err = io.StringIO(), io.StringIO()
    chat = session(history_turns=2)
    lines = io.BytesIO("你好\n/reset\n/retry\n".encode())
    with pytest.raises(Exception, match="nothing to retry"):
        answer_lines(chat, lines, Screen(out, err, is_plain=True))
    assert (out.getvalue(), err.getvalue()) == ("你好！很高兴见到你。\n", "对话已清空。\n")


def test_input_becomes_text_that_utf8_can_encode() -> None:
    assert clean_input("  好\udcff ") == "好\ufffd"
    assert clean_input("\ud800") == "\ufffd"


# --- history --------------------------------------------------------------------------------------


def test_the_history_file_is_for_its_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "chatlm" / "history"
    assert history_file() == path
    path.chmod(0o644)
    history_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_chat_without_a_place_for_history_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chatlm").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() is None
