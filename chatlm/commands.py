"""What a user can type in a chat besides questions.

In: a line and a session. Out: an `Outcome` that says what to show, whom to let answer, and whether
to leave. It changes the session but prints nothing; `terminal` shows outcomes.
"""

import difflib
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.cells import cell_len

from chatlm import cli
from chatlm.chat.session import ChatSession
from chatlm.chat.settings import ChatSettings
from chatlm.errors import ConfigError

BARE = {"exit": "/exit", "quit": "/exit", "cls": "/cls"}
HELP = {
    "/help": "显示这张表",
    "/reset": "忘掉这段对话，从头开始",
    "/set 键=值 ...": "改变生成参数，例如 /set temperature=0.7 top_p=0.9",
    "/show": "显示模型、参数和历史长度",
    "/save [文件]": "把对话存成 JSON 文件",
    "/load 文件": "读回存好的对话",
    "/retry": "重新回答上一个问题",
    "/stats": "显示本次会话的回答数、token 数和速度",
    "/exit": "退出（exit、Ctrl-D 也行）",
    "cls": "清屏并忘掉这段对话",
    '"""': '开始多行问题，再用一个 """ 结束',
    "Ctrl-C": "停止正在生成的回答",
}


@dataclass(frozen=True)
class Outcome:
    """What a command leads to."""

    text: str = ""
    answer: Generator[str] | None = None
    is_exit: bool = False
    clears_screen: bool = False


def is_command(line: str) -> bool:
    """Tells whether a line is a command; a question may begin with '/' after a space."""
    return line.startswith("/") or line.strip() in BARE


def execute(line: str, session: ChatSession) -> Outcome:
    """Carries out a command.

    Raises:
        ConfigError: there is no such command, or a setting is refused.
        DataError: a file cannot be read or written, or there is nothing to retry.
    """
    line = line.strip()
    name, _, argument = BARE.get(line, line).partition(" ")
    action = _ACTIONS.get(name)
    if action is None:
        close = difflib.get_close_matches(name, _ACTIONS, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else "/help lists them"
        raise ConfigError(
            f"unknown command '{name}': {hint} (a question may begin with '/' after a space)"
        )
    return action(session, argument.strip())


def _help(_session: ChatSession, _argument: str) -> Outcome:
    return Outcome(table(HELP))


def table(rows: dict[str, str]) -> str:
    """Returns two columns, aligned by the width of characters on a screen."""
    width = max(map(cell_len, rows))
    return "\n".join(f"{left}{' ' * (width - cell_len(left))}  {rows[left]}" for left in rows)


def _reset(session: ChatSession, _argument: str) -> Outcome:
    session.reset()
    return Outcome("对话已清空。")


def _clear(session: ChatSession, _argument: str) -> Outcome:
    session.reset()
    return Outcome("对话已清空。", clears_screen=True)


def _set(session: ChatSession, argument: str) -> Outcome:
    if not argument:
        raise ConfigError("/set needs key=value, for example /set temperature=0.7")
    given = cli.overrides(argument.split(), ChatSettings)
    session.settings = cli.build(ChatSettings, asdict(session.settings), given)
    return Outcome(" ".join(f"{key}={getattr(session.settings, key)}" for key in given))


def _show(session: ChatSession, _argument: str) -> Outcome:
    turns = len(session.messages) // 2
    sent = "单轮模型，历史不会发给它" if session.is_single_turn else "发给模型的轮数上限"
    rows = {key: str(value) for key, value in asdict(session.settings).items()}
    rows["model"] = session.engine.name
    rows["history_turns"] = f"{session.engine.limits.history_turns}（{sent}）"
    rows["history"] = f"{turns} 轮"
    return Outcome(table(rows))


def _save(session: ChatSession, argument: str) -> Outcome:
    path = Path(argument or time.strftime("chat-%Y%m%d-%H%M%S.json")).expanduser()
    session.save(path)
    return Outcome(f"已保存 {len(session.messages) // 2} 轮对话到 {path}")


def _load(session: ChatSession, argument: str) -> Outcome:
    if not argument:
        raise ConfigError("/load needs a file: one that /save wrote")
    session.load(Path(argument).expanduser())
    note = "（单轮模型：历史不会发给它）" if session.is_single_turn else ""
    return Outcome(f"已读入 {len(session.messages) // 2} 轮对话{note}")


def _retry(session: ChatSession, _argument: str) -> Outcome:
    question, answer = session.retry()
    return Outcome(f"重新回答：{question}", answer=answer)


def _stats(session: ChatSession, _argument: str) -> Outcome:
    return Outcome(f"{session.total.answers} 个回答，{session.total}")


def _exit(_session: ChatSession, _argument: str) -> Outcome:
    return Outcome(is_exit=True)


_ACTIONS: dict[str, Callable[[ChatSession, str], Outcome]] = {
    "/help": _help,
    "/?": _help,
    "/reset": _reset,
    "/cls": _clear,
    "/set": _set,
    "/show": _show,
    "/save": _save,
    "/load": _load,
    "/retry": _retry,
    "/stats": _stats,
    "/exit": _exit,
    "/quit": _exit,
    "/bye": _exit,
}
NAMES = tuple(_ACTIONS)
