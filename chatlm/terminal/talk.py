"""From a folder or a session to the end of the chat: which way fits the process's streams.

In: what the door was asked for. Out: the exit code.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from chatlm.chat.session import ChatSession
from chatlm.chat.settings import ChatSettings
from chatlm.inference.engine import Engine, Limits
from chatlm.sanitize import sanitize
from chatlm.terminal.batch import answer_lines, answer_once
from chatlm.terminal.dialogue import converse
from chatlm.terminal.screen import Screen
from chatlm.terminal.tty import ctrl_c_ends_at_once, end_on_sigterm, is_at_keyboard

BLINK_SECONDS = 0.3


@dataclass(frozen=True)
class Manner:
    """How answers are given.

    Attributes:
        question: the only one; empty: those of the keyboard or of the pipe.
        streams: whether an answer is shown while it comes.
        is_json: an object for each answer; at a keyboard too, without a prompt.
        is_dialogue: the lines of a pipe are one conversation; otherwise each is asked alone.
    """

    question: str = ""
    streams: bool = True
    is_json: bool = False
    is_dialogue: bool = False


def talk(session: ChatSession, manner: Manner | None = None) -> int:
    """Talks with an engine that is there; returns the exit code."""
    manner = manner or Manner()
    end_on_sigterm()
    try:
        if not manner.question and not manner.is_json and is_at_keyboard():
            return _at_keyboard(session, manner)
        return _answer(session, manner)
    finally:
        session.engine.close()


def open_and_talk(
    folder: Path,
    limits: Limits,
    open_it: Callable[[], Engine],
    settings: ChatSettings,
    manner: Manner,
) -> int:
    """Talks with an engine that has to be opened; returns the exit code.

    At a keyboard the user types while it is opened.

    Raises:
        ChatLMError: it cannot be opened, or a question cannot be answered.
    """
    if not manner.question and not manner.is_json and is_at_keyboard():
        restore = end_on_sigterm()
        return _while_opening(folder, limits, open_it, settings, manner, restore)
    with ctrl_c_ends_at_once(), _said_if_it_takes_long(folder):
        session = ChatSession(open_it(), settings)
    return talk(session, manner)


def _while_opening(
    folder: Path,
    limits: Limits,
    open_it: Callable[[], Engine],
    settings: ChatSettings,
    manner: Manner,
    restore: Callable[[], None],
) -> int:
    from chatlm.terminal.keyboard import Keyboard
    from chatlm.terminal.opening import OpeningEngine

    keyboard = Keyboard()
    screen = Screen(sys.stdout, sys.stderr, is_plain=False, streams=manner.streams)
    engine = OpeningEngine(str(folder), limits, open_it, keyboard.fail)

    def wait() -> None:
        if not engine.wait(BLINK_SECONDS):
            screen.line(f"正在打开 {folder} …")
            engine.wait()

    try:
        code = converse(ChatSession(engine, settings), keyboard, screen, wait)
    except SystemExit as end:
        code = int(end.code or 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if engine.is_opening:  # a library that is just being imported does not like to be torn down
        restore()
        os._exit(code)
    engine.close()
    return code


def _at_keyboard(session: ChatSession, manner: Manner) -> int:
    from chatlm.terminal.keyboard import Keyboard

    screen = Screen(sys.stdout, sys.stderr, is_plain=False, streams=manner.streams)
    code = converse(session, Keyboard(), screen)
    # Who presses Ctrl-C once more while the process ends has got what he wants.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def _answer(session: ChatSession, manner: Manner) -> int:
    if manner.question:
        is_plain = manner.is_json or not sys.stdout.isatty()
        screen = Screen(sys.stdout, sys.stderr, is_plain=is_plain, streams=manner.streams)
        return answer_once(session, manner.question, screen, is_json=manner.is_json)
    session.is_alone = not manner.is_dialogue
    screen = Screen(sys.stdout, sys.stderr, is_plain=True)
    return answer_lines(session, sys.stdin.buffer, screen, is_json=manner.is_json)


@contextmanager
def _said_if_it_takes_long(folder: Path) -> Iterator[None]:
    """Tells a person who waits, and no pipe, what he is waiting for."""

    def say() -> None:
        print(sanitize(f"正在打开 {folder} …"), file=sys.stderr, flush=True)

    timer = threading.Timer(BLINK_SECONDS, say)
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
