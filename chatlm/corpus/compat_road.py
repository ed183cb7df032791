"""The predecessor's cleaning of whole blocks, for the comparison of speed and of rows.

In: a `RawBlock` of baike_qa2019 or webtext2019zh. Out: the rows that `compat` gives for its
records, in columns. For the other corpora there are only the functions on rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatlm.corpus import compat
from chatlm.corpus.clean_columns import CleanColumns, Room
from chatlm.corpus.counts import Counts
from chatlm.corpus.kernels import compat as kernels
from chatlm.corpus.kernels.texts import Texts
from chatlm.corpus.raw_blocks import RawBlock
from chatlm.corpus.records import Record, Rejected

FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "baike_qa2019": (("title", "desc", "answer"), ()),
    "webtext2019zh": (("title", "content"), ("star",)),
}
"""The text fields and the integer fields to read of the corpora that have a fast road."""
DROPPED = "compat"
"""The reason of all rows that the predecessor dropped; it gave none."""
_MIN_CHARS = 15


class CompatRoad:
    """Cleans the blocks of one corpus as the predecessor did; keeps its buffers between them."""

    def __init__(self, source: str) -> None:
        """Raises `KeyError` for a corpus without a fast road."""
        self.fields = self.text_fields, self.int_fields = FIELDS[source]
        self._source = source
        self._room = Room()
        self._tables = (kernels.kinds(), kernels.leads(), kernels.widths())
        self._stamps = np.zeros(kernels.NUM_POINTS, np.int64)
        self._stamp = 1

    def clean_block(self, block: RawBlock, path: str) -> CleanColumns:
        """Returns the rows of `block`; every other record is dropped for the reason DROPPED.

        Raises:
            KeyError, TypeError: A record lacks a field. The predecessor stopped there too.
        """
        names = (*self.text_fields, *self.int_fields)
        if not all(block.present[name].all() for name in names):
            for row in range(len(block.positions)):
                compat.CLEANERS[self._source](block.record(row).fields)
        fast = self._baike(block) if self._source == "baike_qa2019" else self._webtext(block)
        kept, prompts, responses = fast
        rejects = [one for one in block.others if isinstance(one, Rejected)]
        slow = [one for one in block.others if isinstance(one, Record)]
        cleaned = [compat.CLEANERS[self._source](record.fields) for record in slow]
        pairs = [(r, pair) for r, pair in zip(slow, cleaned, strict=True) if pair is not None]
        gone = np.setdiff1d(np.arange(len(block.positions)), kept, assume_unique=True)
        places = [*block.positions[gone].tolist()]
        places += [r.position for r, pair in zip(slow, cleaned, strict=True) if pair is None]
        rejects += [Rejected(path, place, DROPPED) for place in places]
        counts = Counts(len(kept) + len(pairs) + len(rejects), len(kept) + len(pairs))
        counts.dropped.update(reject.reason for reject in rejects)
        positions = block.positions[kept]
        if pairs:
            late = np.array([record.position for record, _ in pairs])
            order = np.argsort(np.concatenate([positions, late]), kind="stable")
            picked = np.where(order < len(kept), order, ~(order - len(kept)))
            prompts, responses = (
                self._room.gathered(
                    f"both_{side}",
                    texts.data,
                    np.stack([texts.offsets[:-1], texts.offsets[1:]], axis=1),
                    Texts.from_strings(pair[side] for _, pair in pairs),
                    picked,
                )
                for side, texts in enumerate((prompts, responses))
            )
            positions = np.concatenate([positions, late])[order]
        return CleanColumns(
            prompts,
            responses,
            self._source,
            positions,
            np.zeros(len(positions), np.int64),
            sorted(rejects, key=lambda reject: reject.position),
            counts,
            np.zeros(0, np.int64),
        )

    def _baike(self, block: RawBlock) -> tuple[NDArray[np.int64], Texts, Texts]:
        texts = [block.texts[name] for name in self.text_fields]
        num = len(block.positions)
        out = self._outputs([texts[0], texts[1]], texts[2], num)
        columns: Any = [array for text in texts for array in (text.data, text.offsets)]
        rest: Any = [_MIN_CHARS, *self._tables, self._stamps, self._stamp, *out]
        left = kernels.baike(*columns, *rest)
        self._stamp += 2 * num
        return _cut(out, left)

    def _webtext(self, block: RawBlock) -> tuple[NDArray[np.int64], Texts, Texts]:
        title, content = (block.texts[name] for name in self.text_fields)
        out = self._outputs([title], content, len(block.positions))
        is_liked = block.ints["star"] >= compat.MIN_STARS
        left = kernels.webtext(
            title.data,
            title.offsets,
            content.data,
            content.offsets,
            is_liked,
            _MIN_CHARS,
            *self._tables,
            *out,
        )
        return _cut(out, left)

    def _outputs(self, asked: Sequence[Texts], answer: Texts, num: int) -> list[NDArray[Any]]:
        """Returns room for the texts: a space of one byte becomes a comma of three."""
        prompt_bytes = sum(int(texts.offsets[-1] - texts.offsets[0]) for texts in asked)
        answer_bytes = int(answer.offsets[-1] - answer.offsets[0])
        return [
            self._room.array("prompt", 3 * prompt_bytes, np.uint8),
            self._room.array("prompt_offsets", num + 1, np.int64),
            self._room.array("response", 3 * answer_bytes, np.uint8),
            self._room.array("response_offsets", num + 1, np.int64),
            self._room.array("kept", num, np.int64),
        ]


def _cut(out: Sequence[NDArray[Any]], num: int) -> tuple[NDArray[np.int64], Texts, Texts]:
    prompt, prompt_offsets, response, response_offsets, kept = out
    return (
        kept[:num],
        Texts(prompt, prompt_offsets[: num + 1]),
        Texts(response, response_offsets[: num + 1]),
    )
