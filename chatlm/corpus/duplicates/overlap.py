"""Whether finished parts overlap.

In: two finished parquet files of pairs. Out: the rows of one whose question is also, or nearly, in
the other. It changes nothing; the split has seen to it that there are none.
"""

from pathlib import Path

import pyarrow as pa

from chatlm.corpus import store
from chatlm.corpus.duplicates.questions import QuestionIndex
from chatlm.corpus.duplicates.settings import DuplicateSettings
from chatlm.corpus.duplicates.signing import sign
from chatlm.corpus.kernels.texts import Texts


def overlapping(
    train: Path, held_out: Path, settings: DuplicateSettings | None = None
) -> list[tuple[int, int]]:
    """Returns (row of `train`, row of `held_out`) wherever the two ask the same or nearly so.

    Questions are alike as in the split: openings of conversations, the same threshold, numbers or
    not. A row of `train` is named once, with the first row of `held_out` that it is like.

    Raises:
        DataError: A file is missing or damaged.
    """
    settings = settings or DuplicateSettings()
    prompts = [
        Texts.from_arrow(batch.column(0)) for batch in store.read_pairs(held_out, ("prompt",))
    ]
    together = pa.chunked_array([texts.to_arrow() for texts in prompts], pa.string())
    index = QuestionIndex.of_texts(Texts.from_arrow(together), settings, contained=False)
    found, start = list[tuple[int, int]](), 0
    for batch in store.read_pairs(train, ("prompt",), store.ROW_GROUP_ROWS):
        rows = Texts.from_arrow(batch.column(0))
        hits = index.repeated_by(sign(rows, Texts.from_strings([""] * len(rows)), settings))
        found += [(start + row, int(hits[row])) for row in (hits >= 0).nonzero()[0].tolist()]
        start += len(rows)
    return found
