"""CSV: RFC 4180 in UTF-8 or GB18030, and whatever went wrong with it.

In: a path, and the columns that must be there. Out: records, each named by the line on which it
begins, and rejected places. Records are framed as bytes, which is safe because neither encoding
uses the bytes of the comma, the quote and the line end inside a character. A quote that is never
closed costs the line on which it stands and no more. It does not convert or repair a value.
"""

import re
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

from chatlm.corpus.read_json import open_binary
from chatlm.corpus.records import Read, Record, Rejected, excerpt_of
from chatlm.corpus.table_header import Columns, names_of, require_columns
from chatlm.corpus.table_text import Decoder, sniff
from chatlm.errors import DataError

MAX_LINE_BYTES = 8 * 1024 * 1024
MAX_QUOTED_BYTES = 60_000
"""A quoted field with line breaks that is longer (20,000 Chinese characters in UTF-8) has lost its
closing quote."""

_BLOCK_BYTES = 1 << 17
_MARKS = (b"\xef\xbb\xbf", b"\x84\x31\x95\x33")
_COMMA = 0x2C
_MAX_FIRST_VALUES = 64
_MAX_LEARNT = 1000
_LINE_END = re.compile(rb"\r?\n|\r")
_ONE = rb'(?:"(?:[^"]++|"")*+"|[^",]*+)'
_SOUND = re.compile(rb"%b(?:,%b)*+\r?" % (_ONE, _ONE))
_FIELD = re.compile(r'(?:^|,)(?:"((?:[^"]++|"")*+)"|([^,]*+))')
_INSIDE = re.compile(rb'(?:[^"]++|"")*+')
_CLOSED, _OPEN, _STRAY = range(3)

_Line = tuple[int, bytes | None]
_Frame = tuple[int, bytes, str]


def encoding_of(path: Path) -> str:
    """Returns `utf-8-sig` or `gb18030`, whichever the bytes of the file obey.

    UTF-8 is tried first and strictly, because GB18030 accepts most UTF-8 bytes in silence.

    Raises:
        DataError: The file is missing, empty or UTF-16.
    """
    return sniff(path).name


def read_csv(path: Path, columns: Columns = (), notes: Counter[str] | None = None) -> Read:
    """Yields the records of an RFC 4180 file in UTF-8 or GB18030, quoted line breaks and all.

    A record in the other encoding than its file is decoded if there is only one way to read it;
    `notes` then counts it under `decoded_as_utf8` or `decoded_as_gb18030`.

    Raises:
        DataError: The file is missing or empty, or a column is absent from the header.
    """
    decoder = Decoder(sniff(path), Counter() if notes is None else notes)
    frames = _Frames(_lines(path))
    header = _header(path, frames, decoder, columns)
    frames.num_commas = len(header) - 1
    name = str(path)
    for number, raw, reason in frames:
        if not reason:
            text = decoder.text(raw)
            if text is not None:
                fields = text.split(",") if '"' not in text else _split(text)
                if len(fields) != len(header):
                    frames.is_lost = True
                    reason = "ragged_row"
                elif fields != header:
                    yield Record(number, dict(zip(header, fields, strict=True)))
                    continue
                else:
                    reason = "repeated_header"
            else:
                reason = decoder.reason(raw)
        yield Rejected(name, number, reason, excerpt_of(decoder.excerpt(raw)))


def _header(path: Path, frames: "_Frames", decoder: Decoder, columns: Columns) -> list[str]:
    number, raw, reason = next(iter(frames), (1, b"", "no line"))
    text = None if reason else decoder.text(raw)
    if text is None:
        raise DataError(
            f"{path}: no header in line {number} ({reason or decoder.reason(raw)}); "
            f"expected {names_of(columns)}"
        )
    header = [name.strip() for name in _split(text)]
    require_columns(path, header, columns)
    if len(set(header)) < len(header):
        raise DataError(f"{path}: two columns of the header have the same name; rename one of them")
    return header


class _Frames:
    """The records of a file as bytes: (first line, bytes, what is wrong with it or "")."""

    def __init__(self, lines: Iterator[_Line]) -> None:
        self.num_commas: int | None = None
        """None: the header is still to come, which may have any number of columns."""
        self._lines = lines
        self._waiting = deque[_Line]()
        self.is_lost = False
        """Whether a quote was lost: what follows may be the rest of its record."""
        self._first_values = _FirstValues()

    def __iter__(self) -> Iterator[_Frame]:
        waiting, lines = self._waiting, self._lines
        while line := waiting.popleft() if waiting else next(lines, None):
            number, raw = line
            if raw is None:
                yield number, b"", "line_too_long"
            elif b'"' in raw:
                if self.is_lost or not _SOUND.fullmatch(raw):
                    yield self._quoted(number, raw)
                else:
                    # The usual case, which the slower road would end in the same way.
                    if self._first_values.num_seen < _MAX_LEARNT:
                        self._first_values.learn(raw)
                    yield number, raw.removesuffix(b"\r"), ""
            elif raw and raw != b"\r":
                raw = raw.removesuffix(b"\r")
                if raw.count(b",") != self.num_commas is not None:
                    yield number, raw, "ragged_row"
                elif self.is_lost and self._first_values.refuse(raw):
                    yield number, raw, "unclosed_quote"
                else:
                    self.is_lost = False
                    if self._first_values.num_seen < _MAX_LEARNT:
                        self._first_values.learn(raw)
                    yield number, raw, ""

    def _next(self) -> _Line | None:
        return self._waiting.popleft() if self._waiting else next(self._lines, None)

    def _has_columns(self, num_commas: int) -> bool:
        return self.num_commas is None or num_commas == self.num_commas

    def _quoted(self, number: int, raw: bytes) -> _Frame:
        """Returns the record that begins here, or gives up its first line alone.

        A quoted field must end before a comma or a line end. One that meets another quote first,
        grows too long, swallows what look like records or leaves the wrong number of columns has
        lost its quote; reading goes on at the second line. What follows may be the rest of it: only
        a line that begins as records of this file do is taken for one.
        """
        if self.is_lost and self._seems_a_rest(raw):
            return number, raw, "unclosed_quote"
        record, ahead, num_bytes = [raw], list[_Line](), len(raw)
        num_commas, state = _scan(raw, inside=False)
        opened_in = 0
        while state == _OPEN and num_bytes <= MAX_QUOTED_BYTES and (line := self._next()):
            ahead.append(line)
            if line[1] is None:
                break
            record.append(line[1])
            num_bytes += len(line[1]) + 1
            more, state = _scan(line[1], inside=True)
            if more or state == _CLOSED:
                if self._swallows(record[opened_in + 1 :], num_commas):
                    break
                opened_in = len(record) - 1
            num_commas += more
        else:
            whole = self._has_columns(num_commas)
            if state == _CLOSED and (whole or not ahead):
                self.is_lost = not whole
                if whole and self._first_values.num_seen < _MAX_LEARNT:
                    self._first_values.learn(raw)
                complete = b"\n".join(record).removesuffix(b"\r")
                return number, complete, "" if whole else "ragged_row"
        self.is_lost = True
        self._waiting.extendleft(reversed(ahead))
        return number, raw, "unclosed_quote"

    def _seems_a_rest(self, raw: bytes) -> bool:
        """Whether a line after a lost quote, with quotes in it, does not begin a record."""
        quotes_a_field = raw.startswith(b'"') or b',"' in raw
        return not quotes_a_field or self._first_values.refuse(raw)

    def _swallows(self, lines: list[bytes], column: int) -> bool:
        """Whether a quoted field seems to have run into the beginning of a further record.

        `lines` are those after its first; the last one holds the quote that seems to close it. What
        closes a field that has lost its quote is the quote that opens one: it stands behind a
        comma, and before it are as many fields as before the first.
        """
        match = _INSIDE.match(lines[-1])
        last = lines[-1][: match.end()] if match else b""
        if last.endswith(b",") and last.count(b",") == column:
            return True
        rows = [line for line in lines[:-1] if line.count(b",") == self.num_commas]
        if column and last.count(b",") == column:
            rows.append(last)
        return any(self._first_values.know(row) for row in rows)


class _FirstValues:
    """The values of the first column, where these are few: departments, labels."""

    def __init__(self) -> None:
        self._values = set[bytes]()
        self.num_seen = 0

    def learn(self, raw: bytes) -> None:
        """Takes the first field of a sound record."""
        self.num_seen += 1
        self._values.add(_first_value(raw))

    def know(self, raw: bytes) -> bool:
        """Whether the first field of `raw` is one of the few values of its column."""
        return self._are_few() and _first_value(raw) in self._values

    def refuse(self, raw: bytes) -> bool:
        """Whether the column has few values and the first field of `raw` is none of them."""
        return self._are_few() and _first_value(raw) not in self._values

    def _are_few(self) -> bool:
        return 0 < len(self._values) <= min(_MAX_FIRST_VALUES, self.num_seen // 4)


def _first_value(raw: bytes) -> bytes:
    return raw.partition(b",")[0].strip(b'"')


def _scan(line: bytes, inside: bool) -> tuple[int, int]:
    """Returns the separators in `line`, and how it ends: closed, in an open quote, or astray.

    Who quotes one field of a record quotes all that have a quote in them. Where none is quoted, a
    quote is a character like another: it stands for inches in tables that were written by hand.
    """
    position = num_commas = 0
    is_quoted, is_bare = inside, False
    while True:
        if inside or line.startswith(b'"', position):
            match = _INSIDE.match(line, position if inside else position + 1)
            position = match.end() if match else len(line)
            inside, is_quoted = False, True
            if position >= len(line):
                return num_commas, _OPEN
            position += 1
            if position == len(line) or line[position:] == b"\r":
                return num_commas, _STRAY if is_bare else _CLOSED
            if line[position] != _COMMA:
                return num_commas, _STRAY
        else:
            end = line.find(b",", position)
            is_bare |= line.find(b'"', position, end if end >= 0 else len(line)) >= 0
            if end < 0:
                return num_commas, _STRAY if is_bare and is_quoted else _CLOSED
            position = end
        num_commas += 1
        position += 1


def _split(text: str) -> list[str]:
    """Returns the fields of one record, whose quotes are known to be closed."""
    found = _FIELD.findall(text)
    if '""' not in text:
        return [quoted or plain for quoted, plain in found]
    return [quoted.replace('""', '"') if quoted else plain for quoted, plain in found]


def _lines(path: Path) -> Iterator[_Line]:
    """Yields (number, line without its LF); None stands for a line too long to hold in memory.

    A file whose header ends in a bare CR has lines that do. A CR elsewhere is part of its line.
    """
    with open_binary(path) as file:
        block = file.read(_BLOCK_BYTES)
        for mark in _MARKS:
            block = block.removeprefix(mark)
        end, number = _line_end(block), 0
        parts, num_bytes = list[bytes](), 0
        while block:
            first, *others = block.split(end)
            parts.append(first)
            num_bytes += len(first)
            if num_bytes > MAX_LINE_BYTES:
                parts.clear()
            if others:
                number += 1
                yield number, None if num_bytes > MAX_LINE_BYTES else b"".join(parts)
                last = others.pop()
                for line in others:
                    number += 1
                    yield number, line
                parts, num_bytes = [last], len(last)
            block = file.read(_BLOCK_BYTES)
        if num_bytes:
            yield number + 1, None if num_bytes > MAX_LINE_BYTES else b"".join(parts)


def _line_end(head: bytes) -> bytes:
    """Returns the byte that ends the first line: LF (also of CR LF) or a bare CR."""
    for match in _LINE_END.finditer(head):
        if head.count(b'"', 0, match.start()) % 2 == 0:
            return b"\r" if match[0] == b"\r" else b"\n"
    return b"\n"
