"""A column of texts as two flat arrays, the form that compiled loops work on.

In: Arrow string arrays or Python strings. Out: `Texts`, and Arrow again, without a copy where the
layout allows it. It imports numpy and pyarrow only; numba comes with the loops themselves.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Texts:
    """N texts in UTF-8: text i is `data[offsets[i]:offsets[i + 1]]`.

    Attributes:
        data: uint8, at least `offsets[-1]` bytes.
        offsets: int64, (N + 1,), non-decreasing; the first one need not be 0.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @classmethod
    def from_arrow(cls, column: pa.Array | pa.ChunkedArray) -> "Texts":
        """Returns a view of an Arrow string column; a null is the empty text."""
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        if column.null_count:
            column = column.fill_null("")
        large = pa.types.is_large_string(column.type)
        width = np.dtype(np.int64 if large else np.int32)
        _, offsets, data = column.buffers()
        if not len(column) or offsets is None:
            return cls(np.zeros(0, np.uint8), np.zeros(len(column) + 1, np.int64))
        ends = np.frombuffer(offsets, width, len(column) + 1, column.offset * width.itemsize)
        flat = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
        return cls(flat, ends.astype(np.int64, copy=False))

    @classmethod
    def from_strings(cls, texts: Iterable[str]) -> "Texts":
        """Returns the column of Python strings, none of which may hold a lone surrogate."""
        return cls.from_arrow(pa.array(list(texts), pa.string()))

    def to_arrow(self) -> pa.Array:
        """Returns an Arrow `string` array that shares the bytes.

        Raises:
            ValueError: The column holds 2 GiB or more; cut it into blocks.
        """
        start, end = int(self.offsets[0]), int(self.offsets[-1])
        if end - start >= 1 << 31:
            raise ValueError(f"{end - start} bytes of text do not fit one Arrow string array")
        offsets = pa.py_buffer((self.offsets - start).astype(np.int32))
        data = pa.py_buffer(np.ascontiguousarray(self.data[start:end]))
        return pa.Array.from_buffers(pa.string(), len(self), [None, offsets, data])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> str:
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return (self[row] for row in range(len(self)))

    @property
    def num_bytes(self) -> NDArray[np.int64]:
        """(N,) bytes of each text."""
        return np.diff(self.offsets)
