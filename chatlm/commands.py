"""What a user can type in a chat besides questions.

In: a line and a session. Out: an `Outcome` that says what to show, whom to let answer, and whether
to leave. It changes the session but prints nothing; `terminal` shows outcomes.
"""

import difflib
import shlex
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
    "/set 键=值 ...": "改变生成参数，例如 /set temperature=0.7 stop=。,\\n",
    "/show": "显示模型、参数和历史长度",
    "/base [on|off]": "换成底座回答，或换回来；接着用 /retry 比较同一个问题",
    "/save [文件]": "把对话存成 JSON 文件",
    "/load 文件": "读回存好的对话",
    "/retry": "重新回答上一个问题",
    "/undo": "收回上一个问题和它的回答",
    "/stats": "显示本次会话的回答数、token 数、速度和等第一个字的时间",
    "/exit": "退出（exit、Ctrl-D 也行）",
    "cls": "清屏并忘掉这段对话",
    '"""': '开始多行问题，再用一个 """ 结束',
    "Ctrl-C": "停止正在生成的回答",
    "Alt-Enter": "在问题里换行；粘贴的多行文字也是一个问题",
    "行首的空格": "这一行不记进历史文件",
}


@dataclass(frozen=True)
class Outcome:
    """What a command leads to."""

    text: str = ""
    answer: Generator[str] | None = None
    question: str = ""
    is_exit: bool = False
    clears_screen: bool = False


def is_command(line: str) -> bool:
    """Tells whether a line is a command; a question may begin with '/' after a space."""
    return line.startswith("/") or line.strip() in BARE


def needs_model(line: str) -> bool:
    """Tells whether a line cannot be dealt with before the model is there."""
    return not is_command(line) or line.split(maxsplit=1)[0] in ("/retry", "/show")


def ends_pipe(line: str) -> bool:
    """Tells whether lines after this one would mean something else if this one fails."""
    return line.split(" ", 1)[0].strip() in ("/set", "/load", "/base")


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
    given = cli.overrides(_words(argument), ChatSettings)
    settings = cli.build(ChatSettings, asdict(session.settings), given)
    session.settings = settings.with_line_ends()
    return Outcome(" ".join(f"{key}={shown_setting(session.settings, key)}" for key in given))


def _words(argument: str) -> list[str]:
    """Returns the words of a line; quotes keep blanks together, and a backslash is a backslash."""
    words = shlex.shlex(argument, posix=True, punctuation_chars=False)
    words.whitespace_split, words.escape, words.commenters = True, "", ""
    try:
        return list(words)
    except ValueError as error:
        raise ConfigError(f"/set {argument}: a quotation mark is missing") from error


def shown_setting(settings: ChatSettings, key: str) -> str:
    """Returns a setting's value as one would type it."""
    value = getattr(settings, key)
    if isinstance(value, list):
        return ",".join(map(str, value)).replace("\n", "\\n")
    return "none" if value is None else str(value)


def _show(session: ChatSession, _argument: str) -> Outcome:
    limits = session.engine.limits
    turns = len(session.messages) // 2
    most = "放得下的全部" if limits.has_all_turns else f"{limits.history_turns} 轮"
    num_tokens, can_be_sent = session.outlook()
    sent = "单轮模型，历史不会发给它" if session.is_single_turn else "轮，下一个问题最多带上这些"
    rows = {key: shown_setting(session.settings, key) for key in asdict(session.settings)}
    rows["model"] = session.engine.name
    rows["engine"] = session.engine.kind
    if limits.base:
        rows["base"] = limits.base
        rows["answers"] = "底座，不带适配器" if session.is_base else "带适配器的模型"
    rows["limits"] = (
        f"问题 {limits.max_source_tokens} 个 token，回答 {limits.max_new_tokens} 个，历史 {most}"
    )
    rows["history"] = f"{turns} 轮，{num_tokens} 个 token"
    rows["next question"] = sent if session.is_single_turn else f"{can_be_sent} {sent}"
    return Outcome(table(rows))


def _base(session: ChatSession, argument: str) -> Outcome:
    wanted = {"": not session.is_base, "on": True, "off": False}.get(argument.lower())
    if wanted is None:
        raise ConfigError(f"/base {argument}: expected /base, /base on or /base off")
    session.hear_base(wanted)
    if wanted:
        return Outcome(f"现在由底座 {session.engine.limits.base} 回答；/base off 换回来。")
    return Outcome("现在由带适配器的模型回答。")


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
    return Outcome(f"重新回答：{question}", answer=answer, question=question)


def _undo(session: ChatSession, _argument: str) -> Outcome:
    return Outcome(f"已收回：{session.undo()}")


def _stats(session: ChatSession, _argument: str) -> Outcome:
    total = session.total
    wait = total.first_token_seconds / total.answers if total.answers else 0.0
    return Outcome(f"{total.answers} 个回答，{total}，平均 {wait:.2f} 秒出第一个字")


def _exit(_session: ChatSession, _argument: str) -> Outcome:
    return Outcome(is_exit=True)


_ACTIONS: dict[str, Callable[[ChatSession, str], Outcome]] = {
    "/help": _help,
    "/?": _help,
    "/reset": _reset,
    "/cls": _clear,
    "/set": _set,
    "/show": _show,
    "/base": _base,
    "/save": _save,
    "/load": _load,
    "/retry": _retry,
    "/undo": _undo,
    "/stats": _stats,
    "/exit": _exit,
    "/quit": _exit,
    "/bye": _exit,
}
NAMES = tuple(_ACTIONS)
WITH_FILE = ("/load", "/save")
BASE_CHOICES = ("on", "off")
