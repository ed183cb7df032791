"""Whether any filter or mask could do something to a text: conservative, and quick to say no.

In: a normalised text as code points. Out: the rules of `private`, `boilerplate`, `quality` and
`filters` that have to be asked, as bits; for all others it is certain that they do nothing, by the
conditions that these modules document.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels.characters import (
    DECIMAL,
    EDGE,
    GAP,
    HAN_BIT,
    LEAD,
    LOST,
    SIGN,
    TAIL,
    TRIGGER,
    WORD,
)
from chatlm.corpus.kernels.triggers import (
    ALL_FILTERS,
    AT_END,
    AT_START,
    CONVERT,
    HEAD_CHARS,
    IN_ANSWER,
    IN_PROMPT,
    NUMBER_WORD,
    PRIVATE,
    TAIL_CHARS,
    Triggers,
    asks,
    begins,
    pair_of,
)

Points = NDArray[np.int32]
Classes = NDArray[np.int32]

_UNDERSCORE, _COLON, _TAB, _BAR, _PLUS = 0x5F, 0x3A, 0x09, 0x7C, 0x2B
_POINT, _MAX_GROUP, _IPV4_POINTS = 0x2E, 4, 3
_ASCII_STOPS, _WIDE_STOPS = tuple(map(ord, "!?~\n")), tuple(map(ord, "。！？…～"))
_NOTABLE = DECIMAL | TRIGGER | LOST | TAIL | SIGN


ENDS, NUMBERS, FOREIGN = 1, 2, 4
"""Doubts, as bits: a stock phrase at an end; private data; what is left to the row road without
asking. The bits of filters that have to be asked are those of `triggers.asks`."""
MOJIBAKE, NO_PROSE, REPETITION, TABLE = map(asks, ("mojibake", "no_prose", "repetition", "table"))


class Limits(NamedTuple):
    """From where on a text is not harmless.

    Attributes:
        digits: Digits in a chain with nothing but gaps between.
        few_digits: Digits in a chain that has three points or follows a NUMBER_WORD.
        tabs: Tabs in a text.
        bars: Vertical bars and plus signs in a text.
        loop_chars: Characters of an answer that can be a loop.
        loop_probe: Characters of which a loop has a second copy.
        filters: The filters that are there, as bits of `triggers.asks`.
    """

    digits: int
    few_digits: int
    tabs: int
    bars: int
    loop_chars: int
    loop_probe: int
    filters: int


@njit(cache=True, nogil=True)
def prompt_doubts(
    points: Points, num: int, classes: Classes, triggers: Triggers, limits: Limits
) -> int:
    """Returns the rules that may fire on this prompt."""
    return _doubts(points, num, IN_PROMPT, classes, triggers, limits)


@njit(cache=True, nogil=True)
def answer_doubts(
    points: Points, num: int, kept: int, classes: Classes, triggers: Triggers, limits: Limits
) -> int:
    """Returns the rules that may fire on this answer, or on its first `kept` characters."""
    doubts = 0
    if limits.filters & NO_PROSE and not _has_letter(points, kept, classes):
        doubts |= NO_PROSE
    may_loop = limits.filters & REPETITION and kept >= limits.loop_chars
    if may_loop and _occurs_twice(points, kept, kept // 2, limits.loop_probe):
        doubts |= REPETITION
    if kept < num and not _ends_are_harmless(points, kept, classes, triggers):
        doubts |= ENDS
    if not _ends_are_harmless(points, num, classes, triggers):
        doubts |= ENDS
    return doubts | _doubts(points, num, IN_ANSWER, classes, triggers, limits)


@njit(cache=True, nogil=True)
def is_chinese(points: Points, num: int, share: float, classes: Classes) -> bool:
    """The test of `filters.min_han_share`; a share of 0 asks for nothing."""
    if share <= 0.0:
        return True
    han, letters = 0, 0
    for i in range(num):
        bits = classes[points[i]]
        han += bits & HAN_BIT != 0
        letters += bits & (WORD | DECIMAL) == WORD and points[i] != _UNDERSCORE
    return han >= share * num or han >= share * letters


@njit(cache=True, nogil=True)
def _doubts(
    points: Points,
    num: int,
    places: int,
    classes: Classes,
    triggers: Triggers,
    limits: Limits,
) -> int:
    """Looks at every character once."""
    digits, most, points_seen, tabs, bars, colon, doubts = 0, 0, 0, 0, 0, -9, 0
    has_word = False
    for i in range(num):
        bits = classes[points[i]]
        follower: Any = points[i + 1] if i + 1 < num else np.int32(0)
        begun = triggers.pairs[pair_of(points[i], follower)]
        if not (bits & _NOTABLE or begun):
            if bits & GAP:
                points_seen += points[i] == _POINT
            else:
                digits, points_seen = 0, 0
            continue
        if bits & DECIMAL:
            digits += 1
            most = max(most, digits)
            if digits >= limits.few_digits and points_seen >= _IPV4_POINTS:
                doubts |= NUMBERS
        elif not bits & GAP:
            digits, points_seen = 0, 0
        if bits & TRIGGER or begun:
            found = begins(points, i, num, triggers, places)
            has_word |= found & NUMBER_WORD != 0
            if found & CONVERT:
                doubts |= FOREIGN
            if found & PRIVATE:
                doubts |= NUMBERS
            doubts |= found & ALL_FILTERS
        if bits & LOST or (bits & TAIL and i and classes[points[i - 1]] & LEAD):
            doubts |= MOJIBAKE
        point = points[i]
        if point == _COLON:
            if i - colon <= _MAX_GROUP + 1:
                doubts |= NUMBERS
            colon = i
        tabs += point == _TAB
        bars += point in (_BAR, _PLUS)
    if most >= limits.digits or (has_word and most >= limits.few_digits):
        doubts |= NUMBERS
    if tabs >= limits.tabs or bars >= limits.bars:
        doubts |= TABLE
    return doubts & (limits.filters | ~ALL_FILTERS)


@njit(cache=True, nogil=True)
def _ends_are_harmless(points: Points, num: int, classes: Classes, triggers: Triggers) -> bool:
    """Looks at the first characters of an answer and at its last sentence.

    `boilerplate` takes the end away only if it is one sentence and short.
    """
    end = num
    while end and not classes[points[end - 1]] & WORD:
        end -= 1
    for i in range(min(HEAD_CHARS, num)):
        if classes[points[i]] & EDGE and begins(points, i, num, triggers, AT_START):
            return False
    start = end
    while start and not _is_stop(points[start - 1]):
        start -= 1
        if end - start > TAIL_CHARS:
            return True
    for i in range(start, end):
        if classes[points[i]] & EDGE and begins(points, i, num, triggers, AT_END):
            return False
    return True


@njit(cache=True, nogil=True)
def _is_stop(point: int) -> bool:
    """Returns whether a sentence ends here for `boilerplate`."""
    if point < 0x80:
        return point in _ASCII_STOPS
    return point in _WIDE_STOPS


@njit(cache=True, nogil=True)
def _has_letter(points: Points, num: int, classes: Classes) -> bool:
    for i in range(num):
        if classes[points[i]] & (WORD | DECIMAL) == WORD and points[i] != _UNDERSCORE:
            return True
    return False


@njit(cache=True, nogil=True)
def _occurs_twice(points: Points, num: int, middle: int, length: int) -> bool:
    """Returns whether the `length` characters before or after `middle` are anywhere else too."""
    first, second = points[middle - 1], points[middle + length - 1]
    for i in range(length - 1, num):
        point = points[i]
        if point == first and i != middle - 1 and _ends_alike(points, i, middle - 1, length):
            return True
        if (
            point == second
            and i != middle + length - 1
            and _ends_alike(points, i, middle + length - 1, length)
        ):
            return True
    return False


@njit(cache=True, nogil=True)
def _ends_alike(points: Points, one: int, other: int, length: int) -> bool:
    """Returns whether the `length` characters that end at one place are those at the other."""
    for k in range(1, length):  # noqa: SIM110 (numba has no generators in all())
        if points[one - k] != points[other - k]:
            return False
    return True
