"""MinHash signatures of 3-gram sets, and the band keys by which like texts meet.

In: folded texts in UTF-16 units. Out: 32-bit band keys: two texts of Jaccard similarity s share the
key of a band of r rows with probability s**r. Sets are of 3-grams of units, not of characters, and
hashes have 16 bits, so that a vector holds many; two texts of 20,000 characters that share nothing
then agree in a lane in one of seven cases, and in a band of eight lanes practically never. It
decides nothing; candidates are verified in `linking`. Source: A. Broder, On the resemblance and
containment of documents, 1997.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels.shingles import LEAST_CHARS
from chatlm.corpus.kernels.wide import unowned

_FIRST, _SECOND, _THIRD = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77), np.uint32(0xC2B2AE3D)
_STIR = np.uint32(0x27D4EB2F)
_MOST = np.uint16(0xFFFF)
_LOW, _BEHIND = np.uint16(0xDC00), np.uint16(0xE000)


def permutations(num_lanes: int) -> NDArray[np.uint16]:
    """Returns (2, lanes) odd factors and addends of so many hash functions."""
    values: NDArray[Any] = np.random.Philox(20_231_117).random_raw(2 * num_lanes)
    lanes = (values >> np.uint64(48)).astype(np.uint16).reshape(2, num_lanes)
    lanes[0] |= np.uint16(1)
    return lanes


def band_factors(num_lanes: int) -> NDArray[np.uint32]:
    """Returns (lanes,) odd factors that make a key of the lanes of a band."""
    values: NDArray[Any] = np.random.Philox(20_231_118).random_raw(num_lanes)
    return (values >> np.uint64(32)).astype(np.uint32) | np.uint32(1)


@njit(cache=True, nogil=True)
def shingle(units: NDArray[np.uint16], shingles: NDArray[np.uint16]) -> None:
    """Writes a hash of every three units, also of those that begin in one text and end in another.

    Args:
        units: Texts, one behind the other.
        shingles: As long as `units`, written but for the last two.
    """
    for i in range(len(units) - 2):
        state = np.uint32(
            np.uint32(units[i]) * _FIRST
            + np.uint32(units[i + 1]) * _SECOND
            + np.uint32(units[i + 2]) * _THIRD
        )
        state = np.uint32((state ^ (state >> np.uint32(15))) * _STIR)
        shingles[i] = np.uint16(state >> np.uint32(16))


@njit(cache=True, nogil=True)
def lower(
    shingles: NDArray[np.uint16],
    start: int,
    end: int,
    lanes: NDArray[np.uint16],
    signature: NDArray[np.uint16],
) -> None:
    """Lowers each lane of `signature` to the smallest hash of `shingles[start:end]`."""
    times, plus = unowned(lanes[0]), unowned(lanes[1])
    num_lanes = len(signature)
    i, last = np.uint64(start), np.uint64(end - 1)
    # Four shingles a step over all lanes: the compiler makes vectors of lanes, and the signature
    # is loaded and stored once for the four. The last one counts as often as one is wanting.
    while i < np.uint64(end):
        shingle_0 = shingles[i]
        shingle_1 = shingles[min(i + np.uint64(1), last)]
        shingle_2 = shingles[min(i + np.uint64(2), last)]
        shingle_3 = shingles[min(i + np.uint64(3), last)]
        for lane in range(num_lanes):
            factor, addend = times[lane], plus[lane]
            first = min(
                np.uint16(shingle_0 * factor + addend), np.uint16(shingle_1 * factor + addend)
            )
            second = min(
                np.uint16(shingle_2 * factor + addend), np.uint16(shingle_3 * factor + addend)
            )
            signature[lane] = min(signature[lane], min(first, second))
        i += np.uint64(4)


@njit(cache=True, nogil=True)
def write_bands(
    signature: NDArray[np.uint16],
    factors: NDArray[np.uint32],
    num_rows: int,
    keys: NDArray[np.uint32],
    row: int,
) -> None:
    """Writes the key of each band of `num_rows` lanes of `signature` to `keys[:, row]`."""
    lane, behind = np.uint64(0), np.uint64(0)
    for band in range(np.uint64(keys.shape[0])):
        behind += np.uint64(num_rows)
        state = np.uint32(0)
        while lane < behind:
            state += np.uint32(signature[lane]) * factors[lane]
            lane += np.uint64(1)
        state = np.uint32((state ^ (state >> np.uint32(16))) * _STIR)
        state = np.uint32((state ^ (state >> np.uint32(15))) * _SECOND)
        keys[band, row] = state ^ (state >> np.uint32(16))


@njit(cache=True, nogil=True)
def has_gram(units: NDArray[np.uint16], start: int, end: int) -> bool:
    """Says if a text has `LEAST_CHARS` characters or more."""
    if end - start >= 2 * LEAST_CHARS or end - start < LEAST_CHARS:
        return end - start >= LEAST_CHARS
    chars = 0
    for i in range(start, end):
        chars += units[i] < _LOW or units[i] >= _BEHIND
    return chars >= LEAST_CHARS


@njit(cache=True, nogil=True)
def sign_rows(
    units: NDArray[np.uint16],
    ends: NDArray[np.int64],
    spans: NDArray[np.uint32],
    lanes: NDArray[np.uint16],
    factors: NDArray[np.uint32],
    pair_band_rows: int,
    question_band_rows: int,
    pair_keys: NDArray[np.uint32],
    question_keys: NDArray[np.uint32],
    long_enough: NDArray[np.uint8],
) -> None:
    """Writes the band keys of rows and of their questions.

    The shingles of a question are some of its row's: each is hashed once for both.

    Args:
        units: Folded rows, see `folding.fold_rows`.
        ends: (N + 1,) offsets.
        spans: (N, 3), see there.
        lanes: See `permutations`.
        factors: See `band_factors`.
        pair_band_rows: Lanes in a band of a row.
        question_band_rows: Lanes in a band of a question.
        pair_keys: (bands, N) written.
        question_keys: (bands, N) written.
        long_enough: (N,) written: 1 if the row, 2 if its question has `LEAST_CHARS` or more, else
            it is not signed.
    """
    shingles = np.empty(len(units), np.uint16)
    shingle(units, shingles)
    _sign_rows(
        units, shingles, np.empty(lanes.shape[1], np.uint16), ends, spans, lanes, factors,
        pair_band_rows, question_band_rows, pair_keys, question_keys, long_enough,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _sign_rows(
    units: NDArray[np.uint16],
    shingles: NDArray[np.uint16],
    signature: NDArray[np.uint16],
    ends: NDArray[np.int64],
    spans: NDArray[np.uint32],
    lanes: NDArray[np.uint16],
    factors: NDArray[np.uint32],
    pair_band_rows: int,
    question_band_rows: int,
    pair_keys: NDArray[np.uint32],
    question_keys: NDArray[np.uint32],
    long_enough: NDArray[np.uint8],
) -> None:
    units_, shingles_, signature_ = unowned(units), unowned(shingles), unowned(signature)
    lanes_, factors_ = unowned(lanes), unowned(factors)
    pair_keys_, question_keys_ = unowned(pair_keys), unowned(question_keys)
    for row in range(len(ends) - 1):
        start, stop = ends[row], ends[row + 1]
        begin, end = start + np.int64(spans[row, 0]), start + np.int64(spans[row, 1])
        long_enough[row] = 0
        # The separator is no character.
        if stop - start < LEAST_CHARS + 1 or not has_gram(units_, start, stop - 1):
            continue
        signature_[:] = _MOST
        if has_gram(units_, begin, end):
            lower(shingles_, begin, end - 2, lanes_, signature_)
            write_bands(signature_, factors_, question_band_rows, question_keys_, row)
            long_enough[row] = 2
            lower(shingles_, start, begin, lanes_, signature_)
            lower(shingles_, end - 2, stop - 2, lanes_, signature_)
        else:
            lower(shingles_, start, stop - 2, lanes_, signature_)
        write_bands(signature_, factors_, pair_band_rows, pair_keys_, row)
        long_enough[row] |= 1
