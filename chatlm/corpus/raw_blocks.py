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

from chatlm.corpus.example import Example
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


@dataclass(frozen=True, slots=True)
class PairsBlock:
    """Examples that were made of records, as records `prompt`, `response`, `source` and `votes`."""

    texts: dict[str, Texts]
    ints: dict[str, NDArray[np.int64]]
    present: dict[str, NDArray[np.bool_]]
    positions: NDArray[np.int64]
    others: list[Record | Rejected]
    _examples: Sequence[Example]
    _votes: Sequence[int | None]

    @classmethod
    def of(cls, examples: Sequence[Example], votes: Sequence[int | None]) -> "PairsBlock":
        """Returns the block of `examples`, whose positions count from 0.

        Raises:
            UnicodeEncodeError: UTF-8 cannot hold a text.
            OverflowError: 64 bits cannot hold a number of votes.
        """
        texts = {
            name: Texts.from_strings([getattr(example, name) for example in examples])
            for name in ("prompt", "response", "source")
        }
        known = np.array([number is not None for number in votes], np.bool_)
        numbers = np.array([number or 0 for number in votes], np.int64)
        everywhere = np.ones(len(examples), np.bool_)
        present = dict.fromkeys(texts, everywhere) | {"votes": known}
        places = np.arange(len(examples))
        return cls(texts, {"votes": numbers}, present, places, [], examples, votes)

    def record(self, row: int) -> Record:
        """Returns the example as a record."""
        return made_record(row, self._examples[row], self._votes[row])

    def mentions(self, name: str) -> bool:
        """Returns whether the records have the field."""
        return name in self.present


def made_record(position: int, example: Example, votes: int | None) -> Record:
    """Returns an example that was made of a record as a record itself."""
    fields = {"prompt": example.prompt, "response": example.response, "source": example.source}
    return Record(position, fields | {"votes": votes})


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
