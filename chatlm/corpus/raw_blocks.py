"""Raw records as columns, whatever format they came in.

In: batches of a parquet file, or records that a reader made. Out: `RawBlock`s, of which the blocks
of `json_blocks` are one kind too. It holds no rules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chatlm.corpus.kernels.texts import Texts
from chatlm.corpus.records import Fields, Record, Rejected


class RawBlock(Protocol):
    """N records in columns, and the others of the same place of the file.

    A text or integer that is not there, or is of another kind, is empty or 0 and not `present`;
    `record` gives the whole record of a row, as a reader of rows would.
    """

    @property
    def texts(self) -> Mapping[str, Texts]:
        """For each wanted text field its N texts."""
        ...

    @property
    def ints(self) -> Mapping[str, NDArray[np.int64]]:
        """For each wanted integer field (N,)."""
        ...

    @property
    def present(self) -> Mapping[str, NDArray[np.bool_]]:
        """For each wanted field (N,)."""
        ...

    @property
    def positions(self) -> NDArray[np.int64]:
        """(N,), increasing."""
        ...

    @property
    def others(self) -> Sequence[Record | Rejected]:
        """What is in no column, by position."""
        ...

    def record(self, row: int) -> Record:
        """Returns the whole record of a row."""
        ...

    def mentions(self, name: str) -> bool:
        """Returns whether any record in the columns may have a field of that name."""
        ...


@dataclass(frozen=True, slots=True)
class RowsBlock:
    """Records of a reader, put into columns."""

    texts: dict[str, Texts]
    ints: dict[str, NDArray[np.int64]]
    present: dict[str, NDArray[np.bool_]]
    positions: NDArray[np.int64]
    others: list[Record | Rejected]
    _rows: Sequence[Record]

    @classmethod
    def of(
        cls,
        records: Sequence[Record | Rejected],
        text_fields: Sequence[str],
        int_fields: Sequence[str] = (),
    ) -> "RowsBlock":
        """Returns the block of `records`; what UTF-8 cannot hold is among the others."""
        rows = list[Record]()
        others = list[Record | Rejected]()
        for record in records:
            plain = isinstance(record, Record) and _is_plain(record.fields, text_fields, int_fields)
            (rows if plain else others).append(record)  # type: ignore[arg-type]
        texts = {name: [row.fields.get(name) for row in rows] for name in text_fields}
        ints = {name: [row.fields.get(name) for row in rows] for name in int_fields}
        present = {
            name: np.array([isinstance(value, kind) for value in values], np.bool_)
            for columns, kind in ((texts, str), (ints, int))
            for name, values in columns.items()
        }
        return cls(
            {
                name: Texts.from_strings(v if isinstance(v, str) else "" for v in values)
                for name, values in texts.items()
            },
            {
                name: np.array([v if isinstance(v, int) else 0 for v in values], np.int64)
                for name, values in ints.items()
            },
            present,
            np.array([row.position for row in rows], np.int64),
            others,
            rows,
        )

    def record(self, row: int) -> Record:
        """Returns a record as the reader gave it."""
        return self._rows[row]

    def mentions(self, name: str) -> bool:
        """Returns whether a record has the field."""
        return any(name in row.fields for row in self._rows)


@dataclass(frozen=True, slots=True)
class TableBlock:
    """A batch of a parquet file."""

    texts: dict[str, Texts]
    ints: dict[str, NDArray[np.int64]]
    present: dict[str, NDArray[np.bool_]]
    positions: NDArray[np.int64]
    others: list[Record | Rejected]
    _batch: pa.RecordBatch

    @classmethod
    def of(cls, batch: pa.RecordBatch, first_row: int, text_fields: Sequence[str]) -> "TableBlock":
        """Returns the block of `batch`, whose rows are counted from `first_row`."""
        texts, present = dict[str, Texts](), dict[str, NDArray[np.bool_]]()
        for name in text_fields:
            place = batch.schema.get_field_index(name)
            column = batch.column(place) if place >= 0 else pa.nulls(len(batch), pa.string())
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                column = pa.nulls(len(batch), pa.string())
            texts[name] = Texts.from_arrow(column)
            present[name] = column.is_valid().to_numpy(zero_copy_only=False)
        positions = np.arange(first_row, first_row + len(batch), dtype=np.int64)
        return cls(texts, {}, present, positions, [], batch)

    def record(self, row: int) -> Record:
        """Returns a row as the reader of parquet files gives it."""
        fields = self._batch.slice(row, 1).to_pylist()[0]
        return Record(int(self.positions[row]), fields)

    def mentions(self, name: str) -> bool:
        """Returns whether the file has the column."""
        return name in self._batch.schema.names


def _is_plain(fields: Fields, text_fields: Sequence[str], int_fields: Sequence[str]) -> bool:
    """Returns whether columns can hold the wanted fields."""
    for name in text_fields:
        value = fields.get(name)
        if isinstance(value, str) and not value.isascii() and _has_surrogate(value):
            return False
    return all(_fits(fields.get(name)) for name in int_fields)


def _fits(value: object) -> bool:
    return not isinstance(value, int) or -(1 << 63) <= value < 1 << 63


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
