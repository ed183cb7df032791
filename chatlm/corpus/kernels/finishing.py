"""`filters.finish` as one pass over code points, for the texts that it cuts at a sentence end.

In: a normalised answer as code points. Out: the length that stays, CUT_OFF where too little would,
or UNDECIDED for what may be a program or a form to fill in.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels.characters import (
    CLOSER,
    DANGLING,
    DECIMAL,
    ENDED,
    HAN_BIT,
    SENTENCE,
    SPACE,
    UNFINISHED,
    WORD,
)

Points = NDArray[np.int32]
Classes = NDArray[np.int32]

UNDECIDED, CUT_OFF = -1, -2
_LF, _SPACE, _TAB, _WIDE_COLON = 0x0A, 0x20, 0x09, 0xFF1A
_BULLETS = tuple(map(ord, "-*•·"))
_NUMBER_ENDS = tuple(map(ord, ".)、）"))
_MIN_CODE_LINES = 3
_PAIRED = DANGLING | CLOSER
# The pairs of filters._PAIRS, opener and closer in turn.
_OPENERS = tuple(map(ord, "“‘「『（(《"))
_CLOSERS = tuple(map(ord, "”’」』）)》"))


@njit(cache=True, nogil=True)
def finish(
    points: Points, num: int, max_chars: int, min_unended_chars: int, classes: Classes
) -> int:
    """Returns how much of `points[:num]` stays; a negative `min_unended_chars` means never."""
    if num == 0:
        return 0
    cut = num > max_chars
    if cut:
        if _may_be_program(points, num, classes):
            return UNDECIDED
        num = max_chars
    else:
        last = points[num - 1]
        breaks_off = classes[last] & DANGLING != 0
        if breaks_off and last == _WIDE_COLON and _has_lines(points, num):
            return UNDECIDED
        if not breaks_off and (
            min_unended_chars < 0 or num < min_unended_chars or classes[last] & ENDED
        ):
            return num
        if not breaks_off and not _has_end_in_last_line(points, num, classes):
            return num
    end = _last_sentence_end(points, num, cut, classes)
    if end * 2 < num:
        return CUT_OFF
    while end and classes[points[end - 1]] & SPACE:
        end -= 1
    return end


@njit(cache=True, nogil=True)
def _has_lines(points: Points, num: int) -> bool:
    for i in range(num):  # noqa: SIM110 (numba has no generators in any())
        if points[i] == _LF:
            return True
    return False


@njit(cache=True, nogil=True)
def _has_end_in_last_line(points: Points, num: int, classes: Classes) -> bool:
    i = num - 1
    while i >= 0 and points[i] != _LF:
        if classes[points[i]] & SENTENCE and _is_end(points, i, num, classes):
            return True
        i -= 1
    return False


@njit(cache=True, nogil=True)
def _last_sentence_end(points: Points, num: int, cut: bool, classes: Classes) -> int:
    """Returns `filters.last_sentence_end`."""
    # Closers minus openers of each pair so far; a text is balanced where none is negative.
    open_pairs = np.zeros(len(_OPENERS), np.int64)
    num_open, open_at_newline = 0, 0
    newline, newline_before, best, last = -1, -1, 0, 0
    i = 0
    while i < num:
        point = points[i]
        bits = classes[point]
        if point == _LF:
            newline_before, newline = newline, i
            open_at_newline = num_open
            i += 1
            continue
        if not bits & SENTENCE or not _is_end(points, i, num, classes):
            if bits & _PAIRED:
                num_open += _count(open_pairs, point)
            i += 1
            continue
        start = i
        i += 1
        while i < num and classes[points[i]] & CLOSER:
            num_open += _count(open_pairs, points[i])
            i += 1
        if not (cut and i == num and points[start] == ord(".")):
            last = i
            if num_open == 0 and i * 2 >= num:
                best = i
    if newline > last and _is_whole_line(points, newline_before + 1, newline, classes):
        last = newline
        if open_at_newline == 0 and newline * 2 >= num:
            best = newline
    return best if best else last


@njit(cache=True, nogil=True)
def _is_whole_line(points: Points, start: int, end: int, classes: Classes) -> bool:
    """Returns whether a line is a unit of its own (`filters._WHOLE_LINE`)."""
    while end > start and classes[points[end - 1]] & SPACE:
        end -= 1
    if end == start or classes[points[end - 1]] & UNFINISHED:
        return False
    last = end - 1
    i = start
    while i < end and points[i] == _SPACE:
        i += 1
    spaces = i - start
    if spaces <= 3 and i < end:
        if points[i] in _BULLETS:
            if last > i:
                return True
        else:
            digits = i
            while i < end and classes[points[i]] & DECIMAL:
                i += 1
            if i > digits and i < last and points[i] in _NUMBER_ENDS:
                return True
    if spaces >= 4 or points[start] == _TAB:
        return False
    for i in range(start, last):  # noqa: SIM110 (numba has no generators in any())
        if classes[points[i]] & HAN_BIT:
            return True
    return False


@njit(cache=True, nogil=True)
def _count(open_pairs: NDArray[np.int64], point: int) -> int:
    """Counts a quote or bracket; returns by how much the number of unbalanced pairs grows."""
    for pair in range(len(_OPENERS)):
        if point == _OPENERS[pair]:
            open_pairs[pair] -= 1
            return 1 if open_pairs[pair] == -1 else 0
        if point == _CLOSERS[pair]:
            open_pairs[pair] += 1
            return -1 if open_pairs[pair] == 0 else 0
    return 0


@njit(cache=True, nogil=True)
def _is_end(points: Points, at: int, num: int, classes: Classes) -> bool:
    """Returns whether the mark at `at` ends a sentence (`filters._SENTENCE_END`)."""
    point = points[at]
    if point >= 0x80:
        return True
    follower = classes[points[at + 1]] if at + 1 < num else SPACE
    if point == ord("."):
        after_digit = at > 0 and ord("0") <= points[at - 1] <= ord("9")
        return not after_digit and follower & (SPACE | CLOSER) != 0
    return follower & (SPACE | CLOSER | HAN_BIT) != 0


@njit(cache=True, nogil=True)
def _may_be_program(points: Points, num: int, classes: Classes) -> bool:
    """Returns whether three lines could be code: they begin with a letter, or end in ; { or }."""
    lines = 0
    start = 0
    for i in range(num + 1):
        if i < num and points[i] != _LF:
            continue
        last = points[i - 1] if i > start else np.int32(_LF)
        while start < i and (points[start] == _SPACE or points[start] == _TAB):
            start += 1
        head = points[start] if start < i else np.int32(_LF)
        begins = classes[head] & WORD and not classes[head] & (HAN_BIT | DECIMAL)
        if (
            begins
            or head == ord("<")
            or head == ord("#")
            or last == ord(";")
            or last == ord("{")
            or last == ord("}")
        ):
            lines += 1
            if lines == _MIN_CODE_LINES:
                return True
        start = i + 1
    return False
