"""What a fast road makes of a block of raw records: clean rows in columns.

In: texts of rows that were cleaned fast and of rows that were cleaned slowly. Out: `CleanColumns`
in the order of the raw data, in buffers that are used again. It does not clean.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chatlm.corpus.counts import Counts
from chatlm.corpus.kernels.gather import gather
from chatlm.corpus.kernels.texts import Texts
from chatlm.corpus.records import Rejected
from chatlm.corpus.shards import SHARD_SCHEMA, Origin

_TURN_BITS = np.uint64(Origin(0, 1).pack().bit_length() - 1)
_POSITION_BITS = np.uint64(Origin(1, 0).pack().bit_length() - 1) - _TURN_BITS


@dataclass(frozen=True, slots=True)
class CleanColumns:
    """What became of one block: a `CleanBatch` with its rows in columns.

    The texts are views of buffers that the next block overwrites.

    Attributes:
        prompt, response: The N texts.
        sources: The N names of corpora, or one name for all.
        positions, turns: Where each row came from (see `Origin`).
        rejects, counts: As in `CleanBatch`.
        outcomes: How many of the records in columns had each of `clean.OUTCOMES`.
    """

    prompt: Texts
    response: Texts
    sources: str | list[str]
    positions: NDArray[np.int64]
    turns: NDArray[np.int64]
    rejects: list[Rejected]
    counts: Counts
    outcomes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.positions)

    def sources_of_rows(self) -> list[str]:
        """Returns the names of corpora, one for each row."""
        return [self.sources] * len(self) if isinstance(self.sources, str) else self.sources

    def to_arrow(self, file: int) -> pa.RecordBatch:
        """Returns the rows as a batch of `SHARD_SCHEMA`, copied out of the buffers."""
        if isinstance(self.sources, str):
            sources = pa.repeat(pa.scalar(self.sources, pa.string()), len(self))
        else:
            sources = pa.array(self.sources, pa.string())
        columns = [self.prompt.to_arrow(), self.response.to_arrow(), sources]
        places = np.uint64(file) << _POSITION_BITS | self.positions.astype(np.uint64)
        origins = pa.array(places << _TURN_BITS | self.turns.astype(np.uint64))
        return pa.RecordBatch.from_arrays([*columns, origins], schema=SHARD_SCHEMA)


def joined(one: CleanColumns, other: CleanColumns) -> CleanColumns:
    """Returns the rows of `one`, then those of `other`; rejects and counts are those of `one`."""
    if not len(other):
        return one
    return replace(
        one,
        prompt=_both(one.prompt, other.prompt),
        response=_both(one.response, other.response),
        sources=[*one.sources_of_rows(), *other.sources_of_rows()],
        positions=np.concatenate([one.positions, other.positions]),
        turns=np.concatenate([one.turns, other.turns]),
    )


def _both(one: Texts, other: Texts) -> Texts:
    start, end = one.offsets[0], one.offsets[-1]
    first, last = other.offsets[0], other.offsets[-1]
    offsets = [one.offsets - start, other.offsets[1:] - first + end - start]
    return Texts(
        np.concatenate([one.data[start:end], other.data[first:last]]), np.concatenate(offsets)
    )


class Room:
    """Buffers by name that grow to what the largest block needs: fresh memory is slow memory."""

    def __init__(self) -> None:
        self._arrays = dict[str, NDArray[Any]]()

    def array(self, name: str, size: int, kind: type[np.generic]) -> NDArray[Any]:
        """Returns at least `size` places of whatever was there before."""
        found = self._arrays.get(name)
        if found is None or len(found) < size:
            found = self._arrays[name] = np.empty(size * 5 // 4, kind)
        return found

    def gathered(
        self,
        name: str,
        data: NDArray[np.uint8],
        spans: NDArray[np.int64],
        slow: Texts,
        picked: NDArray[np.int64],
    ) -> Texts:
        """Returns the texts `picked` from `data[spans[i, 0]:spans[i, 1]]` and `slow`."""
        num_bytes = int((spans[:, 1] - spans[:, 0]).sum() + slow.offsets[-1] - slow.offsets[0])
        out = self.array(name, num_bytes, np.uint8)
        offsets = self.array(f"{name}_offsets", len(picked) + 1, np.int64)[: len(picked) + 1]
        gather(data, spans, slow.data, slow.offsets, picked, out, offsets)
        return Texts(out, offsets)
