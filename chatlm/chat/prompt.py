"""From messages to the ids that a model reads, exactly as its training data were made.

In: a conversation. Out: a `Prompt`. How many turns fit is counted in tokens; the renderer itself is
`chatlm.corpus.conversation`, which training data share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chatlm.corpus import conversation
from chatlm.inference.engine import Codec, Limits


@dataclass(frozen=True)
class Message:
    """One side's contribution to a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class Prompt:
    """What the model gets.

    Attributes:
        ids: with EOS.
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
    """
    said = [message.content for message in history]
    turns = list(zip(said[::2], said[1::2], strict=True))
    turns = turns[max(0, len(turns) - limits.history_turns) :]
    room = limits.max_source_tokens - 1

    def count(texts: list[str]) -> list[int]:
        return [len(tokenizer.encode(text)) for text in texts]

    # As the prompts of the training were made, to the last character.
    fitted = conversation.fit(conversation.prompt_for(turns, question), count, room)
    ids = tokenizer.encode(fitted.text)
    return Prompt((*ids[:room], tokenizer.eos_id), fitted.num_turns, is_cut=len(ids) > room)
