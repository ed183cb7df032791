"""Door 2: argv in, a conversation out.

    python cli_demo.py                          chat with the newest model under out/
    python cli_demo.py chat model=out/train-001 temperature=0.7
    python cli_demo.py chat "中国的首都是哪里？"    one question, one answer
    cat questions.txt | python cli_demo.py      one question a line, one answer a line

It parses and dispatches; what a chat does is in `chatlm.chat` and `chatlm.terminal`.
"""

import difflib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

from chatlm import cli, terminal
from chatlm.chat.session import ChatSession
from chatlm.chat.settings import ChatSettings
from chatlm.checkpoint.paths import resolve_model
from chatlm.errors import ConfigError
from chatlm.inference.open import open_engine

USAGE = """用法：
  python cli_demo.py [chat] [键=值 ...]          和模型对话
  python cli_demo.py chat [键=值 ...] "问题"      只问一个问题
  问题.txt 每行一个问题：python cli_demo.py < 问题.txt    每行一个回答

键（写成 键=值，--键=值 或 --键 值 都行；问题本身像 键=值 时，放在 -- 之后）：
"""
SETTING = re.compile(r"(--)?[A-Za-z_][\w.]*=", re.ASCII)


@dataclass(frozen=True)
class ChatConfig(ChatSettings):
    """Settings of `cli_demo.py chat`."""

    model: str = field(default="", metadata={"help": "检查点或训练目录；不写就用 out/ 下最新的"})
    device: str = field(default="auto", metadata={"help": "auto、cpu 或 cuda"})

    def chat_settings(self) -> ChatSettings:
        """Returns the part that decides how an answer is chosen."""
        return ChatSettings(**{key.name: getattr(self, key.name) for key in fields(ChatSettings)})


def split_question(argv: Sequence[str]) -> tuple[list[str], str]:
    """Returns the settings among the tokens, and the rest as the question."""
    settings: list[str] = []
    question: list[str] = []
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        if token == "--":
            question += tokens
            break
        if SETTING.match(token):
            settings.append(token)
        elif token.startswith("--"):
            settings.append(token)
            if tokens and not tokens[0].startswith("--") and not SETTING.match(tokens[0]):
                settings.append(tokens.pop(0))
        else:
            question.append(token)
    return settings, " ".join(question)


def chat(argv: Sequence[str]) -> int:
    """Opens a model and talks."""
    settings, question = split_question(argv)
    config = cli.parse(settings, ChatConfig, aliases={"beams": "num_beams"})
    folder = resolve_model(config.model or None)

    if terminal.is_at_keyboard():
        print(f"正在打开 {folder} ...", file=sys.stderr, flush=True)
    session = ChatSession(open_engine(folder, config.device), config.chat_settings())
    return terminal.talk(session, question)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"chat": chat}


def main(argv: Sequence[str]) -> int:
    """Runs the command that argv names, `chat` if it names none.

    Raises:
        ConfigError: there is no such command.
    """
    terminal.use_utf8(sys.stdout, sys.stderr)
    if any(token in ("-h", "--help") for token in argv) or list(argv[:1]) == ["help"]:
        print(f"{USAGE}{cli.help_text(ChatConfig)}")
        return 0
    if not argv or SETTING.match(argv[0]) or argv[0].startswith("--"):
        return chat(argv)
    if argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:])
    close = difflib.get_close_matches(argv[0], COMMANDS, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"expected {', '.join(COMMANDS)}"
    raise ConfigError(
        f"unknown command '{argv[0]}': {hint} (to ask a question: cli_demo.py chat \"question\")"
    )


if __name__ == "__main__":
    cli.run(main)
