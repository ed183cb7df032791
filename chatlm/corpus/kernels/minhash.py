"""MinHash signatures of 3-gram sets, and the band keys by which like texts meet.

In: folded texts in UTF-16 units. Out: 32-bit band keys: two texts of Jaccard similarity s share the
key of a band of r rows with probability s**r. It decides nothing; candidates are verified in
`linking`. Source: A. Broder, On the resemblance and containment of documents, 1997.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels.folding import mixed
from chatlm.corpus.kernels.shingles import LEAST_CHARS, code_points

_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_MOST = np.uint32(0xFFFFFFFF)


def permutations(num_lanes: int) -> NDArray[np.uint32]:
    """Returns (2, lanes) odd factors and addends of so many hash functions."""
    values: NDArray[Any] = np.random.Philox(20_231_117).random_raw(2 * num_lanes)
    lanes = (values >> np.uint64(32)).astype(np.uint32).reshape(2, num_lanes)
    lanes[0] |= np.uint32(1)
    return lanes


@njit(cache=True, nogil=True)
def lower(
    shingles: NDArray[np.uint32],
    start: int,
    end: int,
    lanes: NDArray[np.uint32],
    signature: NDArray[np.uint32],
) -> None:
    """Lowers each lane of `signature` to the smallest hash of `shingles[start:end]`."""
    times, plus = lanes[0], lanes[1]
    num_lanes = len(signature)
    i = start
    # Four shingles a step over all lanes: the compiler makes vectors of lanes, and the signature
    # is loaded and stored once for the four.
    while i + 4 <= end:
        shingle_0, shingle_1 = shingles[i], shingles[i + 1]
        shingle_2, shingle_3 = shingles[i + 2], shingles[i + 3]
        for lane in range(num_lanes):
            factor, addend = times[lane], plus[lane]
            first = min(
                np.uint32(shingle_0 * factor + addend), np.uint32(shingle_1 * factor + addend)
            )
            second = min(
                np.uint32(shingle_2 * factor + addend), np.uint32(shingle_3 * factor + addend)
            )
            signature[lane] = min(signature[lane], min(first, second))
        i += 4
    while i < end:
        shingle = shingles[i]
        for lane in range(num_lanes):
            signature[lane] = min(signature[lane], np.uint32(shingle * times[lane] + plus[lane]))
        i += 1


@njit(cache=True, nogil=True)
def write_bands(signature: NDArray[np.uint32], keys: NDArray[np.uint32], row: int) -> None:
    """Writes the key of each band of `signature` to `keys[:, row]`."""
    num_bands = keys.shape[0]
    num_rows = len(signature) // num_bands
    for band in range(num_bands):
        state = np.uint64(band + 1) * _SPREAD
        for lane in range(band * num_rows, (band + 1) * num_rows):
            state = (state ^ np.uint64(signature[lane])) * _SPREAD
            state ^= state >> np.uint64(32)
        keys[band, row] = np.uint32(mixed(state) >> np.uint64(32))


@njit(cache=True, nogil=True)
def sign_rows(
    units: NDArray[np.uint16],
    ends: NDArray[np.int64],
    spans: NDArray[np.uint32],
    lanes: NDArray[np.uint32],
    pair_lanes: int,
    question_lanes: int,
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
        pair_lanes: Lanes that the bands of rows use.
        question_lanes: Lanes that the bands of questions use.
        pair_keys: (bands, N) written.
        question_keys: (bands, N) written.
        long_enough: (N,) written: 1 if the row, 2 if its question has `LEAST_CHARS` or more, else
            it is not signed.
    """
    widest = 1
    for row in range(len(ends) - 1):
        widest = max(widest, ends[row + 1] - ends[row])
    points = np.empty(widest + 2, np.uint64)
    shingles = np.empty(widest + 2, np.uint32)
    signature = np.empty(lanes.shape[1], np.uint32)
    for row in range(len(ends) - 1):
        start = ends[row]
        begin, at_begin = code_points(units, start, start + spans[row, 0], points, 0), 0
        at_begin = begin
        stop = code_points(units, start + spans[row, 0], start + spans[row, 1], points, begin)
        size = code_points(units, start + spans[row, 1], ends[row + 1], points, stop)
        long_enough[row] = 0
        if size - 1 < LEAST_CHARS:
            continue
        for i in range(size - 2):
            packed = (points[i] << np.uint64(42)) | (points[i + 1] << np.uint64(21)) | points[i + 2]
            packed ^= packed >> np.uint64(29)
            shingles[i] = np.uint32((packed * _SPREAD) >> np.uint64(32))
        signature[:] = _MOST
        inner_end = max(stop - 2, at_begin)
        if stop - at_begin >= LEAST_CHARS:
            lower(shingles, at_begin, inner_end, lanes, signature)
            write_bands(signature[:question_lanes], question_keys, row)
            long_enough[row] = 2
            if at_begin:
                lower(shingles, 0, at_begin, lanes, signature)
            lower(shingles, inner_end, size - 2, lanes, signature)
        else:
            lower(shingles, 0, size - 2, lanes, signature)
        write_bands(signature[:pair_lanes], pair_keys, row)
        long_enough[row] |= 1
