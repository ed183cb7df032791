"""CSV and parquet.

In: a path, and the columns that must be there. Out: records (a CSV record is named by the line on
which it begins, a parquet record by its row) and rejected places. A file without the columns, or
that is cut off, is one `DataError`. It does not convert or repair a value.
"""

import codecs
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from chatlm.corpus.read_json import open_binary, refuse_utf16
from chatlm.corpus.records import Read, Record, Rejected, excerpt_of
from chatlm.errors import DataError

if TYPE_CHECKING:
    import _csv

Columns = Sequence[Sequence[str]]
"""Each group names one column by its possible names; one of the group must be in the file."""

MAX_FIELD_CHARS = 20_000
_BLOCK_BYTES = 1 << 20
_BATCH_ROWS = 8192
# GB18030 text breaks the rules of UTF-8 within a few characters. A file that kept them for so long
# is UTF-8 with a damaged byte, and reading it as GB18030 would turn all of it into rubbish.
_SURELY_UTF8_CHARS = 100


def encoding_of(path: Path) -> str:
    """Returns `utf-8-sig` or `gb18030`, whichever the bytes of the file obey.

    UTF-8 is tried first and strictly, because GB18030 accepts most UTF-8 bytes in silence.

    Raises:
        DataError: The file is missing, empty or UTF-16.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    wide_chars = 0
    with open_binary(path) as file:
        block = file.read(_BLOCK_BYTES)
        if not block.strip():
            raise DataError(f"{path}: is empty; expected a CSV file with a header line")
        refuse_utf16(path, block)
        while block:
            try:
                text = decoder.decode(block)
            except UnicodeDecodeError as error:
                sound = error.object[: error.start].decode("utf-8", errors="ignore")
                wide_chars += sum(char > "\x7f" for char in sound)
                return "utf-8-sig" if wide_chars >= _SURELY_UTF8_CHARS else "gb18030"
            if wide_chars < _SURELY_UTF8_CHARS:
                wide_chars += sum(char > "\x7f" for char in text)
            block = file.read(_BLOCK_BYTES)
    return "utf-8-sig"


def read_csv(path: Path, columns: Columns = ()) -> Read:
    """Yields the records of an RFC 4180 file in UTF-8 or GB18030, quoted line breaks and all.

    Raises:
        DataError: The file is missing or empty, or a column is absent from the header.
    """
    encoding = encoding_of(path)
    # Undecodable bytes become U+FFFD and their row is rejected: dropping them would alter the text.
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        rows = _numbered_rows(path, csv.reader(file))
        first = next(rows, None)
        if first is None or isinstance(first, Rejected):
            raise DataError(f"{path}: no header line; expected {_names(columns)}")
        header = [name.strip() for name in first[1]]
        require_columns(path, header, columns)
        for item in rows:
            if isinstance(item, Rejected):
                yield item
                continue
            number, row = item
            reason = _row_reason(row, len(header))
            if reason:
                yield Rejected(str(path), number, reason, excerpt_of(",".join(row)))
            else:
                yield Record(number, dict(zip(header, row, strict=True)))


def read_parquet(path: Path, columns: Columns = ()) -> Read:
    """Yields the rows of a parquet file of any writer.

    Raises:
        DataError: The file is missing, cut off, damaged, or lacks a column.
    """
    file = open_parquet(path)
    require_columns(path, file.schema_arrow.names, columns)
    row = 0
    try:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            for fields in batch.to_pylist():
                row += 1
                yield Record(row, fields)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged after row {row} ({_first_line(error)})") from error
    finally:
        file.close()


def open_parquet(path: Path) -> pq.ParquetFile:
    """Returns the opened file; page checksums are verified where the writer wrote them.

    Raises:
        DataError: The file is missing, cut off, or not parquet.
    """
    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        if not path.is_file():
            raise DataError(f"{path}: no such file") from error
        raise DataError(
            f"{path}: not a complete parquet file ({_first_line(error)}); "
            "the file may be cut off, get or make it again"
        ) from error


def require_columns(path: Path, found: Sequence[str], columns: Columns) -> None:
    """Raises the `DataError` that names the missing columns beside those that the file has."""
    missing = [group for group in columns if not any(name in found for name in group)]
    if missing:
        raise DataError(
            f"{path}: no column {_names(missing)}; the file has {', '.join(found) or 'no columns'}"
        )


def _names(columns: Columns) -> str:
    return ", ".join(" or ".join(group) for group in columns) or "a header"


def _numbered_rows(path: Path, reader: "_csv.Reader") -> Iterator[tuple[int, list[str]] | Rejected]:
    """Yields (first line, fields) of each row that is not blank."""
    while True:
        first_line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # The module's own limit on a field: a quote that was never closed.
            yield Rejected(str(path), first_line, "malformed_csv", str(error))
            continue
        if row:
            yield first_line, row


def _row_reason(row: list[str], num_columns: int) -> str:
    """Names what is wrong with a row, or returns "" if nothing is."""
    if any(len(field) > MAX_FIELD_CHARS and "\n" in field for field in row):
        return "unclosed_quote"
    if len(row) != num_columns:
        return "ragged_row"
    if any("�" in field for field in row):
        return "undecodable_bytes"
    return ""


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:200]
