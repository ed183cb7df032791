"""The loops of `chatlm.corpus.compat` over columns of UTF-8: the predecessor's cleaning, compiled.

In: columns of raw texts. Out: columns of prompts and responses, and which rows stay. Byte for byte
what the functions on rows give.
"""

from functools import cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.compat import MIN_DICE, PUNCTUATION

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]

NUM_POINTS = 0x110000
PLAIN, MARK, BLANK, RETURN = range(4)
_CR, _SPACE, _WIDE_SPACE = 0x0D, 0x20, 0x3000
_COMMA_0, _COMMA_1, _COMMA_2 = "，".encode()


@cache
def kinds() -> Bytes:
    """Returns (0x10000,) whether a code point is a mark, a space, or neither."""
    table = np.zeros(0x10000, np.uint8)
    table[[ord(mark) for mark in PUNCTUATION]] = MARK
    table[[_SPACE, _WIDE_SPACE]] = BLANK
    table[_CR] = RETURN
    return table


@cache
def leads() -> Bytes:
    """Returns (256,) the first bytes that a mark or space can have."""
    table = np.zeros(256, np.uint8)
    for point in np.flatnonzero(kinds()).tolist():
        table[chr(point).encode()[0]] = 1
    return table


@cache
def widths() -> Bytes:
    """Returns (256,) how many bytes a character has that begins with this one."""
    first = np.arange(256)
    return (1 + (first >= 0xC0) + (first >= 0xE0) + (first >= 0xF0)).astype(np.uint8)


@njit(cache=True, nogil=True)
def collapse(
    data: Bytes,
    start: int,
    end: int,
    before: int,
    drops_returns: bool,
    kinds: Bytes,
    leads: Bytes,
    widths: Bytes,
    out: Bytes,
    at: int,
) -> tuple[int, int, int]:
    """Writes `compat.collapse` of `data[start:end]`; `before` says whether a mark stands before it.

    Returns:
        Where the bytes end, how many characters they are, and whether the last one is a mark.
    """
    num = 0
    i = start
    while i < end:
        if not leads[data[i]]:
            run = i
            while i < end and not leads[data[i]]:
                i += widths[data[i]]
                num += 1
            for k in range(run, i):
                out[at] = data[k]
                at += 1
            before = 0
            continue
        width = widths[data[i]]
        point = np.int64(data[i])
        if width == 2:
            point = (point & 0x1F) << 6 | np.int64(data[i + 1]) & 0x3F
        elif width == 3:
            point = (
                (point & 0xF) << 12
                | (np.int64(data[i + 1]) & 0x3F) << 6
                | np.int64(data[i + 2]) & 0x3F
            )
        kind = kinds[point]
        if kind == RETURN and drops_returns:
            i += width
            continue
        is_mark = kind in (MARK, BLANK)
        if not (is_mark and before):
            num += 1
            if kind == BLANK:
                out[at] = _COMMA_0
                out[at + 1] = _COMMA_1
                out[at + 2] = _COMMA_2
                at += 3
            else:
                for k in range(i, i + width):
                    out[at] = data[k]
                    at += 1
        before = 1 if is_mark else 0
        i += width
    return at, num, before


@njit(cache=True, nogil=True)
def num_chars(data: Bytes, start: int, end: int) -> int:
    """Returns the number of characters of `data[start:end]`."""
    num = 0
    for i in range(start, end):
        num += data[i] & 0xC0 != 0x80
    return num


@njit(cache=True, nogil=True)
def are_alike(
    one: Bytes,
    start: int,
    end: int,
    other: Bytes,
    other_start: int,
    other_end: int,
    stamps: NDArray[np.int64],
    stamp: int,
) -> bool:
    """Returns whether the Dice similarity of two texts reaches MIN_DICE.

    `stamps` has a place for each code point; `stamp` and the next number were never used with it.
    """
    first, second, both = 0, 0, 0
    i = start
    while i < end:
        point, i = _point(one, i)
        if stamps[point] != stamp:
            stamps[point] = stamp
            first += 1
    i = other_start
    while i < other_end:
        point, i = _point(other, i)
        if stamps[point] != stamp + 1:
            both += stamps[point] == stamp
            second += 1
            stamps[point] = stamp + 1
    return first + second > 0 and 2 * both / (first + second) >= MIN_DICE


@njit(cache=True, nogil=True)
def _point(data: Bytes, at: int) -> tuple[np.int64, int]:
    first = np.int64(data[at])
    if first < 0x80:
        return first, at + 1
    second = np.int64(data[at + 1]) & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | second, at + 2
    third = np.int64(data[at + 2]) & 0x3F
    if first < 0xF0:
        return (first & 0xF) << 12 | second << 6 | third, at + 3
    return (first & 7) << 18 | second << 12 | third << 6 | np.int64(data[at + 3]) & 0x3F, at + 4


@njit(cache=True, nogil=True)
def baike(
    title: Bytes,
    title_offsets: Offsets,
    desc: Bytes,
    desc_offsets: Offsets,
    answer: Bytes,
    answer_offsets: Offsets,
    min_chars: int,
    kinds: Bytes,
    leads: Bytes,
    widths: Bytes,
    stamps: NDArray[np.int64],
    stamp: int,
    prompt: Bytes,
    prompt_offsets: Offsets,
    response: Bytes,
    response_offsets: Offsets,
    kept: NDArray[np.int64],
) -> int:
    """Writes `compat.baike_qa2019` of all rows; returns how many rows of `kept` there are.

    `stamps` (see `are_alike`) has never seen `stamp` nor any number after it.
    """
    num, prompt_at, response_at = 0, 0, 0
    prompt_offsets[0], response_offsets[0] = 0, 0
    for row in range(len(title_offsets) - 1):
        start, end = answer_offsets[row], answer_offsets[row + 1]
        if num_chars(answer, start, end) < min_chars:
            continue
        response_end, length, _ = collapse(
            answer, start, end, 0, True, kinds, leads, widths, response, response_at
        )
        if length < min_chars:
            continue
        first, first_end = title_offsets[row], title_offsets[row + 1]
        second, second_end = desc_offsets[row], desc_offsets[row + 1]
        alike = second < second_end and are_alike(
            title, first, first_end, desc, second, second_end, stamps, stamp + 2 * row
        )
        prompt_end, length, before = collapse(
            title, first, first_end, 0, True, kinds, leads, widths, prompt, prompt_at
        )
        if not alike:
            prompt_end, more, _ = collapse(
                desc, second, second_end, before, True, kinds, leads, widths, prompt, prompt_end
            )
            length += more
        if length < 3:
            continue
        prompt_at, response_at = prompt_end, response_end
        kept[num] = row
        num += 1
        prompt_offsets[num], response_offsets[num] = prompt_at, response_at
    return num


@njit(cache=True, nogil=True)
def webtext(
    title: Bytes,
    title_offsets: Offsets,
    content: Bytes,
    content_offsets: Offsets,
    is_liked: NDArray[np.bool_],
    min_chars: int,
    kinds: Bytes,
    leads: Bytes,
    widths: Bytes,
    prompt: Bytes,
    prompt_offsets: Offsets,
    response: Bytes,
    response_offsets: Offsets,
    kept: NDArray[np.int64],
) -> int:
    """Writes `compat.webtext2019zh` of all rows; returns how many rows of `kept` there are."""
    num, prompt_at, response_at = 0, 0, 0
    prompt_offsets[0], response_offsets[0] = 0, 0
    for row in range(len(title_offsets) - 1):
        start, end = content_offsets[row], content_offsets[row + 1]
        if not is_liked[row] or num_chars(content, start, end) < min_chars:
            continue
        response_at, _, _ = collapse(
            content, start, end, 0, False, kinds, leads, widths, response, response_at
        )
        start, end = title_offsets[row], title_offsets[row + 1]
        prompt_at, _, _ = collapse(
            title, start, end, 0, False, kinds, leads, widths, prompt, prompt_at
        )
        kept[num] = row
        num += 1
        prompt_offsets[num], response_offsets[num] = prompt_at, response_at
    return num
