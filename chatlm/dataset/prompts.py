"""The ids of a batch of prompts; conversations lose the oldest turns that do not fit.

In: texts as the training data have them, a tokenizer. Out: ids in one array, and what was found of
conversations. Single questions go as one batch; only conversations are looked at one by one. It
cuts no question and adds no EOS.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chatlm.corpus import conversation
from chatlm.corpus.conversation import Fitted
from chatlm.tokenizer import Tokenizer
from chatlm.tokenizer_engines import FlatIds


@dataclass(frozen=True, slots=True)
class Histories:
    """What stands before the questions of some prompts.

    Attributes:
        num_prompts: Those that have earlier turns, when they have been made to fit.
        num_shortened: Those that lost turns, perhaps all of them.
        max_turns: The most turns that one has, when it has been made to fit.
    """

    num_prompts: int = 0
    num_shortened: int = 0
    max_turns: int = 0

    def __add__(self, other: "Histories") -> "Histories":
        return Histories(
            self.num_prompts + other.num_prompts,
            self.num_shortened + other.num_shortened,
            max(self.max_turns, other.max_turns),
        )


def encode_prompts(
    prompts: pa.Array, utf8: list[bytes], tokenizer: Tokenizer, max_tokens: int
) -> tuple[FlatIds, Histories]:
    """Returns the ids of the prompts and what was found of their histories.

    Args:
        prompts: (N,) texts.
        utf8: The same as bytes.
        tokenizer: Makes the ids.
        max_tokens: The most that fit, without EOS. Single questions may be longer.
    """
    flat = tokenizer.encode_flat(utf8)
    found, too_long = Histories(), dict[int, str]()
    for row in _conversations(prompts):
        text = utf8[row].decode()
        if num_turns := len(conversation.turns_of(text)[0]):
            if flat[1][row] > max_tokens:
                too_long[row] = text
            else:
                found += Histories(1, 0, num_turns)
    if not too_long:
        return flat, found
    fitted, shorter = _fitted(list(too_long.values()), tokenizer, max_tokens)
    for one in fitted:
        found += Histories(int(one.num_turns > 0), 1, one.num_turns)
    return _replaced(flat, list(too_long), shorter), found


def source_ids(
    prompts: Sequence[str], tokenizer: Tokenizer, max_source_tokens: int
) -> list[list[int]]:
    """Returns the ids of each prompt as a token store has them: fitted, cut, with EOS.

    Raises:
        UnicodeEncodeError: a prompt holds a lone surrogate.
    """
    room = max_source_tokens - 1
    utf8 = [prompt.encode() for prompt in prompts]
    (ids, lengths), _ = encode_prompts(pa.array(prompts, pa.string()), utf8, tokenizer, room)
    ends = np.cumsum(lengths)
    return [
        [*ids[end - length : end][:room].tolist(), tokenizer.eos_id]
        for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)
    ]


def _fitted(
    texts: list[str], tokenizer: Tokenizer, max_tokens: int
) -> tuple[list[Fitted], FlatIds]:
    """Returns what `conversation.fit` makes of conversations that are too long, and its ids.

    It is done for all of them together, because many calls of the tokenizer take long.
    """

    def encode(some: Iterable[str]) -> FlatIds:
        return tokenizer.encode_flat([text.encode() for text in some])

    made = [conversation.turns_of(text) for text in texts]
    parts = [conversation.parts_of(*one) for one in made]
    counts = iter(encode(chain.from_iterable(parts))[1].tolist())
    fitted = list[Fitted]()
    for (turns, question), some in zip(made, parts, strict=True):
        num = conversation.num_fitting(list(islice(counts, len(some))), max_tokens)
        text = conversation.render(turns[len(turns) - num :], question)
        fitted.append(Fitted(text, num, len(turns) - num))
    flat = encode(one.text for one in fitted)
    kept = np.array([one.num_turns for one in fitted])
    # A foreign tokenizer may need more tokens for the whole than for its parts.
    still_too_long = np.flatnonzero((kept > 0) & (flat[1] > max_tokens)).tolist()
    for place in still_too_long:
        fitted[place] = conversation.fit(
            texts[place], lambda some: encode(some)[1].tolist(), max_tokens
        )
    return fitted, encode(one.text for one in fitted) if still_too_long else flat


def _conversations(prompts: pa.Array) -> list[int]:
    """Returns the rows that may be conversations."""
    begins, ends = (
        pc.call_function(name, [prompts], pc.MatchSubstringOptions(mark))
        for name, mark in (
            ("starts_with", conversation.USER),
            ("ends_with", f"\n{conversation.ASSISTANT}"),
        )
    )
    both = pc.call_function("and", [begins, ends])
    return np.flatnonzero(both.to_numpy(zero_copy_only=False)).tolist()


def _replaced(flat: FlatIds, rows: list[int], other: FlatIds) -> FlatIds:
    """Returns the ids with those of other texts in some rows."""
    (ids, lengths), (new_ids, new_lengths) = flat, other
    starts = np.cumsum(lengths) - lengths
    starts[rows] = len(ids) + np.cumsum(new_lengths) - new_lengths
    lengths = lengths.copy()
    lengths[rows] = new_lengths
    shifts = starts - (np.cumsum(lengths) - lengths)
    places = np.arange(int(lengths.sum())) + np.repeat(shifts, lengths)
    return np.concatenate([ids, new_ids])[places], lengths
