"""From messages to the ids that a model reads, exactly as its training data were made.

In: a conversation. Out: a `Prompt`. How many turns fit is counted in tokens; the renderer itself is
`chatlm.corpus.conversation`, which training data share, or the codec, where it is an `Asks`.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from chatlm.corpus import conversation
from chatlm.corpus.conversation import Turn
from chatlm.errors import DataError
from chatlm.inference.engine import Asks, Codec, Limits


@dataclass(frozen=True)
class Message:
    """One side's contribution to a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class Prompt:
    """What the model gets.

    Attributes:
        ids: with EOS, or what else stands before an answer.
        turns: earlier turns that are in it.
        is_cut: whether the question alone is longer than the model reads; its end is missing then,
            as in training.
    """

    ids: tuple[int, ...]
    turns: int
    is_cut: bool


def fit(history: Sequence[Message], question: str, tokenizer: Codec, limits: Limits) -> Prompt:
    """Returns the prompt for `question` after the latest turns that fit.

    Args:
        history: question and answer in turn.
        question: what is asked now.
        tokenizer: the model's.
        limits: the model's.

    Raises:
        DataError: the model's form of a prompt cannot hold the question.
    """
    said = [message.content for message in history]
    turns = list(zip(said[::2], said[1::2], strict=True))
    turns = turns[max(0, len(turns) - limits.history_turns) :]
    if isinstance(tokenizer, Asks):
        return _fit_form(turns, question, tokenizer, limits.max_source_tokens)
    room = limits.max_source_tokens - 1

    def count(texts: list[str]) -> list[int]:
        return [len(tokenizer.encode(text)) for text in texts]

    # As the prompts of the training were made, to the last character.
    fitted = conversation.fit(conversation.prompt_for(turns, question), count, room)
    ids = tokenizer.encode(fitted.text)
    return Prompt((*ids[:room], tokenizer.eos_id), fitted.num_turns, is_cut=len(ids) > room)


def num_tokens(question: str, tokenizer: Codec) -> int:
    """Returns how many ids the whole prompt for a question has, without history and not cut."""
    if isinstance(tokenizer, Asks):
        return len(tokenizer.prompt_ids([], question) or ())
    return len(tokenizer.encode(question)) + 1


def _fit_form(turns: Sequence[Turn], question: str, codec: Asks, room: int) -> Prompt:
    """Returns the prompt that a codec makes, of as many turns as fit, or of a part of the question.

    A turn that the form cannot hold is dropped like one that there is no room for, with all before
    it.
    """

    def after(dropped: int) -> list[int] | None:
        ids = codec.prompt_ids(turns[dropped:], question)
        return ids if ids is not None and len(ids) <= room else None

    fewest = _first(range(len(turns) + 1), lambda dropped: after(dropped) is not None)
    if fewest is not None and (ids := after(fewest)) is not None:
        return Prompt(tuple(ids), len(turns) - fewest, is_cut=False)

    def of_part(missing: int) -> list[int] | None:
        ids = codec.prompt_ids([], question[: len(question) - missing])
        return ids if ids is not None and len(ids) <= room else None

    if codec.prompt_ids([], question) is None and codec.prompt_ids([], "？") is not None:
        raise DataError(
            "this model's chat template cannot hold the question: it has the name of a special "
            "token in it; leave that out"
        )
    least = _first(range(len(question) + 1), lambda missing: of_part(missing) is not None)
    if least is None or (ids := of_part(least)) is None:
        raise DataError(
            f"the prompt of this model has more than {room} tokens without any question: its "
            "max_source_tokens is too small"
        )
    return Prompt(tuple(ids), 0, is_cut=True)


def _first(numbers: range, holds: Callable[[int], bool]) -> int | None:
    """Returns the least number that something holds for, if it does for all that follow."""
    if holds(numbers[0]):  # most conversations fit
        return numbers[0]
    place = bisect_left(numbers, True, key=holds)
    return numbers[place] if place < len(numbers) else None
