"""Whether a text holds any of a few hundred strings where they matter.

In: strings, each with the places where it matters, and texts as code points. Out: a yes or no that
errs to yes: letters are compared without case. Only where `Triggers.pairs` has two characters, or
one has the class TRIGGER or EDGE, is more looked at.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels.characters import EDGE, NUM_POINTS, TRIGGER, classes

_SLOTS = 1 << 12
_PAIRS = 1 << 15

IN_PROMPT, IN_ANSWER, AT_START, AT_END = 1, 2, 4, 8
"""Places where a string matters; a text is looked at with the bits of the places that it is."""
PRIVATE, NUMBER_WORD, CONVERT = 16, 32, 64
"""For whom: a string that `private` looks for, by itself or only before a number, or that the
function of the corpus looks for."""
FILTERS = (
    *("translation_task", "table", "mojibake", "as_an_ai", "advertisement"),
    *("points_elsewhere", "no_prose", "markup", "repetition"),
)
"""For whom else: the filter that has the bit `asks(name)`."""
_FIRST_FILTER = 16
ALL_FILTERS = (1 << _FIRST_FILTER + len(FILTERS)) - (1 << _FIRST_FILTER)
HEAD_CHARS, TAIL_CHARS = 8, 80
"""AT_START: the string begins among the first characters of an answer. AT_END: among the last,
counted from the last letter."""


def asks(name: str) -> int:
    """Returns the bit of a filter, in what is known of a string and in doubts."""
    return 1 << _FIRST_FILTER + FILTERS.index(name)


class Triggers(NamedTuple):
    """The strings as code points, reachable by a hash of their first two.

    Attributes:
        points: All strings, one after another, ASCII in lower case.
        offsets: (N + 1,) string i is `points[offsets[i]:offsets[i + 1]]`, ordered by slot.
        slots: (_SLOTS + 1,) the strings of slot s are `slots[s]` to `slots[s + 1]`.
        places: (N,) where string i matters.
        singles: (K,) the strings of one code point.
        single_places: (K,) where these matter.
        pairs: (_PAIRS,) 0 where no longer string begins with two characters of this `pair_of`.
    """

    points: NDArray[np.int32]
    offsets: NDArray[np.int64]
    slots: NDArray[np.int64]
    places: NDArray[np.int64]
    singles: NDArray[np.int32]
    single_places: NDArray[np.int64]
    pairs: NDArray[np.uint8]


def index(strings: Mapping[str, int]) -> Triggers:
    """Returns the index of `strings` with the places where they matter; none may be empty."""
    places = dict[str, int]()
    for text, where in strings.items():
        places[_lower(text)] = places.get(_lower(text), 0) | where
    longer = [text for text in places if len(text) > 1]
    longer.sort(key=lambda text: (_slot_of.py_func(ord(text[0]), ord(text[1])), text))
    counts = np.zeros(_SLOTS + 1, np.int64)
    for text in longer:
        counts[_slot_of.py_func(ord(text[0]), ord(text[1])) + 1] += 1
    pairs = np.zeros(_PAIRS, np.uint8)
    for text in longer:
        for first in _cases(text[0]):
            for second in _cases(text[1]):
                pairs[pair_of.py_func(ord(first), ord(second))] = 1
    return Triggers(
        np.array([ord(char) for text in longer for char in text], np.int32),
        np.cumsum([0, *map(len, longer)]).astype(np.int64),
        np.cumsum(counts),
        np.array([places[text] for text in longer], np.int64),
        np.array([ord(text) for text in places if len(text) == 1], np.int32),
        np.array([where for text, where in places.items() if len(text) == 1], np.int64),
        pairs,
    )


def mark(strings: Mapping[str, int]) -> NDArray[np.int32]:
    """Returns the classes with TRIGGER at strings of one character, EDGE where one begins."""
    table = classes().copy()
    for text, where in strings.items():
        for point in map(ord, _cases(text[0])):
            if where & (IN_PROMPT | IN_ANSWER) and len(text) == 1 and point < NUM_POINTS:
                table[point] |= TRIGGER
            if where & (AT_START | AT_END) and point < NUM_POINTS:
                table[point] |= EDGE
    return table


@njit(cache=True, nogil=True)
def pair_of(first: int, second: int) -> int:
    """Returns the place of two code points in `Triggers.pairs`."""
    return (first * 31 + second) & (_PAIRS - 1)


@njit(cache=True, nogil=True)
def begins(points: NDArray[np.int32], at: int, num: int, triggers: Triggers, places: int) -> int:
    """Returns what is known of the strings that begin at `points[at]` and matter in `places`."""
    found = 0
    first = _lower_point(points[at])
    for k in range(len(triggers.singles)):
        if triggers.singles[k] == first and triggers.single_places[k] & places:
            found |= triggers.single_places[k]
    if at + 1 == num:
        return found
    slot = _slot_of(first, _lower_point(points[at + 1]))
    for k in range(triggers.slots[slot], triggers.slots[slot + 1]):
        start, end = triggers.offsets[k], triggers.offsets[k + 1]
        if not triggers.places[k] & places or at + end - start > num:
            continue
        i = start
        while i < end and triggers.points[i] == _lower_point(points[at + i - start]):
            i += 1
        if i == end:
            found |= triggers.places[k]
    return found


@njit(cache=True, nogil=True)
def _lower_point(point: Any) -> Any:
    if 65 <= point <= 90:
        return point + 32
    if point < 0x130:
        return point
    if point == 0x17F:
        return 0x73
    if point == 0x130 or point == 0x131:
        return 0x69
    return 0x6B if point == 0x212A else point


@njit(cache=True, nogil=True)
def _slot_of(first: int, second: int) -> int:
    return (first * 31 + second) & (_SLOTS - 1)


_FOLDED = (0x17F, 0x130, 0x131, 0x212A)
"""Beyond ASCII, what a regex without case takes for an s, an i or a k."""


def _lower(text: str) -> str:
    return "".join(chr(_lower_point.py_func(ord(char))) for char in text)


def _cases(char: str) -> list[str]:
    """Returns all characters that are compared as equal to `char`."""
    same = [chr(point) for point in (*range(0x80), *_FOLDED) if _lower(chr(point)) == _lower(char)]
    return same or [char]
