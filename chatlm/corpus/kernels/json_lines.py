"""A compiled scanner of JSON Lines: columns out of plain lines, the numbers of all other lines.

In: the bytes of whole lines, and the names of the fields that are wanted. Out: their unescaped
texts and integers as columns. It does not judge: a line is either *plain*, so that every strict
parser must read it as this one does, or it is named for the arbiter.

A plain line is one flat object. Its strings are strict UTF-8 without raw control characters, with
valid escapes and paired surrogates; its other values are numbers of modest length, true, false or
null; no wanted name occurs twice.

Strings are taken 64 bytes at a time (`wide`), so that the next quote is a count of zeros and the
grammar of UTF-8 is arithmetic on a few words.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels.wide import below, copy_64, count_ones, equal, trailing_zeros, unowned

MAX_FIELDS = 64

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Whole = int | np.int64

_LF, _QUOTE, _BACKSLASH, _MINUS, _PLUS, _DOT = 0x0A, 0x22, 0x5C, 0x2D, 0x2B, 0x2E
_OPEN, _CLOSE, _COLON, _COMMA, _ZERO, _NINE = 0x7B, 0x7D, 0x3A, 0x2C, 0x30, 0x39
_NOT_PLAIN, _BLANK = -1, -2
_MAX_DIGITS = 19
"""Enough for every int64, and too few to be infinite even with the two digits of an exponent."""
_ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)
_CUT = tuple(np.uint64(word) for word in (1 << 63, 3 << 62, 7 << 61))
"""Where a lead byte of 2, 3, 4 bytes stands if its character goes on behind a word of 64."""
_MAX_INT = np.uint64(0x7FFF_FFFF_FFFF_FFFF)

_UNESCAPED = np.zeros(256, np.uint8)
for _name, _value in zip(b'"\\/bfnrt', b'"\\/\b\f\n\r\t', strict=True):
    _UNESCAPED[_name] = _value
_HEX = np.full(256, 255, np.uint8)
for _digit in b"0123456789abcdefABCDEF":
    _HEX[_digit] = int(chr(_digit), 16)


@njit(cache=True, nogil=True)
def scan_lines(
    data: Bytes,
    start: int,
    end: int,
    max_line_bytes: int,
    names: Bytes,
    name_ends: Numbers,
    texts: Bytes,
    offsets: Numbers,
    ints: Numbers,
    present: Flags,
    lines: Numbers,
    spans: Numbers,
    others: Numbers,
) -> tuple[int, int, int]:
    """Fills the columns from `data[start:end]` and returns how many (rows, others, lines) it saw.

    `data[end]` must be LF unless `data[end - 1]` is; `SLACK`
    more bytes must follow. For F wanted
    names, the first T of them texts, and room for N lines:

    Args:
        data: uint8, whole lines.
        start: Where the first line begins.
        end: Where the last line ends.
        max_line_bytes: A longer line (its LF included) is not plain.
        names: uint8, the wanted names one after another.
        name_ends: int64 (F,), where each name ends.
        texts: uint8 (T + 1, C), C at least `end - start + SLACK`; the last row is scratch.
        offsets: int64 (T, N + 1), of row r of text t: `texts[t, offsets[t, r]:offsets[t, r + 1]]`.
        ints: int64 (F - T, N).
        present: bool (F, N), whether the field is there and of the wanted kind.
        lines: int64 (N,), the line numbers of the rows, the first line of `data` being 0.
        spans: int64 (N, 2), where their lines begin and end.
        others: int64 (N, 3): number, begin and end of each line that is not plain; blank lines are
            in neither.
    """
    data, names, name_ends, texts = (
        unowned(data),
        unowned(names),
        unowned(name_ends),
        unowned(texts),
    )
    offsets, ints, present = unowned(offsets), unowned(ints), unowned(present)
    num_rows = num_others = num_lines = 0
    num_texts = len(offsets)
    for text in range(num_texts):
        offsets[text, 0] = 0
    at = start
    while at < end:
        begin = at
        stop = _read_line(data, at, names, name_ends, texts, offsets, ints, present, num_rows)
        at = stop if stop >= 0 else _line_end(data, begin)
        if stop >= 0 and at + 1 - begin <= max_line_bytes:
            lines[num_rows] = num_lines
            spans[num_rows, 0], spans[num_rows, 1] = begin, at
            num_rows += 1
        elif stop != _BLANK or at + 1 - begin > max_line_bytes:
            others[num_others, 0] = num_lines
            others[num_others, 1], others[num_others, 2] = begin, min(at + 1, end)
            num_others += 1
        num_lines += 1
        at += 1
    return num_rows, num_others, num_lines


@njit(cache=True, nogil=True)
def count_line_feeds(data: Bytes, start: int, end: int) -> int:
    """Returns how many LF are in `data[start:end]`, behind which `SLACK` more bytes must follow."""
    count = 0
    for at in range(start, end, 64):
        found = equal(data, at, _LF)
        if end - at < 64:
            found &= ~(_ALL << np.uint64(end - at))
        count += count_ones(found)
    return count


@njit(cache=True, nogil=True)
def _read_line(
    data: Bytes,
    at: int,
    names: Bytes,
    name_ends: Numbers,
    texts: Bytes,
    offsets: Numbers,
    ints: Numbers,
    present: Flags,
    row: int,
) -> int:
    """Fills one row; returns the place of its LF, or `_NOT_PLAIN` or `_BLANK`."""
    num_texts = len(offsets)
    for text in range(num_texts):
        offsets[text, row + 1] = offsets[text, row]
    for field in range(len(name_ends)):
        present[field, row] = False
    for number in range(len(ints)):
        ints[number, row] = 0
    at = _skip_space(data, at)
    if data[at] != _OPEN:
        return _BLANK if data[at] == _LF else _NOT_PLAIN
    at = _skip_space(data, at + 1)
    scratch = texts[num_texts]
    seen = np.uint64(0)
    more = data[at] != _CLOSE
    while more:
        if data[at] != _QUOTE:
            return _NOT_PLAIN
        key = at + 1
        at, length = _read_string(data, key, scratch, 0)
        # A name that is shorter than it was written has escapes; a search for names would miss it.
        if at < 0 or length != at - 1 - key:
            return _NOT_PLAIN
        field = _field_of(scratch, length, names, name_ends)
        if field >= 0:
            bit = _ONE << np.uint64(field)
            if seen & bit:
                return _NOT_PLAIN
            seen |= bit
        at = _skip_space(data, at)
        if data[at] != _COLON:
            return _NOT_PLAIN
        at = _skip_space(data, at + 1)
        byte = data[at]
        if byte == _QUOTE:
            if 0 <= field < num_texts:
                at, length = _read_string(data, at + 1, texts[field], offsets[field, row])
                offsets[field, row + 1] = length
                present[field, row] = True
            else:
                at, length = _read_string(data, at + 1, scratch, 0)
        elif byte == _MINUS or _ZERO <= byte <= _NINE:
            at, value, whole = _read_number(data, at)
            if field >= num_texts and whole:
                ints[field - num_texts, row] = value
                present[field, row] = True
        else:
            at = _read_literal(data, at)
        if at < 0:
            return _NOT_PLAIN
        at = _skip_space(data, at)
        more = data[at] == _COMMA
        if more:
            at = _skip_space(data, at + 1)
        elif data[at] != _CLOSE:
            return _NOT_PLAIN
    at = _skip_space(data, at + 1)
    return at if data[at] == _LF else _NOT_PLAIN


@njit(cache=True, nogil=True)
def _read_string(data: Bytes, at: int, out: Bytes, to: int) -> tuple[int, int]:
    """Unescapes the string whose first byte is at `at` into `out` from `to` on.

    Returns the places behind its quote and behind its text, or (-1, 0). A step ends before the
    first character that the 64 bytes cut in two, so that no state is carried to the next one.
    """
    while True:
        copy_64(data, at, out, to)
        stops = equal(data, at, _QUOTE) | equal(data, at, _BACKSLASH) | below(data, at, 0x20)
        size = trailing_zeros(stops)
        high = below(data, at, 0x80) ^ _ALL
        if high:
            lead2 = below(data, at, 0xC0) ^ _ALL
            lead3 = below(data, at, 0xE0) ^ _ALL
            lead4 = below(data, at, 0xF0) ^ _ALL
            if size == 64:
                cut = (lead2 & _CUT[0]) | (lead3 & _CUT[1]) | (lead4 & _CUT[2])
                size = trailing_zeros(cut)
            # What stands at `size` must not be where a character before it should go on.
            checked = min(size + 1, 64)
            expected = (lead2 << _ONE) | (lead3 << _TWO) | (lead4 << _THREE)
            wrong = expected ^ (high & ~lead2)
            wrong |= (below(data, at, 0xC2) & lead2) | (below(data, at, 0xF5) ^ _ALL)
            wrong |= (equal(data, at, 0xE0) << _ONE) & below(data, at, 0xA0)
            wrong |= (equal(data, at, 0xED) << _ONE) & ~below(data, at, 0xA0)
            wrong |= (equal(data, at, 0xF0) << _ONE) & below(data, at, 0x90)
            wrong |= (equal(data, at, 0xF4) << _ONE) & ~below(data, at, 0x90)
            if wrong & (_ALL >> np.uint64(64 - checked)):
                return -1, 0
        at += size
        to += size
        if not stops:
            continue
        if data[at] == _QUOTE:
            return at + 1, to
        if data[at] != _BACKSLASH:
            return -1, 0
        while data[at] == _BACKSLASH:
            byte = _UNESCAPED[data[at + 1]]
            if byte:
                out[to] = byte
                at += 2
                to += 1
            else:
                at, to = _read_unicode_escape(data, at, out, to)
                if at < 0:
                    return -1, 0


@njit(cache=True, nogil=True)
def _read_unicode_escape(data: Bytes, at: int, out: Bytes, to: int) -> tuple[int, int]:
    r"""Writes the character of the `\uXXXX` or the pair of them at `at`; see `_read_string`."""
    code = _hex_4(data, at)
    at += 6
    if code < 0 or 0xDC00 <= code < 0xE000:
        return -1, 0
    if 0xD800 <= code < 0xDC00:
        low = _hex_4(data, at)
        if not 0xDC00 <= low < 0xE000:
            return -1, 0
        at += 6
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        out[to] = 0xF0 | (code >> 18)
        out[to + 1] = 0x80 | ((code >> 12) & 0x3F)
        to += 2
    elif code >= 0x800:
        out[to] = 0xE0 | (code >> 12)
        to += 1
    elif code >= 0x80:
        out[to] = 0xC0 | (code >> 6)
        out[to + 1] = 0x80 | (code & 0x3F)
        return at, to + 2
    else:
        out[to] = code
        return at, to + 1
    out[to] = 0x80 | ((code >> 6) & 0x3F)
    out[to + 1] = 0x80 | (code & 0x3F)
    return at, to + 2


@njit(cache=True, nogil=True)
def _hex_4(data: Bytes, at: int) -> Whole:
    r"""Returns the number of the `\uXXXX` at `at`, or -1 if that is not what stands there."""
    if data[at] != _BACKSLASH or data[at + 1] != 0x75:
        return -1
    code = 0
    for place in range(at + 2, at + 6):
        digit = np.int64(_HEX[data[place]])
        if digit > 15:
            return -1
        code = code * 16 + digit
    return code


@njit(cache=True, nogil=True)
def _read_number(data: Bytes, at: int) -> tuple[int, Whole, bool]:
    """Returns (the place behind it, its value, whether it is an integer); -1 if not plain."""
    negative = data[at] == _MINUS
    first = at + 1 if negative else at
    at = first
    value = np.uint64(0)
    while _ZERO <= data[at] <= _NINE and at - first <= _MAX_DIGITS:
        value = value * np.uint64(10) + np.uint64(data[at] - _ZERO)
        at += 1
    digits = at - first
    if digits == 0 or digits > _MAX_DIGITS or (data[first] == _ZERO and digits > 1):
        return -1, 0, False
    whole = True
    if data[at] == _DOT:
        whole = False
        fraction = at + 1
        at = _skip_digits(data, fraction)
        if at == fraction:
            return -1, 0, False
    if data[at] | 0x20 == 0x65:
        whole = False
        at += 2 if data[at + 1] == _MINUS or data[at + 1] == _PLUS else 1
        exponent = at
        at = _skip_digits(data, exponent)
        if not 1 <= at - exponent <= 2:
            return -1, 0, False
    if whole and value > _MAX_INT:
        return -1, 0, False
    number = np.int64(value)
    return at, -number if negative else number, whole


@njit(cache=True, nogil=True)
def _read_literal(data: Bytes, at: int) -> int:
    """Returns the place behind `true`, `false` or `null`, or -1 for anything else."""
    a, b, c, d = data[at], data[at + 1], data[at + 2], data[at + 3]
    if a == 0x74 and b == 0x72 and c == 0x75 and d == 0x65:
        return at + 4
    if a == 0x6E and b == 0x75 and c == 0x6C and d == 0x6C:
        return at + 4
    if a == 0x66 and b == 0x61 and c == 0x6C and d == 0x73 and data[at + 4] == 0x65:
        return at + 5
    return -1


@njit(cache=True, nogil=True)
def _field_of(key: Bytes, length: int, names: Bytes, name_ends: Numbers) -> int:
    """Returns the index of the wanted name that `key[:length]` is, or -1."""
    begin = 0
    for field in range(len(name_ends)):
        end = name_ends[field]
        if end - begin == length:
            same = True
            for place in range(length):
                if key[place] != names[begin + place]:
                    same = False
                    break
            if same:
                return field
        begin = end
    return -1


@njit(cache=True, nogil=True)
def _skip_space(data: Bytes, at: int) -> int:
    while data[at] == 0x20 or data[at] == 0x09 or data[at] == 0x0D:
        at += 1
    return at


@njit(cache=True, nogil=True)
def _skip_digits(data: Bytes, at: int) -> int:
    while _ZERO <= data[at] <= _NINE:
        at += 1
    return at


@njit(cache=True, nogil=True)
def _line_end(data: Bytes, at: int) -> int:
    """Returns the place of the first LF from `at` on."""
    while True:
        found = equal(data, at, _LF)
        if found:
            return at + trailing_zeros(found)
        at += 64
