"""A conversation with a model: history, prompt, answer, piece by piece.

In: questions. Out: pieces of text, and a history that can be saved. It does not print and does not
clean text; `terminal` does, with `sanitize`. The server keeps no conversations: it makes each
request's prompt and text with the same `prompt.fit` and `AnswerText`.
"""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from chatlm.chat.answer import AnswerText
from chatlm.chat.conversation_file import read_messages, save_messages
from chatlm.chat.prompt import Message, Prompt, fit
from chatlm.chat.settings import ChatSettings
from chatlm.errors import ConfigError, DataError
from chatlm.inference.engine import Engine, Reason, Request, tokens

RETRY_TEMPERATURE = 0.8


@dataclass
class Stats:
    """What a session has produced.

    Attributes:
        answers: how many.
        tokens: ids of the answers.
        seconds: spent answering.
        first_token_seconds: from the question to the first id, summed over the answers.
    """

    answers: int = 0
    tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float = 0.0

    def add(self, other: "Stats") -> None:
        """Adds another count to this one."""
        self.answers += other.answers
        self.tokens += other.tokens
        self.seconds += other.seconds
        self.first_token_seconds += other.first_token_seconds

    @property
    def tokens_per_second(self) -> float:
        """Of the time spent answering."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        return f"{self.tokens} tokens, {self.tokens_per_second:.1f} tok/s"


class ChatSession:
    """One conversation.

    Attributes:
        messages: what was said, question and answer in turn. A single-turn model's history is kept
            and saved, but not sent to it.
        last: count of the latest answer. total: of all answers.
        prompt: what the model got for the latest answer; None before the first.
        left_out: earlier turns that were not sent for the latest answer, for want of room.
        has_begun_to_forget: whether that answer was the first without them.
        reason: why the latest answer ended; "cancelled" if it was stopped, None if it failed.
        is_alone: questions have nothing to do with each other: each is sent without history, and
            only the latest is kept.
        is_base: the base of the model answers, without its adapters.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ChatSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens a conversation.

        Raises:
            ConfigError: the engine cannot work with these settings.
        """
        self.engine = engine
        self.messages: list[Message] = []
        self.last = Stats()
        self.total = Stats()
        self.prompt: Prompt | None = None
        self.left_out = 0
        self.has_begun_to_forget = False
        self.reason: Reason | None = None
        self.is_alone = False
        self.is_base = False
        self._last_is_base: bool | None = None
        self._clock = clock
        self.settings = settings or ChatSettings()

    @property
    def settings(self) -> ChatSettings:
        """How answers are chosen; setting it raises `ConfigError` for what cannot work."""
        return self._settings

    @settings.setter
    def settings(self, settings: ChatSettings) -> None:
        self.engine.check(settings.resolve(self.engine.limits))
        self._settings = settings

    @property
    def is_single_turn(self) -> bool:
        """Whether the model sees nothing but the latest question."""
        return self.is_alone or self.engine.limits.history_turns == 0

    def hear_base(self, is_base: bool) -> None:
        """Lets the base answer from now on, or the whole model again.

        Raises:
            ConfigError: the model has no adapters.
        """
        if not self.engine.limits.base:
            raise ConfigError(
                f"{self.engine.name} has no adapters, so that there is no base to hear without them"
            )
        self.is_base = is_base

    def ask(self, question: str, settings: ChatSettings | None = None) -> Generator[str]:
        """Yields the answer's pieces, and adds question and answer to the history at the end.

        There is one piece for each token, perhaps an empty one. A stopped answer (the generator is
        closed, or Ctrl-C) is kept as far as it came; one that said nothing, or failed, leaves no
        trace in the history.

        Raises:
            EngineError: the model failed.
        """
        settings = settings or self._settings
        said: list[str] = []
        self.reason = "cancelled"
        self.last = Stats(answers=1)
        start = self._clock()
        self.prompt = self._prompt(question)
        failed = False
        try:
            for piece in self._pieces(self.prompt, settings, start):
                said.append(piece)
                yield piece
        except Exception:
            failed = True
            self.reason = None
            raise
        finally:
            self.last.seconds = self._clock() - start
            if not failed:
                self.total.add(self.last)
                self._remember(question, "".join(said))

    def _prompt(self, question: str) -> Prompt:
        history = [] if self.is_single_turn else self.messages
        prompt = fit(history, question, self.engine.tokenizer, self.engine.limits)
        left_out = len(history) // 2 - prompt.turns
        self.has_begun_to_forget = left_out > 0 and self.left_out == 0
        self.left_out = left_out
        return prompt

    def outlook(self) -> tuple[int, int]:
        """Returns the tokens of the whole history, and how many turns a short question can take."""
        codec, limits = self.engine.tokenizer, self.engine.limits
        tokens_of_all = sum(len(codec.encode(message.content)) for message in self.messages)
        history = [] if self.is_single_turn else self.messages
        return tokens_of_all, fit(history, "？", codec, limits).turns

    def _pieces(self, prompt: Prompt, settings: ChatSettings, start: float) -> Generator[str]:
        config = settings.resolve(self.engine.limits)
        text = AnswerText(self.engine.tokenizer, settings.stop)
        with closing(self._ids(Request(prompt.ids, config, self.is_base))) as answer:
            for ids in answer:
                if not self.last.tokens:
                    self.last.first_token_seconds = self._clock() - start
                piece = text.push(ids)
                self.last.tokens = text.num_tokens
                yield piece
                if text.is_stopped:
                    self.reason = "stop"
                    return
        if rest := text.finish():
            yield rest

    def _ids(self, request: Request) -> Generator[tuple[int, ...]]:
        self.reason = yield from tokens(self.engine, request)

    def _remember(self, question: str, answer: str) -> None:
        if not answer:
            return
        self._last_is_base = self.is_base
        if self.is_alone:
            self.messages.clear()
        self.messages += [Message("user", question), Message("assistant", answer)]

    def retry(self) -> tuple[str, Generator[str]]:
        """Returns the last question and another answer to it, which takes the place of the old one.

        Greedy decoding, and a fixed seed, would say the same again: for this once the answer is
        sampled with a new seed. Not so where the base gave the last answer and the model is to give
        this one, or the other way round: the two can be compared. A new answer that says nothing,
        or fails, leaves the old one.

        Raises:
            DataError: nothing has been answered yet.
        """
        if not self.messages:
            raise DataError("nothing to retry: ask a question first")
        question = self.messages[-2].content
        if self._last_is_base not in (None, self.is_base):
            return question, self._another(question, self._settings)
        settings = replace(self._settings, seed=None)
        if settings.temperature == 0:
            settings = replace(
                settings, temperature=RETRY_TEMPERATURE, num_beams=1, length_penalty=1.0
            )
        return question, self._another(question, settings)

    def _another(self, question: str, settings: ChatSettings) -> Generator[str]:
        old = self.messages[-2:]
        del self.messages[-2:]
        others = len(self.messages)
        try:
            yield from self.ask(question, settings)
        finally:
            if len(self.messages) == others:
                self.messages += old

    def undo(self) -> str:
        """Takes back the last question and its answer; returns the question.

        Raises:
            DataError: nothing has been answered yet.
        """
        if not self.messages:
            raise DataError("nothing to undo: ask a question first")
        question = self.messages[-2].content
        del self.messages[-2:]
        self._last_is_base = None
        return question

    def reset(self) -> None:
        """Forgets the conversation."""
        self.messages.clear()
        self.left_out = 0

    def save(self, path: Path) -> None:
        """Writes the conversation as JSON, readable by its owner only.

        Raises:
            DataError: the file cannot be written, or is something other than a conversation.
        """
        save_messages(path, self.engine.name, self.messages)

    def load(self, path: Path) -> None:
        """Replaces the conversation by a saved one.

        Raises:
            DataError: the file is missing or holds no conversation.
        """
        self.messages = read_messages(path)
        self._last_is_base = None
