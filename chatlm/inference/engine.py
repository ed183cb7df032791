"""What every engine is: requests in, the ids of their answers out as they come, many at once.

In: source ids with a `GenerationConfig`. Out: events, on a thread of the engine. `TorchEngine`,
`Ct2Engine` and `LanguageEngine` are such engines; who wants one answer in his own thread calls
`tokens`. Knows no text: prompts and detokenising are `chatlm.chat`'s.
"""

import queue
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from chatlm.corpus.conversation import Turn
from chatlm.errors import EngineError
from chatlm.generation_config import GenerationConfig
from chatlm.tokenizer import StreamDecoder

Reason: TypeAlias = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Limits:
    """What the training of a model decided about its use.

    Attributes:
        max_source_tokens: longest prompt that the model was trained on, EOS included.
        max_new_tokens: longest answer where the settings name none.
        history_turns: earlier turns that the model was trained to read; 0: a single-turn model.
        base: the folder or name of what the model is adapters on; empty: it is a model by itself.
    """

    max_source_tokens: int = 256
    max_new_tokens: int = 256
    history_turns: int = 0
    base: str = ""

    @property
    def has_all_turns(self) -> bool:
        """Whether there are always more turns allowed than there is room for."""
        return self.history_turns >= self.max_source_tokens


class Codec(Protocol):
    """What a conversation needs of a tokenizer."""

    @property
    def eos_id(self) -> int: ...  # noqa: D102

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text, without EOS."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of the ids."""
        ...

    def stream(self) -> StreamDecoder:
        """Returns a new decoder for one answer."""
        ...


@runtime_checkable
class Asks(Protocol):
    """What a codec is, too, whose prompts are not made as those of our own models are."""

    def prompt_ids(self, turns: Sequence[Turn], question: str) -> list[int] | None:
        """Returns the ids of a prompt, with all that stands before an answer.

        None if the form of the prompt cannot hold the texts.
        """
        ...


@dataclass(frozen=True)
class Request:
    """One answer to be made.

    Attributes:
        source_ids: the prompt's ids, EOS included.
        config: how its tokens are chosen.
        is_base: whether the base answers, without the adapters; only where `Limits.base` names it.
    """

    source_ids: tuple[int, ...]
    config: GenerationConfig
    is_base: bool = False


@dataclass(frozen=True)
class Tokens:
    """The next ids of an answer, without EOS; with beams all of them at once."""

    ids: tuple[int, ...]


@dataclass(frozen=True)
class Finished:
    """The end of an answer: EOS (`stop`), `max_new_tokens` (`length`), or `Ticket.cancel`."""

    reason: Reason


@dataclass(frozen=True)
class Failed:
    """The end of an answer that could not be made; other answers go on."""

    message: str


Event: TypeAlias = Tokens | Finished | Failed
OnEvent: TypeAlias = Callable[[Event], None]


class Ticket(Protocol):
    """The right to take a request back."""

    def cancel(self) -> None:
        """Ends the answer after at most one more token. May be called at any time, by any thread.

        `Finished("cancelled")` follows, unless the answer has ended before.
        """
        ...


class Engine(Protocol):
    """A model that answers.

    Attributes:
        name: what to call the model.
        kind: what computes, for people: "torch fp32 cpu", "ctranslate2 int8 cpu".
        limits: what the model was trained for.
        tokenizer: the one that the model was trained with.
        max_streams: answers that are made at the same time; further ones wait.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def kind(self) -> str: ...  # noqa: D102

    @property
    def limits(self) -> Limits: ...  # noqa: D102

    @property
    def tokenizer(self) -> Codec: ...  # noqa: D102

    @property
    def max_streams(self) -> int: ...  # noqa: D102

    def check(self, config: GenerationConfig) -> None:
        """Refuses what this engine cannot do.

        Raises:
            ConfigError: with the key and what is allowed.
        """
        ...

    def start(self, request: Request, on_event: OnEvent) -> Ticket:
        """Begins an answer, now or when there is room. May be called by any thread.

        Args:
            request: accepted by `check`.
            on_event: gets the events in order, on a thread of the engine, which it must not hold
                up; the last one is `Finished` or `Failed`, exactly once.
        """
        ...

    def close(self) -> None:
        """Ends all answers as cancelled and lets the model go."""
        ...


def tokens(engine: Engine, request: Request) -> Generator[tuple[int, ...], None, Reason]:
    """Yields the answer's ids as they come, in the caller's thread; returns why it ended.

    Closing it (or Ctrl-C while it waits) cancels the answer and waits for that.

    Raises:
        EngineError: the answer could not be made.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    ticket = engine.start(request, events.put)
    event: Event | None = None
    try:
        while isinstance(event := events.get(), Tokens):
            yield event.ids
    finally:
        if event is None or isinstance(event, Tokens):
            ticket.cancel()
            while isinstance(event := events.get(), Tokens):
                pass
    if isinstance(event, Failed):
        raise EngineError(event.message)
    return event.reason
