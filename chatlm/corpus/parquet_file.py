"""The outside of a parquet file: is it whole, is it a bomb, are its pages protected, how to cut it.

In: a path. Out: the opened file, or the one `DataError` that says what is wrong with it; and a
plan of its row groups. All is told from the footer and the first bytes of pages; it decodes no row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chatlm.corpus.parquet_footer import Footer, read_footer
from chatlm.corpus.read_json import open_binary
from chatlm.errors import DataError

MAX_RATIO = 1000
"""Text shrinks to a tenth, a column of one value to a thousandth: no corpus as a whole shrinks to
less. A file that says that it does, and grows to more than `MAX_SMALL_BYTES`, is a bomb."""
MAX_SMALL_BYTES = 256 * 1024 * 1024
MAX_SMALL_ROWS = 100_000
"""A file with more rows than this and more rows than bytes holds no text that is worth reading."""

_READ_BYTES = 1024 * 1024
_PAGE_HEADER_BYTES = 32
_I32 = 5


@dataclass(frozen=True, slots=True)
class ParquetPlan:
    """How the rows of a file can be shared among tasks.

    Attributes:
        pieces: Half-open ranges of row groups.
        first_rows: The number of the first row of each piece; rows count from 1.
        has_checksums: Whether the pages carry checksums. If not, damage can go unnoticed.
    """

    pieces: tuple[tuple[int, int], ...]
    first_rows: tuple[int, ...]
    has_checksums: bool


def open_parquet(path: Path, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
    """Returns the opened file; page checksums are verified where the writer wrote them.

    Args:
        path: The file.
        dictionaries: Columns to hand out as dictionaries, which keeps a value that occurs a
            million times from taking a million times its memory.

    Raises:
        DataError: The file is missing, cut off, not parquet, contradicts itself, or is a bomb.
    """
    checked_footer(path)
    try:
        file = pq.ParquetFile(
            path,
            page_checksum_verification=True,
            read_dictionary=list(dictionaries) or None,
            buffer_size=_READ_BYTES,
        )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: not a complete parquet file ({first_line(error)}); "
            "the file may be cut off, get or make it again"
        ) from error
    try:
        _ = file.schema_arrow
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        file.close()
        raise DataError(
            f"{path}: damaged, no readable schema ({first_line(error)}); get or make it again"
        ) from error
    return file


def checked_footer(path: Path) -> Footer:
    """Returns the footer of a file that is no bomb, as far as a footer can tell.

    Raises:
        DataError: The file is missing, cut off, not parquet, contradicts itself, or is a bomb.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    footer = read_footer(path)
    num_bytes = sum(group.unpacked_bytes for group in footer.groups)
    if num_bytes > MAX_SMALL_BYTES and num_bytes > MAX_RATIO * footer.num_bytes:
        raise DataError(
            f"{path}: {footer.num_bytes} bytes that would grow to {num_bytes}, which no text does; "
            "this is a decompression bomb, remove it"
        )
    if footer.num_rows > MAX_SMALL_ROWS and footer.num_rows > footer.num_bytes:
        raise DataError(
            f"{path}: {footer.num_rows} rows in {footer.num_bytes} bytes, which is no text; "
            "remove it"
        )
    return footer


def parquet_plan(path: Path, max_rows: int) -> ParquetPlan:
    """Returns pieces of at most `max_rows` rows, or of one row group where that is larger.

    Raises:
        DataError: The file is missing, cut off, not parquet, contradicts itself, or is a bomb.
    """
    footer = checked_footer(path)
    pieces, first_rows = list[tuple[int, int]](), list[int]()
    start = num_rows = 0
    for number, group in enumerate(footer.groups):
        if not pieces or num_rows - start + group.num_rows > max_rows:
            pieces.append((number, number + 1))
            first_rows.append(num_rows + 1)
            start = num_rows
        else:
            pieces[-1] = (pieces[-1][0], number + 1)
        num_rows += group.num_rows
    return ParquetPlan(tuple(pieces), tuple(first_rows), has_checksums(path, footer))


def has_checksums(path: Path, footer: Footer) -> bool:
    """Returns whether the first page of every column of every row group carries a checksum."""
    with open_binary(path) as file:
        for group in footer.groups:
            for chunk in group.chunks:
                file.seek(chunk.start)
                if not _header_has_checksum(file.read(_PAGE_HEADER_BYTES)):
                    return False
    return bool(footer.groups)


def first_line(error: Exception) -> str:
    """Returns the gist of an error of another library."""
    return str(error).strip().split("\n", 1)[0][:200] or type(error).__name__


def _header_has_checksum(header: bytes) -> bool:
    """Returns whether a page header (Thrift, compact protocol) has its fourth field, the CRC."""
    number = place = 0
    while place < len(header) and number < 4:
        step, kind = header[place] >> 4, header[place] & 15
        if not step or kind != _I32:
            return False
        number += step
        place += 1
        while place < len(header) and header[place] & 0x80:
            place += 1
        place += 1
    return number == 4
