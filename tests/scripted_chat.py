"""A model that says what it was told, for transcripts; as a program, a whole chat with it.

python scripted_chat.py [seconds a piece] [history turns] [question]
"""

import itertools
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path

from chatlm import cli, terminal
from chatlm.chat import ChatSession, ChatSettings
from chatlm.errors import ConfigError

ANSWERS = {
    "你好": ["你好", "！", "很高兴", "见到你。"],
    "写两行": ["第一行", "\n", "第二行"],
    "攻击": ["安", "\x1b[3", "1m全\x1b]0;标", "题\x07", "\u202e的\x9b2J", "。\x00\x7f"],
    "慢": ["字"] * 1000,
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


class ScriptedBackend:
    """Answers from a table, otherwise with what it was asked; a prompt fits up to 40 characters."""

    name = "scripted"

    def __init__(self, history_turns: int = 0, seconds_a_piece: float = 0.0) -> None:
        self.history_turns = history_turns
        self.seconds_a_piece = seconds_a_piece
        self.prompts: list[str] = []
        self.settings: list[ChatSettings] = []
        self.closed = 0

    def fits(self, prompt: str) -> bool:
        return len(prompt) <= 40

    def check(self, settings: ChatSettings) -> None:
        if settings.temperature < 0:
            raise ConfigError(f"temperature={settings.temperature}: expected 0 or more")

    def stream(self, prompt: str, settings: ChatSettings) -> Generator[str]:
        self.prompts.append(prompt)
        self.settings.append(settings)
        try:
            for piece in ANSWERS.get(prompt, [f"您问的是「{prompt}」"]):
                time.sleep(self.seconds_a_piece)
                yield piece
        finally:
            self.closed += 1


def session(history_turns: int = 0, seconds_a_piece: float = 0.0) -> ChatSession:
    """Returns a session whose every answer takes half a second by its clock."""
    ticks = itertools.count(0.0, 0.5)
    return ChatSession(ScriptedBackend(history_turns, seconds_a_piece), clock=lambda: next(ticks))


def main(argv: list[str]) -> int:
    seconds, turns, question = [*argv, *["0", "0", ""][len(argv) :]]
    terminal.use_utf8(sys.stdout, sys.stderr)
    return terminal.talk(session(int(turns), float(seconds)), question)


if __name__ == "__main__":
    cli.run(lambda argv: main(list(argv)))
