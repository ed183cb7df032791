"""The signed shards of a stage as one sequence of rows.

In: the folders that `signing` wrote. Out: fields of single rows, and their texts; files are mapped
for as long as a call lasts, so that memory does not grow with them. It changes nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatlm.corpus import store
from chatlm.corpus.duplicates.signing import load
from chatlm.corpus.kernels.linking import copy_texts


def save(path: str, array: NDArray[Any]) -> None:
    """Writes one array."""
    with store.replacing(Path(path)) as file:
        np.save(file, array)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of several signed shards, numbered through.

    Attributes:
        folders: One a shard.
        starts: int64, (shards + 1,): the number of the first row of each, and of all rows.
    """

    folders: tuple[str, ...]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, folders: Sequence[str]) -> "Rows":
        """Returns the rows of signed shards in this order."""
        sizes = [len(load(folder, "questions")) for folder in folders]
        return cls(tuple(folders), np.cumsum([0, *sizes]))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def shards(self) -> Iterator[tuple[str, slice]]:
        """Yields the folder of each shard and which rows it has."""
        for folder, (start, end) in zip(self.folders, pairwise(self.starts.tolist()), strict=True):
            yield folder, slice(start, end)

    def column(self, name: str) -> NDArray[Any]:
        """Returns a field of all rows, in memory."""
        parts = [np.asarray(load(folder, name)) for folder in self.folders]
        return np.concatenate(parts) if parts else np.zeros(0)

    def take(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Returns a field of some rows."""
        found = np.empty(len(rows), load(self.folders[0], name).dtype)

        def copy(folder: str, places: NDArray[np.int64], inside: NDArray[np.int64]) -> None:
            found[places] = load(folder, name)[inside]

        self._each(rows, copy)
        return found

    def texts(
        self, rows: NDArray[np.int64], *, questions: bool
    ) -> tuple[NDArray[np.uint16], NDArray[np.int64], NDArray[np.int64]]:
        """Returns the folded texts, or only the questions, of some rows.

        Returns:
            Units, (N + 1,) offsets, and (N,) where each response begins (each question ends).
        """
        starts, lengths = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        tails = np.empty(len(rows), np.int64)

        def measure(folder: str, places: NDArray[np.int64], inside: NDArray[np.int64]) -> None:
            ends = load(folder, "ends")
            starts[places] = ends[inside]
            lengths[places] = ends[inside + 1] - starts[places]
            spans = load(folder, "spans")[inside].astype(np.int64)
            tails[places] = spans[:, 2] + 1
            if questions:
                starts[places] += spans[:, 0]
                lengths[places] = spans[:, 1] - spans[:, 0]
                tails[places] = lengths[places]

        self._each(rows, measure)
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        units = np.empty(int(offsets[-1]), np.uint16)

        def copy(folder: str, places: NDArray[np.int64], _: NDArray[np.int64]) -> None:
            copy_texts(
                load(folder, "units"), starts[places], units, offsets[places], lengths[places]
            )

        self._each(rows, copy)
        return units, offsets, offsets[:-1] + tails

    def _each(
        self,
        rows: NDArray[np.int64],
        work: Callable[[str, NDArray[np.int64], NDArray[np.int64]], None],
    ) -> None:
        """Calls `work` with each shard's folder, the places in `rows` of its rows, and these."""
        order = np.argsort(rows, kind="stable")
        cuts = np.searchsorted(rows[order], self.starts)
        for number, (begin, end) in enumerate(pairwise(cuts.tolist())):
            if begin < end:
                places = order[begin:end]
                work(self.folders[number], places, rows[places] - self.starts[number])
