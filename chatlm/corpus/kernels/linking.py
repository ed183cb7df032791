"""Candidates to links: rows that share a band key, compared exactly.

In: sorted keys, texts, what is connected already. Out: pairs of rows whose sets of 3-grams have a
Jaccard similarity of at least the threshold. Every link is verified; what is compared depends on
the hashes of the texts, not on the numbers of the rows. It reads no files.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels.alike import (
    equal_units,
    num_shared,
    only_numbers_differ,
    tails_alike,
)
from chatlm.corpus.kernels.candidates import is_in, pair_of
from chatlm.corpus.kernels.shingles import code_points, enter, pack
from chatlm.corpus.kernels.wide import unowned

ALL_PAIRS_ROWS = 64
"""In a bucket of up to so many rows every two are compared, in larger ones `KNOWN_ROWS` before."""
KNOWN_ROWS = 16
SHORT_TAIL, FEW_DIFFERING = 20, 10
"""A response of fewer characters does not tell that two questions are the same: then no more than
so many 3-grams of the two rows may differ, as after one edit of two or three characters."""


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
    packed: NDArray[np.uint64], parents: NDArray[np.int64], rejected: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the rows that share a key with a row that they were not yet compared with.

    Args:
        packed: (N,) sorted: band key in the upper, row in the lower 32 bits.
        parents: See `find`.
        rejected: See `candidates.pair_set`.

    Returns:
        (M,) rows, bucket by bucket, and (buckets + 1,) where each begins.
    """
    rows = np.empty(len(packed), np.int64)
    ends = np.zeros(len(packed) // 2 + 1, np.int64)
    num_rows, num_buckets = 0, 0
    start, half = 0, np.uint64(32)
    for end in range(1, len(packed) + 1):
        if end < len(packed) and packed[end] >> half == packed[start] >> half:
            continue
        if end - start > 1 and _has_news(packed, start, end, parents, rejected):
            for i in range(start, end):
                rows[num_rows] = _row_of(packed[i])
                num_rows += 1
            num_buckets += 1
            ends[num_buckets] = num_rows
        start = end
    return rows[:num_rows].copy(), ends[: num_buckets + 1].copy()


@njit(cache=True, nogil=True, inline="always")
def _row_of(packed: np.uint64) -> int:
    return int(np.int64(packed & np.uint64(0xFFFFFFFF)))


@njit(cache=True, nogil=True)
def _has_news(
    packed: NDArray[np.uint64],
    start: int,
    end: int,
    parents: NDArray[np.int64],
    rejected: NDArray[np.uint64],
) -> bool:
    """Says if two rows of a bucket are not connected, and not rejected as far as this is known."""
    is_large = end - start > ALL_PAIRS_ROWS
    for i in range(start + 1, end):
        row = _row_of(packed[i])
        root = find(parents, row)
        for j in range(start, start + 1 if is_large else i):
            other = _row_of(packed[j])
            if find(parents, other) != root and (
                is_large or not is_in(rejected, pair_of(row, other))
            ):
                return True
    return False


@njit(cache=True, nogil=True)
def link(
    rows: NDArray[np.int64],
    bucket_ends: NDArray[np.int64],
    units: NDArray[np.uint16],
    ends: NDArray[np.int64],
    tails: NDArray[np.int64],
    parents: NDArray[np.int64],
    rejected: NDArray[np.uint64],
    millionths: int,
    tail_millionths: int,
    respect_digits: bool,
    num_slots: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Compares the rows of each bucket and connects those that are alike.

    Args:
        rows: (M,) bucket by bucket, in each of them in the order in which to compare.
        bucket_ends: (buckets + 1,).
        units: Their texts.
        ends: (M + 1,) offsets of texts.
        tails: (M,) where the part begins that must be alike by itself.
        parents: See `find`; changed.
        rejected: See `candidates.pair_set`: these are not compared again.
        millionths: The threshold.
        tail_millionths: The threshold of the tails; 0 asks nothing of them.
        respect_digits: Whether texts that differ in numbers only stay apart.
        num_slots: See `shingles.table_size`, for the longest of the texts.

    Returns:
        (links, 2) rows that are alike, and (pairs, 2) rows that are not.
    """
    links, unlike = np.empty((256, 2), np.int64), np.empty((256, 2), np.int64)
    num_links, num_rejected, num_compared = 0, 0, 0
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
                if is_in(rejected, pair_of(rows[this], rows[other])):
                    continue
                num_compared += 1
                # Until it is found to be alike.
                if num_rejected == len(unlike):
                    unlike = np.concatenate((unlike, np.empty_like(unlike)))
                unlike[num_rejected, 0], unlike[num_rejected, 1] = rows[other], rows[this]
                num_rejected += 1
                tail = ends[this + 1] - tails[this]
                other_tail = ends[other + 1] - tails[other]
                is_short = min(tail, other_tail) < SHORT_TAIL
                if not equal_units(units, ends[other], ends[other + 1], ends[this], ends[this + 1]):
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
                num_rejected -= 1
                unite(parents, rows[other], rows[this])
                fresh = False
            if fresh and num_known < KNOWN_ROWS:
                known[num_known] = this
                num_known += 1
    return links[:num_links].copy(), unlike[:num_rejected].copy()


@njit(cache=True, nogil=True)
def copy_texts(
    source: NDArray[np.uint16],
    starts: NDArray[np.int64],
    units: NDArray[np.uint16],
    places: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> None:
    """Copies texts that begin at `starts` in `source` to `places` in `units`."""
    source, units = unowned(source), unowned(units)
    for text in range(len(starts)):
        start, place = np.uint64(starts[text]), np.uint64(places[text])
        for i in range(np.uint64(lengths[text])):
            units[place + i] = source[start + i]
