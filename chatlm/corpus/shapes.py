"""Which fields of a corpus make the prompt and the answer, where that can be said in a table.

In: nothing. Out: `SHAPES`, the corpora that the column road knows, by name. Each shape says what
the corpus's function in `convert` does with ordinary records; all others are left to that function.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatlm.corpus import convert
from chatlm.corpus.kernels.clean import JOIN_INPUT, JOIN_NOTHING, JOIN_QUESTION
from chatlm.corpus.raw_blocks import RawBlock
from chatlm.corpus.table_header import CONVERSATION_NAMES

Votes = Callable[[RawBlock], tuple[NDArray[np.int64], NDArray[np.bool_]]]


@dataclass(frozen=True, slots=True)
class Shape:
    """How the fields of an ordinary record become a pair.

    Attributes:
        prompt, detail, answer: Names of fields; `detail` is joined to the prompt as `join` says.
        needs: Fields that must be there, as texts; rows without them take the row road.
        excludes: Fields that no ordinary record has.
        origin: The field that names the corpus of a row, if there is one.
        votes: Returns the votes of each row, and whether they are known.
        int_fields: Integer fields that `votes` reads.
        triggers: Strings without which the corpus's function does nothing further.
    """

    prompt: str
    answer: str
    detail: str | None = None
    join: int = JOIN_NOTHING
    is_html: bool = False
    has_joined_paragraphs: bool = False
    needs: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    origin: str | None = None
    votes: Votes | None = None
    int_fields: tuple[str, ...] = ()
    extra_texts: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()

    @property
    def text_fields(self) -> tuple[str, ...]:
        """The text fields to read."""
        wanted = (self.prompt, self.detail, self.answer, self.origin)
        return (*(name for name in wanted if name), *self.extra_texts)


def _star(block: RawBlock) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    return block.ints["star"], block.present["star"]


def _upvotes(block: RawBlock) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    found = [convert.zhihu_votes({"METADATA": text}) for text in block.texts["METADATA"]]
    known = np.array([votes is not None for votes in found], np.bool_)
    return np.array([votes or 0 for votes in found], np.int64), known


def _votes(block: RawBlock) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    return block.ints["votes"], block.present["votes"]


def made(shape: Shape) -> Shape:
    """Returns the shape of pairs that the corpus's function made: nothing is left to do."""
    origin = "source" if shape.origin else None
    if not shape.votes:
        return Shape("prompt", "response", origin=origin)
    return Shape("prompt", "response", origin=origin, votes=_votes, int_fields=("votes",))


_ALPACA = Shape(
    "instruction",
    "output",
    "input",
    JOIN_INPUT,
    needs=("instruction", "output"),
    triggers=("no output", "nooutput", "无输出"),
)

SHAPES: dict[str, Shape] = {
    "webtext2019zh": Shape(
        "title",
        "content",
        "desc",
        JOIN_QUESTION,
        is_html=True,
        votes=_star,
        int_fields=("star",),
    ),
    "baike_qa2019": Shape("title", "answer", "desc", JOIN_QUESTION, is_html=True),
    "medical": Shape("title", "answer", "ask", JOIN_QUESTION, needs=("ask",)),
    "zhihu_kol": Shape(
        "INSTRUCTION",
        "RESPONSE",
        has_joined_paragraphs=True,
        votes=_upvotes,
        extra_texts=("METADATA",),
    ),
    "belle": Shape(
        "instruction",
        "output",
        "input",
        JOIN_INPUT,
        excludes=("conversations", "target"),
        triggers=("Alice", "Bob", "Human:", "Human："),
    ),
    "alpaca_zh": _ALPACA,
    "alpaca_en": _ALPACA,
    "pairs": Shape(
        "prompt",
        "response",
        "input",
        JOIN_INPUT,
        needs=("prompt", "response"),
        excludes=CONVERSATION_NAMES,
        origin="source",
    ),
}
