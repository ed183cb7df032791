"""How a raw file is cut so that several tasks can read it, and how one piece is read.

In: a path; one of its pieces. Out: the pieces, as JSON values; the records of a piece, one by one
or in blocks of columns. A piece carries the hash of its own bytes where that is cheap, so that a
change elsewhere in the file does not concern it. It does not clean.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from chatlm.corpus import json_blocks, readers
from chatlm.corpus.parquet_file import open_parquet, parquet_plan
from chatlm.corpus.raw_blocks import RawBlock, RowsBlock, TableBlock
from chatlm.corpus.read_json import open_binary, read_jsonl
from chatlm.corpus.read_parquet import read_parquet, read_parquet_batches
from chatlm.corpus.read_table import Columns
from chatlm.corpus.records import Read, Record, Rejected
from chatlm.corpus.store import file_sha256
from chatlm.corpus.table_header import CONVERSATION_NAMES
from chatlm.corpus.wiki import dump
from chatlm.errors import DataError

Piece = dict[str, Any]

BATCH_RECORDS = 4096
_SPAN_BYTES = 64 << 20
_DUMP_SPAN_BYTES = 16 << 20
_PARQUET_ROWS = 65_536


def plan(path: Path) -> dict[str, Any]:
    """Returns `sha256`, `bytes`, `layout` and `pieces` of a raw file, and whether it is `verified`.

    A file is verified if damage to it cannot go unnoticed beyond what its format shows.

    Raises:
        DataError: The file as a whole cannot be read.
    """
    layout = readers.layout_of(path)
    planned = _PLANS.get(layout, _whole)(path)
    for piece in planned["pieces"]:
        piece["layout"] = layout
    return planned | {"layout": layout}


def read_piece(path: Path, piece: Piece, columns: Columns) -> Read:
    """Yields the records of one piece, with the positions that they have in the file."""
    if piece["layout"] == "jsonl":
        return read_jsonl(path, span=_span(piece), first_line=piece["first_line"])
    if piece["layout"] == "parquet":
        return read_parquet(path, columns, _row_group_range(piece))
    if piece["layout"] == "dump":
        return dump.read_pages(path, dump.Span(*_span(piece)))
    return readers.read(path, columns)


def read_blocks(
    path: Path, piece: Piece, columns: Columns, fields: tuple[Sequence[str], Sequence[str]]
) -> Iterator[RawBlock]:
    """Yields the same records in blocks with columns for the text and the integer `fields`."""
    texts, ints = fields
    if piece["layout"] == "jsonl":
        first = piece["first_line"]
        yield from json_blocks.read_blocks(path, texts, ints, span=_span(piece), first_line=first)
    elif piece["layout"] == "parquet" and not ints and _has_columns(path, texts):
        for found in read_parquet_batches(path, texts, _row_group_range(piece)):
            if isinstance(found, Rejected):
                yield RowsBlock.of([found], texts)
            else:
                first_row, batch = found
                yield TableBlock.of(batch, first_row, texts)
    else:
        for records in batches(read_piece(path, piece, columns)):
            yield RowsBlock.of(records, texts, ints)


def batches(items: Iterable[Record | Rejected]) -> Iterator[list[Record | Rejected]]:
    """Yields the items in lists of `BATCH_RECORDS`."""
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH_RECORDS)):
        yield batch


def _span(piece: Piece) -> tuple[int, int]:
    return piece["start"], piece["end"]


def _row_group_range(piece: Piece) -> tuple[int, int]:
    first, end = piece["row_groups"]
    return first, end


def _has_columns(path: Path, names: Sequence[str]) -> bool:
    """Returns whether a parquet file has all these columns, and no other that could be meant."""
    with open_parquet(path) as file:
        found = set(file.schema_arrow.names)
        return set(names) <= found and found.isdisjoint(CONVERSATION_NAMES)


def _lines(path: Path) -> dict[str, Any]:
    planned = json_blocks.line_spans(path, _SPAN_BYTES)
    pieces = [
        {
            "start": span.start,
            "end": span.end,
            "first_line": span.first_line,
            "bytes": span.end - span.start,
            "sha256": span.sha256,
        }
        for span in planned.spans
    ]
    return {"sha256": planned.sha256, "bytes": planned.num_bytes, "pieces": pieces}


def _row_groups(path: Path) -> dict[str, Any]:
    found = _whole(path)
    planned = parquet_plan(path, _PARQUET_ROWS)
    share = found["bytes"] // max(1, len(planned.pieces))
    return found | {
        "verified": planned.has_checksums,
        "pieces": [
            {"row_groups": list(groups), "bytes": share, "sha256": found["sha256"]}
            for groups in planned.pieces
        ],
    }


def _streams(path: Path) -> dict[str, Any]:
    found = _whole(path)
    spans = dump.grouped(dump.streams(path), _DUMP_SPAN_BYTES)
    with open_binary(path) as file:
        pieces = [
            {
                "start": span.start,
                "end": span.end,
                "bytes": span.end - span.start,
                "sha256": hashlib.sha256(file.read(span.end - span.start)).hexdigest(),
            }
            for span in spans
        ]
    return found | {"pieces": pieces}


def _whole(path: Path) -> dict[str, Any]:
    try:
        sha256, size = file_sha256(path), path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return {"sha256": sha256, "bytes": size, "pieces": [{"bytes": size, "sha256": sha256}]}


_PLANS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "jsonl": _lines,
    "parquet": _row_groups,
    "dump": _streams,
}
