"""Which rows share the key of a band, and which pairs of them were compared before.

In: band keys. Out: the rows whose key another row has, sorted by key; sets of pairs of rows. Most
keys are alone, which a table of bits tells without sorting them. It looks at no texts.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

_SCATTER = np.uint64(0x9E3779B97F4A7C15)
_NONE = np.uint64(0xFFFFFFFFFFFFFFFF)
_SIX, _ONE = np.uint64(6), np.uint64(1)


def bit_tables(num_rows: int) -> NDArray[np.uint64]:
    """Returns (2, words) empty tables of bits, sixteen bits for each row: met once, met again."""
    bits = min(32, max(10, (16 * num_rows).bit_length()))
    return np.zeros((2, 1 << (bits - 6)), np.uint64)


@njit(cache=True, nogil=True)
def meet(
    keys: NDArray[np.uint32],
    long_enough: NDArray[np.uint8],
    bit: int,
    roots: NDArray[np.int64],
    first: int,
    tables: NDArray[np.uint64],
) -> int:
    """Notes the keys of the rows of a shard; returns how many met one that was there.

    Args:
        keys: (N,) of one band.
        long_enough: (N,) see `signing.Signed`.
        bit: The bit that `long_enough` must have.
        roots: (N,) row of which each is an exact duplicate: only a row that is its own counts.
        first: Number of the first row.
        tables: See `bit_tables`; changed.
    """
    once, again = tables[0], tables[1]
    mask = np.uint64(64 * len(once) - 1)
    found = 0
    for i in range(len(keys)):
        if long_enough[i] & bit and roots[i] == first + i:
            slot = np.uint64(keys[i]) & mask
            word, marked = slot >> _SIX, _ONE << (slot & np.uint64(63))
            if once[word] & marked:
                again[word] |= marked
                found += 1
            once[word] |= marked
    return found


@njit(cache=True, nogil=True)
def gather(
    keys: NDArray[np.uint32],
    long_enough: NDArray[np.uint8],
    bit: int,
    roots: NDArray[np.int64],
    first: int,
    tables: NDArray[np.uint64],
    packed: NDArray[np.uint64],
    at: int,
) -> int:
    """Writes key and row, 32 bits each, of rows whose key was met again to `packed[at:]`.

    Arguments as in `meet`, which has been called with all rows; `packed` has room for twice as
    many as met one. Returns the end in `packed`.
    """
    again = tables[1]
    mask = np.uint64(64 * len(again) - 1)
    for i in range(len(keys)):
        if long_enough[i] & bit and roots[i] == first + i:
            slot = np.uint64(keys[i]) & mask
            if again[slot >> _SIX] & (_ONE << (slot & np.uint64(63))):
                packed[at] = (np.uint64(keys[i]) << np.uint64(32)) | np.uint64(first + i)
                at += 1
    return at


@njit(cache=True, nogil=True, inline="always")
def pair_of(row: int, other: int) -> np.uint64:
    """Returns two rows, whichever comes first, as one number."""
    return (np.uint64(min(row, other)) << np.uint64(32)) | np.uint64(max(row, other))


@njit(cache=True, nogil=True)
def pair_set(pairs: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Returns a set of pairs of rows (N, 2) for `is_in`."""
    size = 2
    while size < 2 * len(pairs):
        size *= 2
    table = np.full(size, _NONE, np.uint64)
    for i in range(len(pairs)):
        pair = pair_of(pairs[i, 0], pairs[i, 1])
        table[_slot_of(table, pair)] = pair
    return table


@njit(cache=True, nogil=True)
def is_in(table: NDArray[np.uint64], pair: np.uint64) -> bool:
    """Says if a pair is in a set."""
    return table[_slot_of(table, pair)] == pair


@njit(cache=True, nogil=True)
def _slot_of(table: NDArray[np.uint64], pair: np.uint64) -> np.uint64:
    mask = np.uint64(len(table) - 1)
    slot = ((pair * _SCATTER) >> np.uint64(32)) & mask
    while table[slot] != _NONE and table[slot] != pair:
        slot = (slot + _ONE) & mask
    return slot
