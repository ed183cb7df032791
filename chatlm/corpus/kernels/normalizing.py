"""The rules of `chatlm.corpus.normalize` as loops over code points, changed in place.

In: code points of which no class is UNSURE. Out: how many are left, and which rules did something:
exactly what `normalize` gives for the text. Every loop writes at or before the place it reads.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels.characters import (
    BLANK,
    HAN_BIT,
    INVISIBLE,
    LINE_END,
    NEWLINE,
    REPEATS,
    SPACE,
    WIDE_MARK,
    WIDE_RUN,
    WIDE_SPACE,
    WORD,
)
from chatlm.corpus.normalize import RULES

Points = NDArray[np.int32]
Classes = NDArray[np.int32]

RULE_NAMES = tuple(name for name, _ in RULES)
"""Rule i of a text is bit i of what `normalize` returns."""
LINE_ENDS, INVISIBLES, _, WIDE_SPACES, SPACED_MARKS, REPEATED_MARKS, BLANK_SPACE = (
    1 << rule for rule in range(len(RULE_NAMES))
)

_CR, _LF, _TAB, _SPACE, _IDEOGRAPHIC = 13, 10, 9, 32, 0x3000
_STOP, _ELLIPSIS, _DASH = 0x3002, 0x2026, 0x2014
_CLOSE_SINGLE, _CLOSE_DOUBLE, _CLOSE_BRACKET = 0x2019, 0x201D, 0x29
_EXCLAMATION, _QUESTION = 0x21, 0x3F
_WIDE, _RAISED, _LONG = 1, 2, 4


@njit(cache=True, nogil=True)
def normalize(
    points: Points, num: int, seen: int, repeated: bool, classes: Classes
) -> tuple[int, int]:
    """Applies all rules to `points[:num]`, whose classes are `seen`.

    Returns:
        How many code points are left, and the rules that changed something, as bits.
    """
    changed = 0
    if seen & LINE_END:
        num = _line_ends(points, num, classes)
        changed |= LINE_ENDS
    if seen & INVISIBLE:
        num = _invisible(points, num, classes)
        changed |= INVISIBLES
    if seen & WIDE_SPACE:
        num = _wide_spaces(points, num, classes)
        changed |= WIDE_SPACES
    if seen & (BLANK | WIDE_SPACE):
        left = _spaced_marks(points, num, classes)
        if left != num:
            changed |= SPACED_MARKS
        num = left
    if changed:
        repeated = _has_repeats(points, num, classes)
    if repeated:
        left = _repeated_marks(points, num, classes)
        if left != num:
            changed |= REPEATED_MARKS
        num = left
    if seen & (BLANK | WIDE_SPACE | NEWLINE | LINE_END):
        left = _blank_space(points, num)
        if left != num:
            changed |= BLANK_SPACE
        num = left
    return num, changed


@njit(cache=True, nogil=True)
def _line_ends(points: Points, num: int, classes: Classes) -> int:
    kept = 0
    i = 0
    while i < num:
        point = points[i]
        i += 1
        if classes[point] & LINE_END:
            if point == _CR and i < num and points[i] == _LF:
                i += 1
            point = np.int32(_LF)
        points[kept] = point
        kept += 1
    return kept


@njit(cache=True, nogil=True)
def _invisible(points: Points, num: int, classes: Classes) -> int:
    kept = 0
    for i in range(num):
        if not classes[points[i]] & INVISIBLE:
            points[kept] = points[i]
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _wide_spaces(points: Points, num: int, classes: Classes) -> int:
    kept = 0
    i = 0
    at_start = True
    while i < num:
        if at_start:
            end = i
            indented = False
            while end < num and classes[points[end]] & (BLANK | WIDE_SPACE):
                indented |= points[end] == _IDEOGRAPHIC
                end += 1
            if indented:
                i = end
            at_start = False
            continue
        point = points[i]
        if classes[point] & WIDE_SPACE:
            point = np.int32(_SPACE)
        points[kept] = point
        kept += 1
        i += 1
        at_start = point == _LF
    return kept


@njit(cache=True, nogil=True)
def _spaced_marks(points: Points, num: int, classes: Classes) -> int:
    kept = 0
    i = 0
    before = 0
    while i < num:
        point = points[i]
        if point != _SPACE:
            points[kept] = point
            kept += 1
            before = classes[point]
            i += 1
            continue
        end = i + 1
        while end < num and points[end] == _SPACE:
            end += 1
        after = classes[points[end]] if end < num else 0
        length = end - i
        if after & WIDE_MARK or (before & WIDE_MARK and after & HAN_BIT):
            length = 0
        elif before & HAN_BIT and after & HAN_BIT:
            length = 1
        for _ in range(length):
            points[kept] = _SPACE
            kept += 1
        i = end
    return kept


@njit(cache=True, nogil=True)
def _has_repeats(points: Points, num: int, classes: Classes) -> bool:
    for i in range(1, num):  # noqa: SIM110 (numba has no generators in any())
        if points[i] == points[i - 1] and classes[points[i]] & REPEATS:
            return True
    return False


@njit(cache=True, nogil=True)
def _repeated_marks(points: Points, num: int, classes: Classes) -> int:
    runs = _runs(points, num, classes)
    if runs & _WIDE:
        num = _wide_runs(points, num, classes)
    if runs & (_WIDE | _LONG):  # Full stops become ellipses.
        num = _pairs(points, num, _ELLIPSIS)
        num = _pairs(points, num, _DASH)
    if runs & _RAISED:
        num = _raised_voices(points, num, classes)
    if runs & _LONG:
        num = _ascii_runs(points, num, ord("."), 4, 3, classes)
        num = _ascii_runs(points, num, ord("~"), 3, 1, classes)
    return num


@njit(cache=True, nogil=True)
def _runs(points: Points, num: int, classes: Classes) -> int:
    """Returns which kinds of runs there are: two of a wide mark, two of ! or ?, three of any."""
    runs = 0
    for i in range(1, num):
        point = points[i]
        if point == points[i - 1] and classes[point] & REPEATS:
            if classes[point] & WIDE_RUN:
                runs |= _WIDE
            elif point in (_EXCLAMATION, _QUESTION):
                runs |= _RAISED
            if i > 1 and points[i - 2] == point:
                runs |= _LONG
    return runs


@njit(cache=True, nogil=True)
def _wide_runs(points: Points, num: int, classes: Classes) -> int:
    """Of a run of one wide mark one stays; three or more full stops are an ellipsis."""
    kept = 0
    i = 0
    while i < num:
        point = points[i]
        end = i + 1
        if classes[point] & WIDE_RUN:
            while end < num and points[end] == point:
                end += 1
        if point == _STOP and end - i >= 3:
            points[kept] = _ELLIPSIS
            points[kept + 1] = _ELLIPSIS
            kept += 2
        else:
            points[kept] = point
            kept += 1
        i = end
    return kept


@njit(cache=True, nogil=True)
def _pairs(points: Points, num: int, mark: int) -> int:
    """Of a run of `mark` at most two stay."""
    kept = 0
    run = 0
    for i in range(num):
        point = points[i]
        run = run + 1 if point == mark else 0
        if run <= 2:
            points[kept] = point
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _raised_voices(points: Points, num: int, classes: Classes) -> int:
    kept = 0
    i = 0
    before = np.int32(-1)
    while i < num:
        point = points[i]
        end = i + 1
        if point in (_EXCLAMATION, _QUESTION):
            while end < num and points[end] == point:
                end += 1
        length = end - i
        if length > 1 and _ends_word(before, classes) and _may_follow(points, num, end, classes):
            length = 1
        for _ in range(length):
            points[kept] = point
            kept += 1
        before = point
        i = end
    return kept


@njit(cache=True, nogil=True)
def _ends_word(point: int | np.int32, classes: Classes) -> bool:
    if point < 0:
        return False
    known = classes[point] & (WORD | WIDE_MARK) != 0
    return known or point in (_CLOSE_SINGLE, _CLOSE_DOUBLE, _CLOSE_BRACKET)


@njit(cache=True, nogil=True)
def _may_follow(points: Points, num: int, at: int, classes: Classes) -> bool:
    if at == num:
        return True
    point = points[at]
    known = classes[point] & (SPACE | HAN_BIT | WIDE_MARK) != 0
    return known or point in (_CLOSE_SINGLE, _CLOSE_DOUBLE, _EXCLAMATION, _QUESTION)


@njit(cache=True, nogil=True)
def _ascii_runs(points: Points, num: int, mark: int, least: int, to: int, classes: Classes) -> int:
    """Runs of at least `least` of an ASCII mark behind Chinese become `to` of it."""
    kept = 0
    i = 0
    before = np.int32(-1)
    while i < num:
        point = points[i]
        end = i + 1
        while point == mark and end < num and points[end] == mark:
            end += 1
        length = end - i
        if (
            length >= least
            and point == mark
            and before >= 0
            and (classes[before] & (HAN_BIT | WIDE_MARK) or before == _CLOSE_DOUBLE)
        ):
            length = to
        for _ in range(length):
            points[kept] = point
            kept += 1
        before = point
        i = end
    return kept


@njit(cache=True, nogil=True)
def _blank_space(points: Points, num: int) -> int:
    kept = 0
    for i in range(num):
        point = points[i]
        if point == _LF:
            while kept and (points[kept - 1] == _SPACE or points[kept - 1] == _TAB):
                kept -= 1
            if kept >= 2 and points[kept - 1] == _LF and points[kept - 2] == _LF:
                continue
        points[kept] = point
        kept += 1
    while kept and (
        points[kept - 1] == _SPACE or points[kept - 1] == _TAB or points[kept - 1] == _LF
    ):
        kept -= 1
    start = 0
    while start < kept and (
        points[start] == _SPACE or points[start] == _TAB or points[start] == _LF
    ):
        start += 1
    if start:
        for i in range(start, kept):
            points[i - start] = points[i]
    return kept - start
