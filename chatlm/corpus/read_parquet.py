"""Parquet files of any writer, as records or as columns of text.

In: a path, the columns that must be there, and perhaps a range of row groups. Out: records named
by their row in the file, or batches of text columns; a row that is not UTF-8 is a rejected place. A
file that is cut off, damaged, a bomb, or of another shape is one `DataError`. It converts nothing.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from chatlm.corpus import nested
from chatlm.corpus.parquet_file import (
    MAX_RATIO,
    MAX_SMALL_BYTES,
    checked_footer,
    first_line,
    has_checksums,
    open_parquet,
)
from chatlm.corpus.parquet_footer import DELTA_BYTE_ARRAY, Footer
from chatlm.corpus.records import Read, Record, Rejected
from chatlm.corpus.table_header import CONVERSATION_NAMES, Columns, require_columns
from chatlm.errors import DataError

Range = tuple[int, int]

_BATCH_ROWS = 8192
_FEWEST_ROWS = 16
_BATCH_BYTES = 16 * 1024 * 1024
_MAX_BATCH_BYTES = 256 * 1024 * 1024


def read_parquet(
    path: Path,
    columns: Columns = (),
    row_groups: Range | None = None,
    notes: Counter[str] | None = None,
) -> Read:
    """Yields the rows of a parquet file, or of a half-open range of its row groups.

    Fields are the columns of text, numbers and truth values, and the lists of messages that
    `columns` asks for; others are left out. `notes` counts a file whose pages carry no checksums
    under `without_checksums`.

    Raises:
        DataError: The file is missing, cut off, damaged or a bomb, or a column is missing, there
            twice or of another type.
    """
    for first_row, batch in _batches(path, columns, None, row_groups, notes):
        names = batch.schema.names
        values = [_values(column) for column in batch.columns]
        for number, row in enumerate(zip(*values, strict=True), start=first_row):
            if any(value is _BAD for value in row):
                yield Rejected(str(path), number, "invalid_utf8")
            else:
                yield Record(number, dict(zip(names, row, strict=True)))


def read_parquet_batches(
    path: Path,
    columns: Sequence[str],
    row_groups: Range | None = None,
    notes: Counter[str] | None = None,
) -> Iterator[tuple[int, pa.RecordBatch] | Rejected]:
    """Yields (number of the first row, batch of valid `string` columns in the order of `columns`).

    Nulls stay null. A row that is not UTF-8 comes as `Rejected`, and the batch after it goes on
    with the next row. Numbers count from 1 in the whole file.

    Raises:
        DataError: As `read_parquet`; also for any of `columns` that is not there.
    """
    wanted = pa.schema([pa.field(name, pa.string()) for name in columns])
    groups = [(name,) for name in columns]
    for first_row, batch in _batches(path, groups, columns, row_groups, notes):
        for start, piece in _bounded(batch):
            try:
                texts = piece.select(list(columns)).cast(wanted)
                texts.validate(full=True)
            except pa.ArrowInvalid:
                yield from _one_by_one(path, first_row + start, piece.select(list(columns)), wanted)
            else:
                yield first_row + start, texts


class _Bad:
    """Stands for a value that is not UTF-8."""


_BAD = _Bad()


def _batches(
    path: Path,
    columns: Columns,
    chosen: Sequence[str] | None,
    row_groups: Range | None,
    notes: Counter[str] | None,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yields (number of the first row, batch), texts perhaps as dictionaries or bytes."""
    footer = checked_footer(path)
    file = open_parquet(path)
    try:
        schema = file.schema_arrow
    finally:
        file.close()
    require_columns(path, schema.names, columns)
    names = _readable(path, schema, columns) if chosen is None else list(chosen)
    for name in names:
        _require_kind(path, schema, columns, name)
    if notes is not None and not has_checksums(path, footer):
        notes["without_checksums"] += 1
    first, end = row_groups or (0, len(footer.groups))
    if not 0 <= first <= end <= len(footer.groups):
        has = f"has {len(footer.groups)} row groups, not {first} to {end}"
        raise DataError(f"{path}: {has}; it changed, plan it again")
    before = sum(group.num_rows for group in footer.groups[:first])
    expected = sum(group.num_rows for group in footer.groups[first:end])
    row, num_bytes = before, 0
    file = open_parquet(path, _with_dictionary(footer, schema, names))
    try:
        size = _batch_rows(footer, first, end)
        if any(nested.is_messages(schema.field(name).type) for name in names):
            size = min(size, nested.BATCH_ROWS)
        for batch in file.iter_batches(size, row_groups=range(first, end), columns=names):
            batch = batch.select(names)
            _check_indices(batch)
            num_bytes += sum(map(_num_bytes, batch.columns))
            if num_bytes > max(MAX_SMALL_BYTES, MAX_RATIO * footer.num_bytes):
                raise DataError(
                    f"{path}: {footer.num_bytes} bytes that repeat a few long texts to more than "
                    f"{num_bytes}; this is a decompression bomb, remove it"
                )
            yield row + 1, batch
            row += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        raise DataError(f"{path}: damaged after row {row} ({first_line(error)})") from error
    finally:
        file.close()
    if row - before != expected:
        raise DataError(f"{path}: damaged, {row - before} rows where its footer names {expected}")


def _readable(path: Path, schema: pa.Schema, columns: Columns) -> list[str]:
    """Returns the columns of text, numbers and truth values, none of which may be there twice."""
    names = [
        field.name
        for field in schema
        if _is_text(field.type) or (pa.types.is_primitive(field.type) and _is_plain(field.type))
    ]
    if not names and not columns:
        has = ", ".join(f"{field.name} ({field.type})" for field in schema)[:200]
        raise DataError(f"{path}: no column of text; the file has {has or 'no columns'}")
    required = [name for group in columns for name in group if name in schema.names]
    doubles = [name for name, count in Counter(names).items() if count > 1]
    if doubles:
        raise DataError(f"{path}: column {doubles[0]} is there twice; remove or rename one of them")
    return names + [name for name in required if name not in names]


def _require_kind(path: Path, schema: pa.Schema, columns: Columns, name: str) -> None:
    """Raises the `DataError` for a column that is asked for and is of another type."""
    if not any(name in group for group in columns):
        return
    kind = schema.field(name).type
    is_list = name in CONVERSATION_NAMES
    if not (nested.is_messages(kind) if is_list else _is_text(kind)):
        wanted = nested.WANTED if is_list else "text"
        raise DataError(f"{path}: column {name} is {kind}; expected {wanted}")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_one = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
        pa.types.is_null,
    )
    return any(check(kind) for check in is_one)


def _is_plain(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _check_indices(batch: pa.RecordBatch) -> None:
    """Raises `ArrowInvalid` for places in a dictionary that it does not have: damage in the page.

    The library does not look, and would go on to read memory that is not the dictionary's.
    """
    for column in chain.from_iterable(map(nested.leaves, batch.columns)):
        if isinstance(column, pa.DictionaryArray):
            ends = pc.call_function("min_max", [column.indices])
            low, high = ends["min"].as_py(), ends["max"].as_py()
            if low is not None and not 0 <= low <= high < len(column.dictionary):
                raise pa.ArrowInvalid("a value is not in its dictionary")


def _with_dictionary(footer: Footer, schema: pa.Schema, names: list[str]) -> list[str]:
    """Returns the text columns that are stored as dictionaries anywhere in the file."""
    stored = {
        chunk.name for group in footer.groups for chunk in group.chunks if chunk.has_dictionary
    }
    return sorted(name for name in names if name in stored and _is_text(schema.field(name).type))


def _batch_rows(footer: Footer, first: int, end: int) -> int:
    """Returns how many rows to decode at once so that a usual batch takes `_BATCH_BYTES`."""
    groups = footer.groups[first:end]
    num_bytes = sum(group.unpacked_bytes for group in groups)
    shares = any(DELTA_BYTE_ARRAY in chunk.encodings for group in groups for chunk in group.chunks)
    a_row = num_bytes if shares else num_bytes // (sum(group.num_rows for group in groups) + 1)
    return max(_FEWEST_ROWS, min(_BATCH_ROWS, _BATCH_BYTES // (a_row + 1)))


def _values(column: pa.Array) -> list[Any]:
    """Returns the Python values of a column; equal values of a dictionary are one object."""
    if pa.types.is_dictionary(column.type):
        values = _values(column.dictionary)
        return [None if index is None else values[index] for index in column.indices.to_pylist()]
    if nested.is_messages(column.type):
        return nested.values(column, _BAD)
    if not _is_text(column.type) or pa.types.is_null(column.type):
        return column.to_pylist()
    if not _is_bytes(column.type):
        try:
            return column.to_pylist()
        except UnicodeDecodeError:
            column = column.cast(pa.large_binary())
    return [_decoded(value) for value in column.to_pylist()]


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _decoded(value: bytes | None) -> str | _Bad | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return _BAD


def _bounded(batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yields (start, slice) of `batch` such that its dictionaries, written out, stay bounded."""
    waiting = [(0, batch)]
    while waiting:
        start, piece = waiting.pop()
        if piece.num_rows > 1 and sum(map(_num_bytes, piece.columns)) > _MAX_BATCH_BYTES:
            half = piece.num_rows // 2
            waiting += [(start + half, piece.slice(half)), (start, piece.slice(0, half))]
        else:
            yield start, piece


def _num_bytes(column: pa.Array) -> int:
    if nested.is_messages(column.type):
        return sum(_num_bytes(leaf) or leaf.nbytes for leaf in nested.leaves(column))
    if not pa.types.is_dictionary(column.type):
        return 0
    lengths = pc.call_function("binary_length", [column.dictionary])
    return pc.call_function("sum", [lengths.take(column.indices)]).as_py() or 0


def _one_by_one(
    path: Path, first_row: int, batch: pa.RecordBatch, wanted: pa.Schema
) -> Iterator[tuple[int, pa.RecordBatch] | Rejected]:
    """Yields the rows of a batch in which some are not UTF-8: runs of good ones, and the others."""
    values = [_values(column) for column in batch.columns]
    good = [_BAD not in row for row in zip(*values, strict=True)]
    start = 0
    for row in range(batch.num_rows + 1):
        if row < batch.num_rows and good[row]:
            continue
        if row > start:
            texts = [pa.array(column[start:row], pa.string()) for column in values]
            yield first_row + start, pa.RecordBatch.from_arrays(texts, schema=wanted)
        if row < batch.num_rows:
            yield Rejected(str(path), first_row + row, "invalid_utf8")
        start = row + 1
