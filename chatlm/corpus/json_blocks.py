"""JSON Lines in blocks of columns, at the speed of the compiled scanner.

In: a path, perhaps a span of it, and the names of the wanted fields. Out: `Block`s, and the plan of
a file as spans of whole lines. What the scanner is not certain of is judged by `read_json`, line by
line; the two readers agree on every line. It does not know what the fields mean.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from chatlm.corpus import read_json
from chatlm.corpus.kernels.json_lines import MAX_FIELDS, count_line_feeds, scan_lines
from chatlm.corpus.kernels.texts import Texts
from chatlm.corpus.kernels.wide import SLACK
from chatlm.corpus.records import Record, Rejected

BLOCK_BYTES = 1 << 20
"""Small enough that a block and its columns stay in the cache of the second or third level."""
SPAN_BYTES = 64 << 20
_PLAN_BYTES = 1 << 20
_LF = b"\n"


@dataclass(frozen=True, slots=True)
class Block:
    """The lines of one block of a file, N of them in columns.

    The arrays are views of buffers that the reader fills anew: a block is valid until the next one
    is asked for. Copy what shall live longer.

    Attributes:
        texts: For each wanted text field its N texts, empty where it is not `present`.
        ints: For each wanted integer field int64 (N,), 0 where it is not `present`.
        present: For each wanted field bool (N,): it is there and of the wanted kind. Where it is
            not, `record` tells what is there instead.
        positions: int64 (N,), the line numbers, increasing.
        others: The records and rejects of the lines that are in no column, by line number.
        num_lines: All lines of the block, blank ones too.
    """

    texts: dict[str, Texts]
    ints: dict[str, NDArray[np.int64]]
    present: dict[str, NDArray[np.bool_]]
    positions: NDArray[np.int64]
    others: list[Record | Rejected]
    num_lines: int
    _path: Path
    _data: bytearray
    _num_bytes: int
    _line_spans: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.positions)

    def record(self, row: int) -> Record:
        """Returns the whole record of a row, as the row reader gives it."""
        begin, end = self._line_spans[row]
        line = bytes(memoryview(self._data)[begin:end])
        found = read_json.judge_line(self._path, int(self.positions[row]), line)
        assert isinstance(found, Record), f"{self._path}: the scanner took a line for plain: {line}"
        return found

    def mentions(self, name: str) -> bool:
        """Returns whether a row may have a field of that name; errs to yes."""
        return self._data.find(b'"%s"' % name.encode(), 0, self._num_bytes) >= 0


@dataclass(frozen=True, slots=True)
class Span:
    """Whole lines of a file: the bytes from `start` to `end`, the first line being `first_line`."""

    start: int
    end: int
    first_line: int
    num_lines: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FilePlan:
    """What one pass over a file tells: its hash, its size, and where it can be cut."""

    sha256: str
    num_bytes: int
    spans: list[Span]


def read_blocks(
    path: Path,
    text_fields: Sequence[str],
    int_fields: Sequence[str] = (),
    span: tuple[int, int] | None = None,
    block_bytes: int = BLOCK_BYTES,
    first_line: int = 1,
) -> Iterator[Block]:
    """Yields the lines of a JSON Lines file in blocks of about `block_bytes`.

    Args:
        path: The file.
        text_fields: The names of the fields whose texts are wanted.
        int_fields: The names of the fields whose integers are wanted.
        span: The bytes to read, from the start of a line to the end of one; the whole file if None.
        block_bytes: How much is read at once. A block is larger where a line is.
        first_line: The number of the first line of the span.

    Raises:
        DataError: The file is missing, a folder, or UTF-16, or changed while it was read.
    """
    columns = _Columns(path, text_fields, int_fields)
    with read_json.opened_span(path, span) as (file, start, end):
        for data, num_bytes in _whole_lines(path, file, end - start, block_bytes):
            if num_bytes == 0:
                block = columns.nothing_but(Rejected(str(path), first_line, "line_too_long"))
            else:
                block = columns.scan(data, num_bytes, first_line)
            yield block
            first_line += block.num_lines


def line_spans(path: Path, span_bytes: int = SPAN_BYTES) -> FilePlan:
    """Returns the hash of a JSON Lines file and its spans, each of at least `span_bytes`.

    A span ends with the first line that reaches `span_bytes`; the last one is what remains. The
    mark at the beginning of a file belongs to its first span.

    Raises:
        DataError: The file is missing, a folder, or UTF-16, or changed while it was read.
    """
    whole, part = hashlib.sha256(), hashlib.sha256()
    spans = list[Span]()
    start, first_line, num_lines, at = 0, 1, 0, 0
    buffer = bytearray(_PLAN_BYTES + SLACK)
    view, array = memoryview(buffer)[:_PLAN_BYTES], np.frombuffer(buffer, np.uint8)
    with read_json.opened_span(path) as (file, _, size):
        file.seek(0)
        while num_read := _read_into(file, view[: size - at]):
            whole.update(view[:num_read])
            done = 0
            while (cut := _cut(buffer, start + span_bytes - at, done, num_read)) >= 0:
                part.update(view[done:cut])
                num_lines += count_line_feeds(array, done, cut)
                spans.append(Span(start, at + cut, first_line, num_lines, part.hexdigest()))
                start, first_line, num_lines = at + cut, first_line + num_lines, 0
                part, done = hashlib.sha256(), cut
            part.update(view[done:num_read])
            num_lines += count_line_feeds(array, done, num_read)
            at += num_read
            if at == size and start < at:
                num_lines += buffer[num_read - 1] != _LF[0]
                spans.append(Span(start, at, first_line, num_lines, part.hexdigest()))
        if at < size:
            raise read_json.changed(path)
    return FilePlan(whole.hexdigest(), at, spans)


class _Columns:
    """The buffers that a scan fills, kept from block to block: fresh memory is slow memory."""

    def __init__(self, path: Path, text_fields: Sequence[str], int_fields: Sequence[str]):
        names = [*text_fields, *int_fields]
        if len(set(names)) != len(names) or len(names) > MAX_FIELDS:
            raise ValueError(f"expected at most {MAX_FIELDS} different field names, found {names}")
        self._path = path
        self._text_fields, self._int_fields = tuple(text_fields), tuple(int_fields)
        encoded = [name.encode() for name in names]
        self._names = np.array(bytearray(b"".join(encoded)), np.uint8)
        self._name_ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self._texts = np.empty((len(text_fields) + 1, 0), np.uint8)
        self._make_rows(0)

    def scan(self, data: bytearray, num_bytes: int, first_line: int) -> Block:
        """Returns the block of the whole lines `data[:num_bytes]`."""
        if data[num_bytes - 1] != _LF[0]:
            data[num_bytes] = _LF[0]
        array = np.frombuffer(data, np.uint8)
        max_lines = count_line_feeds(array, 0, num_bytes) + 1
        if max_lines > len(self._lines):
            self._make_rows(max_lines * 5 // 4)
        if len(data) > self._texts.shape[1]:
            self._texts = np.empty((len(self._texts), len(data)), np.uint8)
        num_rows, num_others, num_lines = scan_lines(
            array,
            0,
            num_bytes,
            read_json.MAX_LINE_BYTES,
            self._names,
            self._name_ends,
            self._texts,
            self._offsets,
            self._ints,
            self._present,
            self._lines,
            self._spans,
            self._others,
        )
        others = list[Record | Rejected]()
        view = memoryview(data)
        for line, begin, end in self._others[:num_others].tolist():
            found = read_json.judge_line(self._path, first_line + line, bytes(view[begin:end]))
            if found is not None:
                others.append(found)
        self._lines[:num_rows] += first_line
        return self._block(num_rows, others, num_lines, data, num_bytes)

    def nothing_but(self, rejected: Rejected) -> Block:
        """Returns the block of one line that cannot be held."""
        return self._block(0, [rejected], 1, bytearray(), 0)

    def _block(
        self,
        num_rows: int,
        others: list[Record | Rejected],
        num_lines: int,
        data: bytearray,
        num_bytes: int,
    ) -> Block:
        names = (*self._text_fields, *self._int_fields)
        return Block(
            {
                name: Texts(self._texts[field], self._offsets[field, : num_rows + 1])
                for field, name in enumerate(self._text_fields)
            },
            {name: self._ints[field, :num_rows] for field, name in enumerate(self._int_fields)},
            {name: self._present[field, :num_rows] for field, name in enumerate(names)},
            self._lines[:num_rows],
            others,
            num_lines,
            self._path,
            data,
            num_bytes,
            self._spans[:num_rows],
        )

    def _make_rows(self, num_rows: int) -> None:
        num_texts, num_ints = len(self._text_fields), len(self._int_fields)
        self._offsets = np.zeros((num_texts, num_rows + 1), np.int64)
        self._ints = np.empty((num_ints, num_rows), np.int64)
        self._present = np.empty((num_texts + num_ints, num_rows), np.bool_)
        self._lines = np.empty(num_rows, np.int64)
        self._spans = np.empty((num_rows, 2), np.int64)
        self._others = np.empty((num_rows, 3), np.int64)


def _whole_lines(
    path: Path, file: BinaryIO, left: int, block_bytes: int
) -> Iterator[tuple[bytearray, int]]:
    """Yields (buffer, how many bytes of it are whole lines); 0 bytes is a line that is too long.

    The buffer has `SLACK` bytes more, is the same one each time unless it had to grow, and holds
    never more than the longest line allowed and one block.
    """
    data = bytearray(2 * block_bytes + SLACK)
    held = 0
    while left or held:
        if len(data) < held + block_bytes + SLACK:
            data = data + bytearray(len(data))
        num_read = _read_into(file, memoryview(data)[held : held + min(block_bytes, left)])
        if left and not num_read:
            raise read_json.changed(path)
        left -= num_read
        end = data.rfind(_LF, held, held + num_read) + 1
        held += num_read
        if not left:
            end = held
        if end:
            yield data, end
            # The block may be shown no more: what follows it moves to the front.
            data[: held - end] = data[end:held]
            held -= end
        elif held > read_json.MAX_LINE_BYTES:
            left = _skip_line(path, file, data, left)
            yield data, 0
            held = 0


def _skip_line(path: Path, file: BinaryIO, data: bytearray, left: int) -> int:
    """Goes to the end of a line, using `data` for it; returns how much of the span is left."""
    while left:
        num_read = _read_into(file, memoryview(data)[: min(len(data), left)])
        if not num_read:
            raise read_json.changed(path)
        end = data.find(_LF, 0, num_read) + 1
        if end:
            file.seek(end - num_read, os.SEEK_CUR)
            return left - end
        left -= num_read
    return 0


def _read_into(file: BinaryIO, view: memoryview) -> int:
    return file.readinto(view)  # type: ignore[attr-defined]


def _cut(buffer: bytearray, wanted: int, done: int, num_read: int) -> int:
    """Returns where the line that reaches `wanted` ends in the buffer, -1 if not in it."""
    place = max(wanted - 1, done)
    return buffer.find(_LF, place, num_read) + 1 or -1 if place < num_read else -1
