"""What each code point is to the rules of cleaning, as one table of bits for compiled loops.

In: the character classes of `chatlm.corpus.normalize`, `filters` and `keys`, and Python's own
Unicode tables. Out: `classes()`, bits by code point, and `folds()`, what `prose_key` makes of one.
Both are made from the very patterns that the row-by-row functions use, so that the two roads read
the same Unicode. It holds no loops and imports no numba.
"""

import re
import unicodedata
from functools import cache

import numpy as np
from numpy.typing import NDArray

from chatlm.corpus import filters, normalize
from chatlm.corpus.normalize import HAN, WIDE_MARKS
from chatlm.corpus.private import DIGIT_GAPS
from chatlm.corpus.quality import LOST_CHAR

NUM_POINTS = 0x32000
"""Code points from here on (tags, private planes) are rare: no table has them, all are UNSURE."""

HAN_BIT = 1 << 0
WIDE_MARK = 1 << 1
WORD = 1 << 2
SPACE = 1 << 3
DECIMAL = 1 << 4
UNSURE = 1 << 5
"""May change, or combine with its neighbour, under NFC: such texts are for `unicodedata`."""
LINE_END = 1 << 6
INVISIBLE = 1 << 7
WIDE_SPACE = 1 << 8
REPEATS = 1 << 9
ENDED = 1 << 10
DANGLING = 1 << 11
CLOSER = 1 << 12
MARKUP = 1 << 13
NEWLINE = 1 << 14
BLANK = 1 << 15
SENTENCE = 1 << 16
TRIGGER = 1 << 17
"""A string of one character that a filter may fire on; set by `triggers.mark`."""
PROSE = 1 << 18
"""Dropped by `prose_key` wherever it stands."""
DROPPED_MARK = 1 << 19
"""`. , :`, which `prose_key` keeps between digits."""
GAP = 1 << 20
"""May stand between two digits of a number that `private` masks."""
LOST = 1 << 21
"""A character that only a wrong decoding leaves."""
LEAD = 1 << 22
TAIL = 1 << 23
"""What UTF-8 looks like when it was read as Latin-1: a LEAD, then a TAIL."""
SIGN = 1 << 25
"""Tab, bar, plus, colon: what tables and addresses are made of."""
EDGE = 1 << 26
"""Begins a string that matters at the beginning or end of an answer; set by `triggers.mark`."""
WIDE_RUN = 1 << 27
"""Of two or more of this mark one stays."""
UNFINISHED = 1 << 24
"""At its end a line of a list goes on in the next one."""

FOLD_UNKNOWN = -1
FOLD_DOTS = -2
"""The ellipsis, which NFKC makes three points of."""

_PATTERNS: dict[int, str] = {
    HAN_BIT: f"[{HAN}]",
    WIDE_MARK: f"[{WIDE_MARKS}]",
    WORD: r"\w",
    SPACE: r"\s",
    DECIMAL: r"\d",
    LINE_END: "[\r\x0b\x0c\x85\u2028\u2029]",
    INVISIBLE: normalize.INVISIBLE.pattern,
    WIDE_SPACE: normalize.WIDE_SPACE.pattern,
    REPEATS: "[。！？，、；～…—!?.~]",
    ENDED: filters.ENDED.pattern.removesuffix("\\Z"),
    DANGLING: filters.DANGLING.pattern.removesuffix("\\Z"),
    CLOSER: f"[{filters.CLOSERS}]",
    MARKUP: "[<&]",
    NEWLINE: "\n",
    BLANK: "[ \t]",
    SENTENCE: "[。！？…!?.]",
    PROSE: "[\\s\u200b，。、！？；：!?;“”‘’「」『』《》〈〉\"'…—~·]",
    DROPPED_MARK: "[.,:]",
    GAP: f"[{re.escape(DIGIT_GAPS)}]",
    UNFINISHED: "[\\s，、：；,:;{(（\\[=+\\\\]",
    SIGN: "[\t|+:]",
    WIDE_RUN: "[。！？，、；～]",
    LOST: LOST_CHAR,
    LEAD: "[\xc2-\xf4]",
    TAIL: "[\xa1-\xbf]",
}


@cache
def classes() -> NDArray[np.int32]:
    """Returns (NUM_POINTS,) the bits of each code point; treat it as read-only."""
    table = np.zeros(NUM_POINTS, np.int32)
    every = "".join(map(chr, range(NUM_POINTS)))
    for bit, pattern in _PATTERNS.items():
        for match in re.finditer(f"(?:{pattern})+", every):
            table[match.start() : match.end()] |= bit
    table[sorted(_unsure())] |= UNSURE
    table[0xD800:0xE000] |= UNSURE
    return table


@cache
def folds() -> NDArray[np.int32]:
    """Returns (NUM_POINTS,) the one code point that NFKC makes of each, or a negative code.

    A fold stands alone: it combines with no neighbour, so that the folds of a text, one by one,
    are the NFKC of the text. All others are FOLD_UNKNOWN (or FOLD_DOTS).
    """
    table = np.arange(NUM_POINTS, dtype=np.int32)
    unsure = _unsure()
    for point in range(0x80, NUM_POINTS):
        folded = unicodedata.normalize("NFKC", chr(point)) if point not in unsure else ""
        if len(folded) != 1 or ord(folded) in unsure or ord(folded) >= NUM_POINTS:
            table[point] = FOLD_UNKNOWN
        else:
            table[point] = ord(folded)
    table[0xD800:0xE000] = FOLD_UNKNOWN
    table[ord("…")] = FOLD_DOTS
    return table


@cache
def _unsure() -> frozenset[int]:
    """Code points that NFC changes, reorders, or may combine with what stands before them."""
    found = set[int](range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    for point in range(0x80, NUM_POINTS):
        character = chr(point)
        decomposed = unicodedata.decomposition(character)
        if unicodedata.combining(character):
            found.add(point)
        elif decomposed and decomposed[0] != "<":
            found.update(map(ord, unicodedata.normalize("NFD", character)[1:]))
            if not unicodedata.is_normalized("NFC", character):
                found.add(point)
    return frozenset(point for point in found if point < NUM_POINTS)
