"""Whole chats, compared letter by letter: in memory, through pipes, and at a (pseudo) terminal."""

import codecs
import errno
import io
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scripted_chat import session

from chatlm.chat import ChatSession
from chatlm.terminal import HINT, Screen, answer_lines, clean_input, converse, history_file

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = [sys.executable, str(Path(__file__).with_name("scripted_chat.py"))]
DEADLINE_SECONDS = 30  # of one wait; a chat that hangs must not hang the tests

GREETING = """\
ChatLM · scripted
单轮模型：每个问题单独回答，历史只保存，不发给模型。
/help 显示命令，Ctrl-C 停止回答，Ctrl-D 退出。
"""


def environment(state: Path, **changes: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    ours = {
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": str(state),
        "TERM": "dumb",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }
    return inherited | ours | changes


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
        "error: temperature=-1.0: expected 0 or more\n"
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


# --- a pseudo-terminal ----------------------------------------------------------------------------


class Terminal:
    """A chat at the other end of a pseudo-terminal."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            os.execve(sys.executable, [*PROGRAM, *arguments], environment)
        self.seen = ""
        self._unread = ""
        self._utf8 = codecs.getincrementaldecoder("utf-8")()

    def wait_for(self, text: str) -> None:
        """Reads on until the screen shows `text`."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text not in self._unread:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self._unread!r}"
            assert self._read(), f"the chat ended before {text!r}: {self._unread!r}"
        self._unread = self._unread.partition(text)[2]

    def _read(self, when_quiet: str = "") -> bool:
        """Reads what there is; False at the end."""
        if not select.select([self._descriptor], [], [], 0.2)[0]:
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
        """Waits for the end, pressing `key` until it comes.

        A key that is pressed between the prompt's text and its reading of keys is lost.
        """
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
    chat.type("\x03")
    chat.wait_for(HINT)
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
