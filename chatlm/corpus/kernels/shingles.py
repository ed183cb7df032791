"""Folded texts as sets of 3-grams, exactly.

In: folded texts in UTF-16 units. Out: code points, and distinct 3-grams packed into 63 bits, which
no two different 3-grams share. It compares nothing.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

LEAST_CHARS = 3
"""A text with fewer characters has no 3-gram and is like no other text."""
_HIGH, _LOW, _BEHIND = np.uint16(0xD800), np.uint16(0xDC00), np.uint16(0xE000)
_SCATTER = np.uint64(0x9E3779B97F4A7C15)


@njit(cache=True, nogil=True)
def code_points(
    units: NDArray[np.uint16], start: int, end: int, points: NDArray[np.uint64], at: int
) -> int:
    """Writes the code points of `units[start:end]` to `points[at:]`; returns where they end."""
    i = np.int64(start)
    stop = np.int64(end)
    while i < stop:
        unit = units[i]
        i += 1
        if unit < _HIGH or unit >= _LOW:
            points[at] = np.uint64(unit)
        else:
            high = (np.uint64(unit) - np.uint64(0xD800)) << np.uint64(10)
            points[at] = np.uint64(0x10000) + high + (np.uint64(units[i]) - np.uint64(0xDC00))
            i += 1
        at += 1
    return at


@njit(cache=True, nogil=True)
def pack(points: NDArray[np.uint64], size: int, grams: NDArray[np.uint64]) -> int:
    """Writes all 3-grams of `points[:size]` in their order to `grams`; returns how many."""
    for i in range(size - 2):
        grams[i] = (points[i] << np.uint64(42)) | (points[i + 1] << np.uint64(21)) | points[i + 2]
    return max(0, size - 2)


@njit(cache=True, nogil=True)
def slot_of(
    gram: np.uint64, table: NDArray[np.uint64], stamps: NDArray[np.int32], stamp: int
) -> int:
    """Returns where `gram` is in a hash table of a power of two entries, or where it would go.

    An entry counts if its stamp is `stamp`: a new stamp empties the table.
    """
    mask = len(table) - 1
    slot = int(np.int64((gram * _SCATTER) >> np.uint64(32))) & mask
    while stamps[slot] == stamp and table[slot] != gram:
        slot = (slot + 1) & mask
    return slot


@njit(cache=True, nogil=True)
def enter(
    grams: NDArray[np.uint64],
    start: int,
    size: int,
    table: NDArray[np.uint64],
    stamps: NDArray[np.int32],
    stamp: int,
) -> int:
    """Enters `grams[start:start + size]` into the table and moves distinct ones to the front.

    Returns:
        How many are distinct; `grams[start:start + distinct]` are these.
    """
    distinct = 0
    for i in range(start, start + size):
        gram = grams[i]
        slot = slot_of(gram, table, stamps, stamp)
        if stamps[slot] != stamp:
            stamps[slot] = stamp
            table[slot] = gram
            grams[start + distinct] = gram
            distinct += 1
    return distinct


def table_size(num_grams: int) -> int:
    """Returns the entries of a hash table that stays at most half full."""
    return 1 << max(4, (2 * num_grams - 1).bit_length())
