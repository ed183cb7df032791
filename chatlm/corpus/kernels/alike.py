"""Whether two texts are alike, exactly.

In: two texts in UTF-16 units, or their sets of 3-grams, one of them in a hash table (see
`shingles.slot_of`). Out: whether the Jaccard similarity of the sets reaches a threshold, whether
they differ in numbers only. Which texts are compared is not its business.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels.shingles import code_points, enter, pack, slot_of

MILLION = 1_000_000
"""A threshold is given in millionths: fractions compare exactly."""
_CODE = np.uint64((1 << 21) - 1)
_MARKED = np.zeros(1 << 16, np.bool_)
_MARKED[[ord(char) for char in "0123456789.,:+-*/=<>%^〇零一二三四五六七八九十百千万亿两"]] = True


@njit(cache=True, nogil=True)
def num_shared(
    grams: NDArray[np.uint64],
    start: int,
    size: int,
    table: NDArray[np.uint64],
    stamps: NDArray[np.int32],
    stamp: int,
    size_in_table: int,
    millionths: int,
) -> int:
    """Returns how many of the distinct `grams[start:start + size]` are in the table.

    It returns -1 as soon as the Jaccard similarity cannot reach the threshold any more.
    """
    if min(size, size_in_table) * MILLION < max(size, size_in_table) * millionths:
        return -1
    # shared / (both - shared) >= t  <=>  shared * (1 + t) >= t * both
    allowed = size - (millionths * (size + size_in_table) + MILLION + millionths - 1) // (
        MILLION + millionths
    )
    missing = 0
    for i in range(start, start + size):
        gram = grams[i]
        if stamps[slot_of(gram, table, stamps, stamp)] != stamp:
            missing += 1
            if missing > allowed:
                return -1
    return size - missing


@njit(cache=True, nogil=True)
def has_number(gram: np.uint64) -> bool:
    """Says if a 3-gram has a digit, a numeral or a sign of arithmetic."""
    for shift in (42, 21, 0):
        code = (gram >> np.uint64(shift)) & _CODE
        if code < np.uint64(1 << 16) and _MARKED[np.int64(code)]:
            return True
    return False


@njit(cache=True, nogil=True)
def only_numbers_differ(
    grams: NDArray[np.uint64],
    start: int,
    size: int,
    other_start: int,
    other_size: int,
    table: NDArray[np.uint64],
    stamps: NDArray[np.int32],
    stamp: int,
    marks: NDArray[np.int64],
    mark: int,
) -> bool:
    """Says if two sets differ, and every 3-gram that is in one of them only has a number.

    Args:
        grams: The 3-grams of both.
        start: Where the first set begins.
        size: Its size.
        other_start: Where the second one begins, which is in the table.
        other_size: Its size.
        table: See `shingles.slot_of`.
        stamps: See there.
        stamp: See there.
        marks: As long as the table.
        mark: Differs from call to call.
    """
    shared = 0
    for i in range(start, start + size):
        slot = slot_of(grams[i], table, stamps, stamp)
        if stamps[slot] == stamp:
            marks[slot] = mark
            shared += 1
        elif not has_number(grams[i]):
            return False
    if shared == size == other_size:
        return False
    for i in range(other_start, other_start + other_size):
        gram = grams[i]
        if marks[slot_of(gram, table, stamps, stamp)] != mark and not has_number(gram):
            return False
    return True


@njit(cache=True, nogil=True)
def equal_units(
    units: NDArray[np.uint16], start: int, end: int, other_start: int, other_end: int
) -> bool:
    """Says if two texts are the same."""
    if end - start != other_end - other_start:
        return False
    first, other, behind = np.uint64(start), np.uint64(other_start), np.uint64(end)
    while first < behind and units[first] == units[other]:
        first += np.uint64(1)
        other += np.uint64(1)
    return first == behind


@njit(cache=True, nogil=True)
def tails_alike(
    units: NDArray[np.uint16],
    start: int,
    end: int,
    other_start: int,
    other_end: int,
    millionths: int,
) -> bool:
    """Says if two texts are equal, or their 3-grams have at least this Jaccard similarity.

    Texts without a 3-gram are alike only if they are equal.
    """
    length, other_length = end - start, other_end - other_start
    if equal_units(units, start, end, other_start, other_end):
        return True
    points = np.empty(max(length, other_length, 1), np.uint64)
    grams = np.empty(length + other_length + 1, np.uint64)
    num_slots = 16
    while num_slots < 2 * length:
        num_slots *= 2
    table, stamps = np.empty(num_slots, np.uint64), np.zeros(num_slots, np.int32)
    size = enter(
        grams, 0, pack(points, code_points(units, start, end, points, 0), grams), table, stamps, 1
    )
    others = pack(points, code_points(units, other_start, other_end, points, 0), grams[length:])
    if not size or not others:
        return False
    num_slots = 16
    while num_slots < 2 * others:
        num_slots *= 2
    seen, seen_stamps = np.empty(num_slots, np.uint64), np.zeros(num_slots, np.int32)
    others = enter(grams, length, others, seen, seen_stamps, 1)
    return num_shared(grams, length, others, table, stamps, 1, size, millionths) >= 0
