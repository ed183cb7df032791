"""Rows of two columns of texts, put together in a given order.

In: two columns, the first with a span of bytes for each text, the second with offsets; for each
wanted row its number in the first (or ~number in the second). Out: the wanted texts in a buffer of
the caller. It looks at no text.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def gather(
    first: NDArray[np.uint8],
    first_spans: NDArray[np.int64],
    second: NDArray[np.uint8],
    second_offsets: NDArray[np.int64],
    picked: NDArray[np.int64],
    out: NDArray[np.uint8],
    out_offsets: NDArray[np.int64],
) -> None:
    """Writes the texts `picked` one after another; `out` must have room for all of them."""
    at = 0
    out_offsets[0] = 0
    for row in range(len(picked)):
        place = picked[row]
        if place >= 0:
            start, end = first_spans[place, 0], first_spans[place, 1]
            out[at : at + end - start] = first[start:end]
        else:
            start, end = second_offsets[~place], second_offsets[~place + 1]
            out[at : at + end - start] = second[start:end]
        at += end - start
        out_offsets[row + 1] = at
