"""UTF-8 bytes to code points and back.

In: bytes that are valid UTF-8 (readers see to that). Out: code points, with the classes that occur.
It does not judge them.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels.characters import NUM_POINTS, REPEATS, UNSURE


@njit(cache=True, nogil=True)
def decode(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    classes: NDArray[np.int32],
    points: NDArray[np.int32],
    at: int,
) -> tuple[int, int, bool]:
    """Writes the code points of `data[start:end]` to `points[at:]`.

    Returns:
        Where they end, the union of their classes, and whether a mark that may not be repeated
        stands beside itself.
    """
    seen = 0
    repeated = False
    before = np.int32(-1)
    i = start
    while i < end:
        byte = np.int32(data[i])
        if byte < 0x80:
            point = byte
            i += 1
        elif byte < 0xE0:
            point = (byte & 0x1F) << 6 | np.int32(data[i + 1]) & 0x3F
            i += 2
        elif byte < 0xF0:
            point = (
                (byte & 0xF) << 12
                | (np.int32(data[i + 1]) & 0x3F) << 6
                | np.int32(data[i + 2]) & 0x3F
            )
            i += 3
        else:
            point = (
                (byte & 7) << 18
                | (np.int32(data[i + 1]) & 0x3F) << 12
                | (np.int32(data[i + 2]) & 0x3F) << 6
                | np.int32(data[i + 3]) & 0x3F
            )
            i += 4
        if point < NUM_POINTS:
            bits = classes[point]
            seen |= bits
            if point == before and bits & REPEATS:
                repeated = True
        else:
            seen |= UNSURE
        points[at] = point
        before = point
        at += 1
    return at, seen, repeated


@njit(cache=True, nogil=True)
def encode(points: NDArray[np.int32], start: int, end: int, out: NDArray[np.uint8], at: int) -> int:
    """Writes `points[start:end]` to `out[at:]`; returns where the bytes end."""
    for i in range(start, end):
        point = points[i]
        if point < 0x80:
            out[at] = point
            at += 1
        elif point < 0x800:
            out[at] = 0xC0 | point >> 6
            out[at + 1] = 0x80 | point & 0x3F
            at += 2
        elif point < 0x10000:
            out[at] = 0xE0 | point >> 12
            out[at + 1] = 0x80 | point >> 6 & 0x3F
            out[at + 2] = 0x80 | point & 0x3F
            at += 3
        else:
            out[at] = 0xF0 | point >> 18
            out[at + 1] = 0x80 | point >> 12 & 0x3F
            out[at + 2] = 0x80 | point >> 6 & 0x3F
            out[at + 3] = 0x80 | point & 0x3F
            at += 4
    return at
