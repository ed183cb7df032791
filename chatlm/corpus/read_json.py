"""JSON Lines and JSON arrays.

In: a path. Out: records with exact line numbers (JSON Lines) or element numbers (arrays), and
rejected places. A bad line never ends the run; a file that cannot be one of the two formats at all
(a cut-off array, UTF-16) is one `DataError`. It does not look at field names.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import orjson

from chatlm.corpus.records import Read, Record, Rejected, excerpt_of
from chatlm.errors import DataError

MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 64
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_OPENERS, _CLOSERS = b"[{", b"]}"


def read_jsonl(path: Path) -> Read:
    """Yields the records of a JSON Lines file; blank lines are no records and no rejects.

    Lines end at the byte LF alone, so that U+2028, U+0085 or a bare CR inside a text cannot shift
    the line numbers.

    Raises:
        DataError: The file is missing, a folder, or UTF-16.
    """
    for number, line in _lines(path):
        if line is None:
            yield Rejected(str(path), number, "line_too_long")
            continue
        if not line.strip():
            continue
        reason = "too_deep" if _nesting(line) > MAX_DEPTH else ""
        if not reason:
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                reason = _json_reason(line, str(error))
            else:
                if isinstance(value, dict):
                    yield Record(number, value)
                    continue
                reason = "not_an_object"
        yield Rejected(str(path), number, reason, excerpt_of(line))


def read_json_array(path: Path) -> Read:
    """Yields the elements of a file that is one JSON array of objects (the Alpaca family).

    Raises:
        DataError: The file is missing, malformed or cut off; the message names the place.
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
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def refuse_utf16(path: Path, head: bytes) -> None:
    """Raises the `DataError` for a file that begins with a UTF-16 mark."""
    if head[:2] in _UTF16_BOMS:
        raise DataError(f"{path}: is UTF-16; expected UTF-8, convert it first (iconv -t UTF-8)")


def _contents(path: Path) -> bytes:
    with open_binary(path) as file:
        content = file.read()
    refuse_utf16(path, content)
    return content.removeprefix(_UTF8_BOM)


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Yields (line number, line); None stands for a line that is too long to hold in memory."""
    with open_binary(path) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if number == 1:
                refuse_utf16(path, line)
                line = line.removeprefix(_UTF8_BOM)
            if len(line) <= MAX_LINE_BYTES:
                yield number, line
                continue
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            yield number, None


def _nesting(line: bytes) -> int:
    """Returns how deeply `line` nests, 0 for the plain records that have few brackets.

    The parser recurses; a line of a million brackets is refused before it is parsed.
    """
    if line.count(b"[") + line.count(b"{") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    in_string = escaped = False
    for byte in line:
        if in_string:
            in_string = escaped or byte != 0x22
            escaped = byte == 0x5C and not escaped
        elif byte == 0x22:
            in_string = True
        elif byte in _OPENERS:
            depth += 1
            deepest = max(deepest, depth)
        elif byte in _CLOSERS:
            depth -= 1
    return deepest


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
