"""A person's keyboard: line editing, completion and old lines, by prompt_toolkit.

In: keys. Out: lines, EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C. Alt-Enter begins a new
line, Ctrl-Z suspends the chat; pasted lines come as one question.
"""

import errno
import os
import signal
from collections.abc import Iterable
from dataclasses import fields

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.utils import is_dumb_terminal

from chatlm.chat.settings import ChatSettings
from chatlm.commands import BASE_CHOICES, NAMES, WITH_FILE
from chatlm.errors import ChatLMError
from chatlm.terminal.history import LineHistory, history_file
from chatlm.terminal.tty import keys_wait


class CommandCompleter(Completer):
    """Completes commands, the keys of /set, on and off, and the files of /load and /save."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True, file_filter=_may_be_a_conversation)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """Yields what may stand at the cursor."""
        name, space, argument = document.text_before_cursor.partition(" ")
        if not name.startswith("/"):
            return
        if not space:
            yield from _beginning(name, NAMES)
        elif name in WITH_FILE:
            yield from self._paths.get_completions(Document(argument), complete_event)
        elif name == "/base":
            yield from _beginning(argument, BASE_CHOICES)
        elif name == "/set":
            word = argument.rpartition(" ")[2]
            yield from _beginning(word, [f"{key.name}=" for key in fields(ChatSettings)])


def _beginning(word: str, choices: Iterable[str]) -> Iterable[Completion]:
    return (Completion(each, -len(word)) for each in choices if each.startswith(word))


def _may_be_a_conversation(path: str) -> bool:
    return path.endswith(".json") or os.path.isdir(path)  # noqa: PTH112 - a text, not a Path


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


class Keyboard:
    """The terminal that the process runs in."""

    def __init__(self) -> None:
        self._failure: ChatLMError | None = None
        self._session: PromptSession[str] = PromptSession(
            history=LineHistory(history_file()),
            completer=CommandCompleter(),
            complete_while_typing=False,
            enable_history_search=True,
            enable_suspend=True,
            key_bindings=_keys(),
            color_depth=ColorDepth.DEPTH_1_BIT if "NO_COLOR" in os.environ else None,
        )
        self._was_pressed = False
        self._session.app.after_render += self._forget_press

    def read(self, prompt: str) -> str:
        """Returns a line; as `dialogue.Reader` says.

        While it reads, Ctrl-C is a key. Pressed a moment before that, it is a signal that nobody
        waits for; pressed a moment after the line, it is a key that is meant for the answer.
        """
        if self._failure is not None:
            raise self._failure
        previous = signal.signal(signal.SIGINT, self._press)
        try:
            line = self._session.prompt(prompt, handle_sigint=False)
        except OSError as error:
            if error.errno == errno.EIO:  # the terminal is gone
                raise EOFError from error
            raise
        finally:
            signal.signal(signal.SIGINT, previous)
        if self._has_ctrl_c_after_the_line():
            signal.raise_signal(signal.SIGINT)
        return line

    def _press(self, *_: object) -> None:
        self._was_pressed = True

    def _forget_press(self, *_: object) -> None:
        """Called while Ctrl-C is a key: whatever came as a signal came before the line."""
        self._was_pressed = False

    def _has_ctrl_c_after_the_line(self) -> bool:
        source = self._session.app.input
        with keys_wait():  # from here on Ctrl-C is a signal
            keys = [*get_typeahead(source), *source.read_keys()]
        is_pressed = any(press.key == Keys.ControlC for press in keys)
        if not is_pressed:
            store_typeahead(source, keys)
        if is_dumb_terminal():  # it does not tell when it begins to read
            return is_pressed
        return is_pressed or self._was_pressed

    def fail(self, error: ChatLMError) -> None:
        """Ends the line that is being typed with an error, and every further one; any thread."""
        self._failure = error
        app = self._session.app
        loop = app.loop
        if loop is not None and app.is_running:
            loop.call_soon_threadsafe(lambda: app.is_running and app.exit(exception=error))
