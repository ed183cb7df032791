"""Whether any filter or mask could do something to a text: conservative, and quick to say no.

In: a normalised text as code points. Out: the rules of `private`, `boilerplate`, `quality` and
`filters` that have to be asked, as bits; for all others it is certain that they do nothing, by the
conditions that these modules document.
"""

from typing import NamedTuple

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
    begins,
)

Points = NDArray[np.int32]
Classes = NDArray[np.int32]

_UNDERSCORE, _COLON, _TAB, _BAR, _PLUS = 0x5F, 0x3A, 0x09, 0x7C, 0x2B
_POINT, _MAX_GROUP, _IPV4_POINTS = 0x2E, 4, 3
_NOTABLE = DECIMAL | TRIGGER | LOST | TAIL | SIGN


ENDS, NUMBERS, STRINGS, LOOPS, FOREIGN = 1, 2, 4, 8, 16
"""Doubts, as bits: a stock phrase at an end; private data; any string; repetition, no letter; what
is left to the row road without asking."""


class Limits(NamedTuple):
    """From where on a text is not harmless.

    Attributes:
        digits: Digits in a chain with nothing but gaps between.
        few_digits: Digits in a chain that has three points or follows a NUMBER_WORD.
        tabs: Tabs in a text.
        bars: Vertical bars and plus signs in a text.
        loop_chars: Characters of an answer that can be a loop.
        loop_probe: Characters of which a loop has a second copy.
        needs_letter: Whether an answer without a letter has to be looked at.
    """

    digits: int
    few_digits: int
    tabs: int
    bars: int
    loop_chars: int
    loop_probe: int
    needs_letter: bool


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
    if limits.needs_letter and not _has_letter(points, kept, classes):
        doubts |= LOOPS
    if kept >= limits.loop_chars:
        middle = kept // 2
        for start in (middle - limits.loop_probe, middle):
            if _occurs_twice(points, kept, start, limits.loop_probe):
                doubts |= LOOPS
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
        if not bits & _NOTABLE:
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
        if bits & TRIGGER:
            found = begins(points, i, num, triggers, places)
            has_word |= found & NUMBER_WORD != 0
            if found & CONVERT:
                doubts |= FOREIGN
            if found & PRIVATE:
                doubts |= NUMBERS
            elif found and not found & NUMBER_WORD:
                doubts |= STRINGS
        if bits & LOST or (bits & TAIL and i and classes[points[i - 1]] & LEAD):
            doubts |= STRINGS
        point = points[i]
        if point == _COLON:
            if i - colon <= _MAX_GROUP + 1:
                doubts |= NUMBERS
            colon = i
        tabs += point == _TAB
        bars += point in (_BAR, _PLUS)
    if most >= limits.digits:
        doubts |= FOREIGN  # Nearly always a telephone number: asking first would cost more.
    elif has_word and most >= limits.few_digits:
        doubts |= NUMBERS
    if tabs >= limits.tabs or bars >= limits.bars:
        doubts |= STRINGS
    return doubts


@njit(cache=True, nogil=True)
def _ends_are_harmless(points: Points, num: int, classes: Classes, triggers: Triggers) -> bool:
    """Looks at the first characters of an answer and at those before its last letter."""
    end = num
    while end and not classes[points[end - 1]] & WORD:
        end -= 1
    for i in range(min(HEAD_CHARS, num)):
        if classes[points[i]] & EDGE and begins(points, i, num, triggers, AT_START):
            return False
    for i in range(max(end - TAIL_CHARS, 0), end):
        if classes[points[i]] & EDGE and begins(points, i, num, triggers, AT_END):
            return False
    return True


@njit(cache=True, nogil=True)
def _has_letter(points: Points, num: int, classes: Classes) -> bool:
    for i in range(num):
        if classes[points[i]] & (WORD | DECIMAL) == WORD and points[i] != _UNDERSCORE:
            return True
    return False


@njit(cache=True, nogil=True)
def _occurs_twice(points: Points, num: int, probe: int, length: int) -> bool:
    """Returns whether `points[probe:probe + length]` is anywhere else in `points[:num]`."""
    head = points[probe]
    for i in range(num - length + 1):
        if points[i] == head and i != probe:
            k = 1
            while k < length and points[i + k] == points[probe + k]:
                k += 1
            if k == length:
                return True
    return False
