"""Candidates to links: rows that share a band key, compared exactly.

In: sorted keys, texts, what is connected already. Out: pairs of rows whose sets of 3-grams have a
Jaccard similarity of at least the threshold. Every link is verified; what is compared depends on
the hashes of the texts, not on the numbers of the rows. It reads no files.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels.shingles import code_points, enter, pack, slot_of

ALL_PAIRS_ROWS = 64
"""In a bucket of up to so many rows every two are compared, in larger ones `KNOWN_ROWS` before."""
KNOWN_ROWS = 16
SHORT_TAIL, FEW_DIFFERING = 20, 10
"""A response of fewer characters does not tell that two questions are the same: then no more than
so many 3-grams of the two rows may differ, as after one edit of two or three characters."""
MILLION = 1_000_000
"""A threshold is given in millionths: fractions compare exactly."""
_CODE = np.uint64((1 << 21) - 1)
_MARKED = np.zeros(1 << 16, np.bool_)
_MARKED[[ord(char) for char in "0123456789.,:+-*/=<>%^〇零一二三四五六七八九十百千万亿两"]] = True


@njit(cache=True, nogil=True)
def find(parents: NDArray[np.int64], row: int) -> int:
    """Returns the root of `row`, and halves the way to it."""
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


@njit(cache=True, nogil=True)
def unite(parents: NDArray[np.int64], left: int, right: int) -> None:
    """Connects two rows; the smaller root stays."""
    left, right = find(parents, left), find(parents, right)
    if left < right:
        parents[right] = left
    else:
        parents[left] = right


@njit(cache=True, nogil=True)
def unite_all(parents: NDArray[np.int64], links: NDArray[np.int64]) -> None:
    """Connects the two rows of every link (links, 2)."""
    for i in range(len(links)):
        unite(parents, links[i, 0], links[i, 1])


@njit(cache=True, nogil=True)
def flatten(parents: NDArray[np.int64]) -> None:
    """Points every row at its root; -1 stays."""
    for row in range(len(parents)):
        if parents[row] >= 0:
            parents[row] = find(parents, row)


@njit(cache=True, nogil=True)
def buckets(
    packed: NDArray[np.uint64], parents: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the rows that share a key with a row that they are not connected to.

    Args:
        packed: (N,) sorted: band key in the upper, row in the lower 32 bits.
        parents: See `find`.

    Returns:
        (M,) rows, bucket by bucket, and (buckets + 1,) where each begins.
    """
    rows = np.empty(1024, np.int64)
    ends = np.zeros(256, np.int64)
    num_rows, num_buckets = 0, 0
    start = 0
    half = np.uint64(32)
    low = np.uint64(0xFFFFFFFF)
    while start < len(packed):
        key = packed[start] >> half
        end = start + 1
        while end < len(packed) and packed[end] >> half == key:
            end += 1
        if end - start > 1:
            first = find(parents, int(np.int64(packed[start] & low)))
            apart = False
            for i in range(start + 1, end):
                if find(parents, int(np.int64(packed[i] & low))) != first:
                    apart = True
                    break
            if apart:
                while num_rows + end - start > len(rows):
                    rows = np.concatenate((rows, np.empty_like(rows)))
                if num_buckets + 2 > len(ends):
                    ends = np.concatenate((ends, np.zeros_like(ends)))
                for i in range(start, end):
                    rows[num_rows] = int(np.int64(packed[i] & low))
                    num_rows += 1
                num_buckets += 1
                ends[num_buckets] = num_rows
        start = end
    return rows[:num_rows].copy(), ends[: num_buckets + 1].copy()


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
    if length == other_length:
        differs = False
        for i in range(length):
            if units[start + i] != units[other_start + i]:
                differs = True
                break
        if not differs:
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


@njit(cache=True, nogil=True)
def link(
    rows: NDArray[np.int64],
    bucket_ends: NDArray[np.int64],
    units: NDArray[np.uint16],
    ends: NDArray[np.int64],
    tails: NDArray[np.int64],
    parents: NDArray[np.int64],
    millionths: int,
    tail_millionths: int,
    respect_digits: bool,
    num_slots: int,
) -> tuple[NDArray[np.int64], int]:
    """Compares the rows of each bucket and connects those that are alike.

    Args:
        rows: (M,) bucket by bucket, in each of them in the order in which to compare.
        bucket_ends: (buckets + 1,).
        units: Their texts.
        ends: (M + 1,) offsets of texts.
        tails: (M,) where the part begins that must be alike by itself.
        parents: See `find`; changed.
        millionths: The threshold.
        tail_millionths: The threshold of the tails; 0 asks nothing of them.
        respect_digits: Whether texts that differ in numbers only stay apart.
        num_slots: See `shingles.table_size`, for the longest of the texts.

    Returns:
        (links, 2) rows, and the number of comparisons.
    """
    links = np.empty((256, 2), np.int64)
    num_links, num_compared = 0, 0
    table = np.empty(num_slots, np.uint64)
    stamps = np.zeros(num_slots, np.int32)
    marks = np.zeros(num_slots, np.int64)
    points = np.empty(num_slots, np.uint64)
    biggest = 0
    for bucket in range(len(bucket_ends) - 1):
        biggest = max(biggest, ends[bucket_ends[bucket + 1]] - ends[bucket_ends[bucket]])
    grams = np.empty(biggest, np.uint64)
    # 3-grams are made when a comparison needs them: 0 says that a row has none yet.
    sizes = np.zeros(len(rows), np.int64)
    known = np.empty(KNOWN_ROWS, np.int64)
    stamp, entered = 0, -1
    for bucket in range(len(bucket_ends) - 1):
        first, behind = bucket_ends[bucket], bucket_ends[bucket + 1]
        origin = ends[first]
        num_known = 0
        for this in range(first, behind):
            at = ends[this] - origin
            fresh = True
            if behind - first <= ALL_PAIRS_ROWS:
                num_others, near = this - first, first
            else:
                near = max(first, this - KNOWN_ROWS)
                num_others = num_known + this - near
            for number in range(num_others):
                other = near + number
                if behind - first > ALL_PAIRS_ROWS:
                    other = int(known[number]) if number < num_known else near + number - num_known
                if find(parents, rows[other]) == find(parents, rows[this]):
                    fresh = False
                    continue
                num_compared += 1
                tail = ends[this + 1] - tails[this]
                other_tail = ends[other + 1] - tails[other]
                is_short = min(tail, other_tail) < SHORT_TAIL
                # Short tails are compared first, which is cheap and tells most rows apart.
                if (tail_millionths and is_short) and not tails_alike(
                    units, tails[this], ends[this + 1], tails[other], ends[other + 1],
                    tail_millionths,
                ):  # fmt: skip
                    continue
                other_at = ends[other] - origin
                for one, one_at in ((other, other_at), (this, at)):
                    if sizes[one] == 0:
                        size = code_points(units, ends[one], ends[one + 1], points, 0)
                        sizes[one] = pack(points, size, grams[one_at:])
                        entered = -1
                    elif one == other or entered == this:
                        continue
                    stamp += 1
                    sizes[one] = enter(grams, one_at, sizes[one], table, stamps, stamp)
                    entered = one
                shared = num_shared(
                    grams, other_at, sizes[other], table, stamps, stamp, sizes[this], millionths
                )
                if shared < 0:
                    continue
                differing = sizes[this] + sizes[other] - 2 * shared
                if tail_millionths and (
                    differing > FEW_DIFFERING
                    if is_short
                    else not tails_alike(
                        units, tails[this], ends[this + 1], tails[other], ends[other + 1],
                        tail_millionths,
                    )
                ):  # fmt: skip
                    continue
                if respect_digits and only_numbers_differ(
                    grams, other_at, sizes[other], at, sizes[this],
                    table, stamps, stamp, marks, num_compared,
                ):  # fmt: skip
                    continue
                if num_links == len(links):
                    links = np.concatenate((links, np.empty_like(links)))
                links[num_links, 0], links[num_links, 1] = rows[other], rows[this]
                num_links += 1
                unite(parents, rows[other], rows[this])
                fresh = False
            if fresh and num_known < KNOWN_ROWS:
                known[num_known] = this
                num_known += 1
    return links[:num_links].copy(), num_compared


@njit(cache=True, nogil=True)
def copy_texts(
    source: NDArray[np.uint16],
    starts: NDArray[np.int64],
    units: NDArray[np.uint16],
    places: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> None:
    """Copies texts that begin at `starts` in `source` to `places` in `units`."""
    for text in range(len(starts)):
        start, place = starts[text], places[text]
        for i in range(lengths[text]):
            units[place + i] = source[start + i]
