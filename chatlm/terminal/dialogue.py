"""A conversation at a keyboard: lines in, answers on the screen as they come.

In: a session, whoever types, and a screen. Out: the exit code. Ctrl-C stops an answer and keeps
what came; at the prompt it hints, and twice it leaves. A mistake is one line, and the chat goes on.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from typing import Protocol

from chatlm.chat.session import ChatSession
from chatlm.commands import Outcome, execute, is_command, needs_model
from chatlm.corpus.conversation import ASSISTANT, USER
from chatlm.errors import ChatLMError
from chatlm.sanitize import Sanitizer
from chatlm.terminal.screen import Screen
from chatlm.terminal.tty import Interrupts, keys_wait

FENCE = '"""'
HINT = "再按一次 Ctrl-C，或按 Ctrl-D，就退出。"
STOPPED = "（已停止）"
BASE = "底座："
"""Stands before an answer without the adapters."""


class Reader(Protocol):
    """Where a user at a keyboard types."""

    def read(self, prompt: str) -> str:
        """Returns a line.

        Raises:
            EOFError: Ctrl-D. KeyboardInterrupt: Ctrl-C. ChatLMError: there will be no model.
        """
        ...


def clean_input(text: str) -> str:
    """Returns what was typed as text that UTF-8 can encode, without the blanks around it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip()


def greeting(session: ChatSession) -> list[str]:
    """Returns what a user should know before the first question."""
    limits = session.engine.limits
    turns = "放得下的" if limits.has_all_turns else f"最近 {limits.history_turns} 轮"
    model = (
        "单轮模型：每个问题单独回答，历史只保存，不发给模型。"
        if session.is_single_turn
        else f"多轮模型：{turns}对话会一起发给模型。"
    )
    base = [f"它是 {limits.base} 加上适配器：/base 换成底座回答，再换回来。"] if limits.base else []
    return [
        f"ChatLM · {session.engine.name}",
        model,
        *base,
        "/help 显示命令，Ctrl-C 停止回答，Ctrl-D 退出。",
    ]


def notes(session: ChatSession) -> list[str]:
    """Returns what a user should know about the prompt of the latest answer."""
    said: list[str] = []
    if session.prompt is not None and session.prompt.is_cut:
        room = session.engine.limits.max_source_tokens - 1
        said.append(f"（问题太长：模型只读到前 {room} 个 token。）")
    if session.has_begun_to_forget:
        said.append(f"（对话长了：最早的 {session.left_out} 轮不再发给模型；/reset 从头开始。）")
    return said


def converse(
    session: ChatSession,
    reader: Reader,
    screen: Screen,
    wait_for_model: Callable[[], None] = lambda: None,
) -> int:
    """Talks with a user at a keyboard until he leaves; returns the exit code.

    Args:
        session: what answers.
        reader: who asks.
        screen: who sees it.
        wait_for_model: returns when the model is there.

    Raises:
        ChatLMError: there will be no model.
    """
    return _Dialogue(session, reader, screen, wait_for_model).run()


class _Dialogue:
    def __init__(
        self,
        session: ChatSession,
        reader: Reader,
        screen: Screen,
        wait_for_model: Callable[[], None],
    ) -> None:
        self._session = session
        self._reader = reader
        self._screen = screen
        self._wait_for_model = wait_for_model

    def run(self) -> int:
        for line in greeting(self._session):
            self._screen.line(line)
        with Interrupts() as self._interrupts:
            was_interrupted = False
            while True:
                try:
                    line = self._read()
                except EOFError:
                    return 0
                except KeyboardInterrupt:
                    if was_interrupted:
                        return 0
                    was_interrupted = True
                    self._screen.line(HINT)
                    continue
                was_interrupted = False
                if line.strip() and self._react(line):
                    return 0
                self._interrupts.take()  # pressed once more while an answer was being stopped

    def _read(self) -> str:
        """Returns a line, or the lines between two fences."""
        if self._interrupts.take():
            raise KeyboardInterrupt
        line = self._reader.read(USER)
        if not line.lstrip().startswith(FENCE):
            return line
        lines = [line.lstrip().removeprefix(FENCE)]
        while not lines[-1].rstrip().endswith(FENCE):
            lines.append(self._reader.read("…… "))
        lines[-1] = lines[-1].rstrip().removesuffix(FENCE)
        return "\n".join(lines).strip("\n")

    def _react(self, line: str) -> bool:
        """Carries out a command or answers a question; returns whether the user leaves."""
        if needs_model(line):
            try:
                with keys_wait(), self._interrupts.allowed():
                    self._wait_for_model()
            except KeyboardInterrupt:
                self._screen.line(STOPPED)
                return False
        try:
            if not is_command(line):
                self._answer(self._session.ask(clean_input(line)))
                return False
            outcome = execute(line, self._session)
            self._show(outcome)
            if outcome.answer is not None:
                self._answer(outcome.answer)
            return outcome.is_exit
        except ChatLMError as error:
            self._screen.error(error)
            return False

    def _show(self, outcome: Outcome) -> None:
        if outcome.clears_screen:
            self._screen.clear()
        if outcome.text:
            self._screen.line(outcome.text)

    def _answer(self, pieces: Generator[str]) -> None:
        """Shows an answer as it comes; Ctrl-C stops it and keeps what was said."""
        sanitizer = Sanitizer()
        said: list[str] = []
        is_stopped = False
        self._screen.write(BASE if self._session.is_base else ASSISTANT)
        try:
            with keys_wait(), self._interrupts.allowed(), closing(pieces):
                for piece in pieces:
                    said.append(sanitizer.push(piece))
                    if self._screen.streams:
                        self._screen.write(said[-1])
        except KeyboardInterrupt:
            is_stopped = True
        finally:
            self._screen.write("\n" if self._screen.streams else f"{''.join(said)}\n")
        if is_stopped and not said:
            self._screen.line(STOPPED)
            return
        for note in notes(self._session):
            self._screen.line(note)
        how = {"cancelled": STOPPED, "length": "（到长度上限）"}.get(self._session.reason or "", "")
        if not how and not "".join(said).strip():
            how = "（没有回答）"
        self._screen.line(f"{how}[{self._session.last}]")
