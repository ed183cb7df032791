"""A model that says what it was told, for transcripts; as a program, a whole chat with it.

python scripted_chat.py [seconds a piece] [history turns] [question]
    [--json] [--dialogue] [--no_stream] [--opening=seconds | --opening=0.5fails]
"""

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from chatlm import cli
from chatlm.chat.session import ChatSession
from chatlm.chat.settings import ChatSettings
from chatlm.errors import CheckpointError, ConfigError
from chatlm.generation_config import GenerationConfig
from chatlm.inference.engine import Failed, Finished, Limits, OnEvent, Reason, Request, Tokens
from chatlm.terminal.talk import Manner, open_and_talk, talk
from chatlm.terminal.tty import use_utf8

FAILURE = "<the engine fails here>"
ANSWERS = {
    "你好": ["你好", "！", "很高兴", "见到你。"],
    "写两行": ["第一行", "\n", "第二行"],
    "攻击": ["安", "\x1b[3", "1m全\x1b]0;标", "题\x07", "\u202e的\x9b2J", "。\x00\x7f"],
    "慢": ["字"] * 1000,
    "空": [],
    "错": ["半", FAILURE],
}

PROGRAM = [sys.executable, str(Path(__file__).resolve())]
DEADLINE_SECONDS = 30  # of one wait; a chat that hangs must not hang the tests
GREETING = """\
ChatLM · scripted
单轮模型：每个问题单独回答，历史只保存，不发给模型。
/help 显示命令，Ctrl-C 停止回答，Ctrl-D 退出。
"""


def environment(state: Path, **changes: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    ours = {
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
        "XDG_STATE_HOME": str(state),
        "TERM": "dumb",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }
    return inherited | ours | changes


class Pieces:
    """A tokenizer whose answer ids stand for pieces of any length; a prompt has one a character."""

    eos_id = 1
    _PIECES: ClassVar[list[str]] = []

    def encode(self, text: str) -> list[int]:
        return [ord(char) + 2 for char in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._PIECES[one] for one in ids)

    def stream(self) -> "Pieces":
        return self

    def push(self, token_id: int) -> str:
        return self._PIECES[token_id]

    def flush(self) -> str:
        return ""

    def id_of(self, piece: str) -> int:
        if piece not in self._PIECES:
            self._PIECES.append(piece)
        return self._PIECES.index(piece)

    def prompt(self, ids: Sequence[int]) -> str:
        assert ids[-1] == self.eos_id
        return "".join(chr(one - 2) for one in ids[:-1])


class Cancel:
    """A ticket of a scripted answer."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def cancel(self) -> None:
        self.event.set()


class ScriptedEngine:
    """Answers from a table, otherwise with what it was asked; a prompt fits up to 40 characters.

    Attributes:
        prompts, configs: what it was asked so far. ended: how each answer ended, in that order.
        base: what it would be adapters on; with one, the base answers in its own way.
    """

    name = "scripted"
    kind = "scripted"
    max_streams = 8

    def __init__(
        self, history_turns: int = 0, seconds_a_piece: float = 0.0, base: str = ""
    ) -> None:
        self.limits = Limits(41, 2000, history_turns, base)
        self.tokenizer = Pieces()
        self.seconds_a_piece = seconds_a_piece
        self.prompts: list[str] = []
        self.configs: list[GenerationConfig] = []
        self.ended: list[str] = []

    def check(self, config: GenerationConfig) -> None:
        if config.top_k == 13:
            raise ConfigError("top_k=13: this engine does not like it")

    def start(self, request: Request, on_event: OnEvent) -> Cancel:
        ticket = Cancel()
        prompt = self.tokenizer.prompt(request.source_ids)
        self.prompts.append(prompt)
        self.configs.append(request.config)
        pieces = ["我是", "底座。"] if request.is_base else self.pieces(prompt)
        arguments = (pieces, request.config.max_new_tokens, on_event, ticket.event)
        threading.Thread(target=self._answer, args=arguments, daemon=True).start()
        return ticket

    def pieces(self, prompt: str) -> Iterable[str]:
        return ANSWERS.get(prompt, [f"您问的是「{prompt}」"])

    def _answer(
        self, pieces: Iterable[str], most: int, on_event: OnEvent, cancelled: threading.Event
    ) -> None:
        reason: Reason = "stop"
        for number, piece in enumerate(pieces):
            if number == most:
                reason = "length"
                break
            if piece == FAILURE:
                self.ended.append("failed")
                on_event(Failed("out of memory"))
                return
            if cancelled.wait(self.seconds_a_piece):
                self.ended.append("cancelled")
                on_event(Finished("cancelled"))
                return
            on_event(Tokens((self.tokenizer.id_of(piece),)))
        self.ended.append(reason)
        on_event(Finished(reason))

    def close(self) -> None:
        pass


def session(history_turns: int = 0, seconds_a_piece: float = 0.0, base: str = "") -> ChatSession:
    """Returns a session whose every answer takes half a second by its clock."""
    ticks = itertools.count(0.0, 0.25)  # at the start, at the first token and at the end
    engine = ScriptedEngine(history_turns, seconds_a_piece, base)
    return ChatSession(engine, clock=lambda: next(ticks))


def main(argv: list[str]) -> int:
    flags = [word for word in argv if word.startswith("--")]
    words = [word for word in argv if word not in flags]
    seconds, turns, question = [*words, *["0", "0", ""][len(words) :]]
    use_utf8(sys.stdout, sys.stderr)
    manner = Manner(
        question,
        streams="--no_stream" not in flags,
        is_json="--json" in flags,
        is_dialogue="--dialogue" in flags,
    )
    opening = [flag.removeprefix("--opening=") for flag in flags if flag.startswith("--opening=")]
    if not opening:
        return talk(session(int(turns), float(seconds)), manner)
    engine = ScriptedEngine(int(turns), float(seconds))

    def open_it() -> ScriptedEngine:
        time.sleep(float(opening[0].removesuffix("fails")))
        if opening[0].endswith("fails"):
            raise CheckpointError("model.safetensors is damaged")
        return engine

    return open_and_talk(Path("scripted"), engine.limits, open_it, ChatSettings(), manner)


if __name__ == "__main__":
    cli.run(lambda argv: main(list(argv)))
