"""JSON Lines and JSON arrays.

In: a path, for JSON Lines perhaps a span of whole lines of it. Out: records with exact line numbers
(JSON Lines) or element numbers (arrays), and rejected places. A bad line never ends the run; a file
that cannot be one of the two formats at all (a cut-off array, UTF-16) is one `DataError`. It does
not look at field names.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson

from chatlm.corpus.records import Read, Record, Rejected, excerpt_of
from chatlm.errors import DataError

MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_ARRAY_BYTES = 1024 * 1024 * 1024
MAX_DEPTH = 64
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_SKIP_BYTES = 1024 * 1024
_BUFFER_BYTES = 256 * 1024


def read_jsonl(path: Path, span: tuple[int, int] | None = None, first_line: int = 1) -> Read:
    """Yields the records of a JSON Lines file; blank lines are no records and no rejects.

    Lines end at the byte LF alone, so that U+2028, U+0085 or a bare CR inside a text cannot shift
    the line numbers.

    Args:
        path: The file.
        span: The bytes to read, from the start of a line to the end of one; the whole file if None.
        first_line: The number of the first line of the span.

    Raises:
        DataError: The file is missing, a folder, or UTF-16, or changed while it was read.
    """
    for number, line in _lines(path, span, first_line):
        if line is None:
            yield Rejected(str(path), number, "line_too_long")
        elif (found := judge_line(path, number, line)) is not None:
            yield found


def judge_line(path: Path, number: int, line: bytes) -> Record | Rejected | None:
    """Returns what one line, with or without its LF, holds; None if it is blank."""
    if len(line) > MAX_LINE_BYTES:
        return Rejected(str(path), number, "line_too_long")
    if not line or line.isspace():
        return None
    reason = "too_deep" if _nests_too_deeply(line) else ""
    if not reason:
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            reason = _json_reason(line, str(error))
        else:
            if isinstance(value, dict):
                return Record(number, value)
            reason = "not_an_object"
    return Rejected(str(path), number, reason, excerpt_of(line))


def read_json_array(path: Path) -> Read:
    """Yields the elements of a file that is one JSON array of objects (the Alpaca family).

    Raises:
        DataError: The file is missing, malformed, cut off (the message names the place), or larger
            than 1 GiB, because it is parsed as a whole.
    """
    content = _contents(path)
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise DataError(
            f"{path}: not a complete JSON array ({error.msg} at line {error.lineno}, column "
            f"{error.colno}); the file may be cut off, get it again"
        ) from error
    if not isinstance(value, list):
        raise DataError(f"{path}: expected a JSON array of objects, found {type(value).__name__}")
    for number, element in enumerate(value, start=1):
        if isinstance(element, dict):
            yield Record(number, element)
        else:
            yield Rejected(str(path), number, "not_an_object", excerpt_of(str(element)))


def open_binary(path: Path) -> BinaryIO:
    """Returns `path` opened for reading bytes.

    Raises:
        DataError: It does not exist, is a folder, or may not be read.
    """
    try:
        return path.open("rb", buffering=_BUFFER_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def refuse_utf16(path: Path, head: bytes) -> None:
    """Raises the `DataError` for a file that begins with a UTF-16 mark."""
    if head[:2] in _UTF16_BOMS:
        raise DataError(f"{path}: is UTF-16; expected UTF-8, convert it first (iconv -t UTF-8)")


@contextmanager
def opened_span(
    path: Path, span: tuple[int, int] | None = None
) -> Iterator[tuple[BinaryIO, int, int]]:
    """Gives (the file at the first byte of the span, the place of that byte, of the span's end).

    A UTF-8 mark at the beginning of the file belongs to no line.

    Raises:
        DataError: The file cannot be read, is UTF-16, ends before the span does, or, where no span
            is given, does not have the size any more that it had at first.
    """
    with open_binary(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            start, end = span or (0, size)
            if end > size:
                raise changed(path)
            if start == 0:
                head = file.read(len(_UTF8_BOM))
                refuse_utf16(path, head)
                start = len(head) if head == _UTF8_BOM and end else 0
            file.seek(start)
            yield file, start, end
            if span is None and os.fstat(file.fileno()).st_size != size:
                raise changed(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read any further ({error.strerror})") from error


def changed(path: Path) -> DataError:
    """Returns the error for a file that is not what it was when reading began."""
    return DataError(
        f"{path}: changed its size while it was being read; wait until it is complete and run again"
    )


def _contents(path: Path) -> bytes:
    with open_binary(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_ARRAY_BYTES:
            raise DataError(
                f"{path}: a JSON array of {size / 2**30:.1f} GiB takes several times the memory; "
                "convert it to JSON Lines first: jq -cn --stream "
                f"'fromstream(1|truncate_stream(inputs))' {path.name} > {path.stem}.jsonl"
            )
        content = file.read()
    refuse_utf16(path, content)
    return content.removeprefix(_UTF8_BOM)


def _lines(
    path: Path, span: tuple[int, int] | None, first_line: int
) -> Iterator[tuple[int, bytes | None]]:
    """Yields (line number, line); None stands for a line that is too long to hold in memory."""
    with opened_span(path, span) as (file, start, end):
        number, left = first_line, end - start
        while left > 0:
            line = file.readline(min(MAX_LINE_BYTES + 1, left))
            left -= len(line)
            if len(line) <= MAX_LINE_BYTES:
                if left and not line.endswith(b"\n"):
                    raise changed(path)
                yield number, line
            else:
                while left and not line.endswith(b"\n"):
                    line = file.readline(min(_SKIP_BYTES, left))
                    if not line:
                        raise changed(path)
                    left -= len(line)
                yield number, None
            number += 1


def _nests_too_deeply(line: bytes) -> bool:
    """Returns whether `line` nests deeper than `MAX_DEPTH`; quick for the usual line.

    The parser recurses; a line of a million brackets is refused before it is parsed.
    """
    if line.count(b"[") + line.count(b"{") <= MAX_DEPTH:
        return False
    line = line.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = np.frombuffer(line, np.uint8)
    outside = ~np.logical_xor.accumulate(marks == ord('"'))
    # [ and {, ] and } differ in the bit 0x20 alone, and no other byte becomes one of them.
    marks = marks[outside] | 0x20
    marks = marks[(marks == ord("{")) | (marks == ord("}"))]
    steps = (np.int8(ord("|")) - marks.astype(np.int8)).astype(np.int8)
    return bool(len(steps)) and int(np.cumsum(steps, dtype=np.int32).max()) > MAX_DEPTH


def _json_reason(line: bytes, message: str) -> str:
    """Names what is wrong with a line that the strict parser refused."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return "invalid_utf8"
    if "surrogate" in message:
        return "lone_surrogate"
    if "depth" in message:
        return "too_deep"
    return "malformed_json"
