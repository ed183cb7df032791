"""Door 2: argv in, a conversation out.

    python cli_demo.py                          chat with the newest model under out/
    python cli_demo.py chat model=out/train-001 temperature=0.7
    python cli_demo.py chat "中国的首都是哪里？"    one question, one answer
    cat questions.txt | python cli_demo.py      one question a line, one answer a line
    python cli_demo.py serve                    the same model over HTTP
    python cli_demo.py compare model=out/zh data=data/alpaca_data_zh.json
                                                a tuned model and its base, side by side

It parses and dispatches; what a chat does is in `chatlm.chat` and `chatlm.terminal`, what a server
does in `chatlm.server`, a comparison in `chatlm.comparison`. Nothing that takes long is imported
before it is needed.
"""

import difflib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

from chatlm import cli
from chatlm.chat.settings import ChatSettings
from chatlm.checkpoint.paths import resolve_model
from chatlm.errors import ConfigError
from chatlm.sanitize import sanitize

USAGE = """用法：
  python cli_demo.py [chat] [键=值 ...]          和模型对话
  python cli_demo.py chat [键=值 ...] "问题"      只问一个问题
  python cli_demo.py chat [键=值 ...] < 问题.txt  每行一个问题，每行一个回答
  python cli_demo.py serve [键=值 ...]           网页和 HTTP 接口（serve --help 列出它的键）
  python cli_demo.py compare [键=值 ...]         和底座并排比较（compare --help 列出它的键）

退出码：0 正常，1 模型出错，2 命令或设置要改，130 被 Ctrl-C 打断，143 收到 SIGTERM。

chat 的键（写成 键=值，--键=值 或 --键 值 都行；问题本身像 键=值 时，放在 -- 之后）：
"""
SETTING = re.compile(r"(--)?[A-Za-z_][\w.]*=", re.ASCII)
ALIASES = {"beams": "num_beams"}


@dataclass(frozen=True)
class ChatConfig(ChatSettings):
    """Settings of `cli_demo.py chat`."""

    model: str = field(
        default="",
        metadata={"help": "检查点、训练、导出或任何 Hugging Face 模型的目录；不写用 out/ 下最新的"},
    )
    device: str = field(default="auto", metadata={"help": "auto、cpu 或 cuda"})
    dtype: str = field(
        default="auto", metadata={"help": "权重的精度：auto（GPU 上 bf16）、fp32 或 bf16"}
    )
    no_stream: bool = field(default=False, metadata={"help": "回答完了再一次显示"})
    json: bool = field(default=False, metadata={"help": "每个回答输出一行 JSON"})
    dialogue: bool = field(
        default=False, metadata={"help": "管道里的各行是一段对话；否则每行单独回答"}
    )

    def chat_settings(self) -> ChatSettings:
        """Returns the part that decides how an answer is chosen."""
        keys = {key.name: getattr(self, key.name) for key in fields(ChatSettings)}
        return ChatSettings(**keys).with_line_ends()


FLAGS = tuple(key.name for key in fields(ChatConfig) if key.default is False)


def split_question(argv: Sequence[str]) -> tuple[list[str], str]:
    """Returns the settings among the tokens, and the rest as the question."""
    settings: list[str] = []
    question: list[str] = []
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        following = tokens[0] if tokens else "--"
        if token == "--":
            question += tokens
            break
        if SETTING.match(token):
            settings.append(token)
        elif token.removeprefix("--") in FLAGS and token.startswith("--"):
            is_value = following.lower() in ("true", "false")
            settings.append(f"{token}={tokens.pop(0) if is_value else True}")
        elif token.startswith("--"):
            settings.append(token)
            if not following.startswith("--") and not SETTING.match(following):
                settings.append(tokens.pop(0))
        else:
            question.append(token)
    return settings, " ".join(question)


def chat(argv: Sequence[str]) -> int:
    """Opens a model and talks."""
    settings, question = split_question(argv)
    config = cli.parse(settings, ChatConfig, aliases=ALIASES)
    chat_settings = config.chat_settings()
    folder = resolve_model(config.model or None)
    if not config.model and sys.stderr.isatty():
        from chatlm.inference.ct2_files import exported_of

        if faster := exported_of(folder):
            hint = f"提示：它已导出为 {faster}，打开和回答都更快：model={faster}"
            print(sanitize(hint), file=sys.stderr)

    from chatlm.inference.engine import Engine
    from chatlm.inference.open import open_engine, read_limits
    from chatlm.terminal.talk import Manner, open_and_talk

    limits = read_limits(folder)
    chat_settings.resolve(limits)  # refuses values now that would only be refused by the engine
    manner = Manner(
        question, streams=not config.no_stream, is_json=config.json, is_dialogue=config.dialogue
    )

    def open_it() -> Engine:
        return open_engine(folder, config.device, dtype=config.dtype)

    return open_and_talk(folder, limits, open_it, chat_settings, manner)


def serve(argv: Sequence[str]) -> int:
    """Answers over HTTP until it is told to end."""
    from chatlm.server import run

    return run.serve(argv)


def compare(argv: Sequence[str]) -> int:
    """Lets a tuned model and its base answer the same questions."""
    from chatlm.comparison import door

    return door.run(argv)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "chat": chat,
    "serve": serve,
    "compare": compare,
}
OWN_HELP = ("serve", "compare")


def main(argv: Sequence[str]) -> int:
    """Runs the command that argv names, `chat` if it names none.

    Raises:
        ConfigError: there is no such command.
    """
    from chatlm.terminal.tty import mend_streams

    mend_streams()
    if argv and argv[0] in OWN_HELP:
        return COMMANDS[argv[0]](argv[1:])
    words = list(argv)[: list(argv).index("--")] if "--" in argv else argv
    if any(word in ("-h", "--help") for word in words) or list(argv[:1]) == ["help"]:
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
