"""The chat as a user sees it: at a keyboard, through a pipe, or for one question.

In: a session and the process's streams. Out: answers on stdout, exit codes. At a keyboard all is
shown on the screen; in a pipe stdout carries one line an answer and nothing else, stderr the rest,
and neither a control code. All text of others passes `sanitize`.
"""

import os
import signal
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Protocol, TextIO

from rich.console import Console
from rich.text import Text

from chatlm.chat.session import ChatSession
from chatlm.commands import NAMES, Outcome, execute, is_command
from chatlm.corpus.conversation import ASSISTANT, USER
from chatlm.errors import ChatLMError
from chatlm.sanitize import Sanitizer, sanitize

FENCE = '"""'
HINT = "再按一次 Ctrl-C，或按 Ctrl-D，就退出。"


class Reader(Protocol):
    """Where a user at a keyboard types."""

    def read(self, prompt: str) -> str:
        """Returns a line.

        Raises:
            EOFError: Ctrl-D. KeyboardInterrupt: Ctrl-C.
        """
        ...


class Screen:
    """Shows text; `is_plain` (a pipe) means diagnostics on stderr and not one control code."""

    def __init__(self, out: TextIO, err: TextIO, *, is_plain: bool) -> None:
        self.is_plain = is_plain
        self._out = out
        bare = is_plain or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        self._console = Console(
            file=err if is_plain else out,
            color_system=None if bare else "standard",
            force_terminal=not is_plain,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
            legacy_windows=False,
        )

    def write(self, text: str) -> None:
        """Writes part of an answer at once."""
        self._out.write(text)
        self._out.flush()

    def line(self, text: str, style: str = "dim") -> None:
        """Writes a line about the chat."""
        self._console.print(Text(sanitize(text), style=style))

    def error(self, error: ChatLMError) -> None:
        """Writes a mistake of the user, which does not end the chat."""
        self.line(f"error: {error}", style="red")

    def clear(self) -> None:
        """Empties the screen, where there is one."""
        if not self.is_plain:
            self._console.clear()


def converse(session: ChatSession, reader: Reader, screen: Screen) -> int:
    """Talks with a user at a keyboard until he leaves; returns the exit code."""
    _greet(session, screen)
    interrupts = 0
    while True:
        try:
            line = _read(reader)
        except EOFError:
            return 0
        except KeyboardInterrupt:
            interrupts += 1
            if interrupts == 2:
                return 0
            screen.line(HINT)
            continue
        interrupts = 0
        try:
            if line.strip() and _react(line, session, screen):
                return 0
        except KeyboardInterrupt:  # one that came between two steps of the answer
            screen.line("（已停止）")


def _greet(session: ChatSession, screen: Screen) -> None:
    screen.line(f"ChatLM · {session.engine.name}")
    if session.is_single_turn:
        screen.line("单轮模型：每个问题单独回答，历史只保存，不发给模型。")
    else:
        screen.line(f"多轮模型：最近 {session.engine.limits.history_turns} 轮对话会一起发给模型。")
    screen.line("/help 显示命令，Ctrl-C 停止回答，Ctrl-D 退出。")


def _read(reader: Reader) -> str:
    """Returns a line, or the lines between two fences."""
    line = reader.read(USER)
    if not line.lstrip().startswith(FENCE):
        return line
    lines = [line.lstrip().removeprefix(FENCE)]
    while not lines[-1].rstrip().endswith(FENCE):
        lines.append(reader.read("…… "))
    lines[-1] = lines[-1].rstrip().removesuffix(FENCE)
    return "\n".join(lines).strip("\n")


def _react(line: str, session: ChatSession, screen: Screen) -> bool:
    """Carries out a command or answers a question; returns whether the user leaves."""
    try:
        if not is_command(line):
            _answer(session, session.ask(clean_input(line)), screen)
            return False
        outcome = execute(line, session)
        _show(outcome, screen)
        if outcome.answer is not None:
            _answer(session, outcome.answer, screen)
        return outcome.is_exit
    except ChatLMError as error:
        screen.error(error)
        return False


def _show(outcome: Outcome, screen: Screen) -> None:
    if outcome.clears_screen:
        screen.clear()
    if outcome.text:
        screen.line(outcome.text)


def _answer(session: ChatSession, pieces: Generator[str], screen: Screen) -> None:
    """Shows an answer as it comes; Ctrl-C stops it and keeps what was said."""
    sanitizer = Sanitizer()
    screen.write(ASSISTANT)
    stopped = ""
    try:
        with closing(pieces):
            for piece in pieces:
                screen.write(sanitizer.push(piece))
    except KeyboardInterrupt:
        stopped = "（已停止）"
    finally:
        screen.write("\n")
    screen.line(f"{stopped}[{session.last}]")


def answer_lines(session: ChatSession, lines: BinaryIO, screen: Screen) -> int:
    r"""Answers a pipe: one question a line in, one answer a line out; returns the exit code.

    A newline inside an answer is written as the two characters `\n`, an empty line is answered by
    an empty line, so that line n belongs to line n. Commands work and write to stderr only.

    Raises:
        ChatLMError: a question cannot be answered.
    """
    for raw in lines:
        line = raw.decode("utf-8", "replace").removeprefix("\ufeff").rstrip("\r\n")
        if not line.strip():
            screen.write("\n")
        elif not is_command(line):
            _answer_line(session.ask(clean_input(line)), screen)
        else:
            outcome = execute(line, session)
            _show(outcome, screen)
            if outcome.is_exit:
                break
            if outcome.answer is not None:
                _answer_line(outcome.answer, screen)
    return 0


def _answer_line(pieces: Generator[str], screen: Screen) -> None:
    with closing(pieces):
        answer = sanitize("".join(pieces)).strip()
    screen.write(answer.replace("\n", "\\n") + "\n")


def answer_once(session: ChatSession, question: str, screen: Screen) -> int:
    """Answers one question, lines kept as they are; returns the exit code.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with what was said so far already written.
    """
    sanitizer = Sanitizer()
    try:
        with closing(session.ask(clean_input(question))) as pieces:
            for piece in pieces:
                screen.write(sanitizer.push(piece))
    finally:
        screen.write("\n")
    if not screen.is_plain:
        screen.line(f"[{session.last}]")
    return 0


def clean_input(text: str) -> str:
    """Returns what was typed as text that UTF-8 can encode, without the blanks around it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()


def history_file() -> Path | None:
    """Returns the file that remembers typed lines, made for its owner only; None if impossible."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    path = Path(state).expanduser() / "chatlm" / "history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
    except OSError:
        return None
    return path


class Keyboard:
    """Line editing, history and completion of commands, by prompt_toolkit."""

    def __init__(self) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import FileHistory, InMemoryHistory
        from prompt_toolkit.output import ColorDepth

        path = history_file()
        self._session: PromptSession[str] = PromptSession(
            history=FileHistory(str(path)) if path else InMemoryHistory(),
            completer=WordCompleter(list(NAMES), sentence=True),
            complete_while_typing=False,
            enable_history_search=True,
            color_depth=ColorDepth.DEPTH_1_BIT if "NO_COLOR" in os.environ else None,
        )

    def read(self, prompt: str) -> str:
        """Returns a line; see `Reader`.

        While it reads, Ctrl-C is a key. Pressed a moment before that it is a signal, which would
        end the event loop in the middle of its start; it is then ignored.
        """
        previous = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            return self._session.prompt(prompt, handle_sigint=False)
        finally:
            signal.signal(signal.SIGINT, previous)


def use_utf8(*streams: TextIO) -> None:
    """Makes streams write UTF-8, whatever the locale, and never fail on a character."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="replace")


def is_at_keyboard() -> bool:
    """Tells whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def talk(session: ChatSession, question: str = "") -> int:
    """Chooses the way that fits the process's streams; returns the exit code."""
    if question:
        screen = Screen(sys.stdout, sys.stderr, is_plain=not sys.stdout.isatty())
        return answer_once(session, question, screen)
    if is_at_keyboard():
        code = converse(session, Keyboard(), Screen(sys.stdout, sys.stderr, is_plain=False))
        # Who presses Ctrl-C once more while the process ends has got what he wants.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return code
    screen = Screen(sys.stdout, sys.stderr, is_plain=True)
    return answer_lines(session, sys.stdin.buffer, screen)
