"""Exact duplicates.

In: one digest a row. Out: which rows to keep. The row with the smallest id of its group stays,
whatever the order of the input and however it is cut into shards. Near duplicates are not looked
for.
"""

import numpy as np
from numpy.typing import NDArray

DIGEST = np.dtype("V16")
"""A row's `keys.pair_digest`."""


def keep_first(digests: NDArray[np.void], row_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns a mask (N,): True where no row with the same digest has a smaller id.

    Args:
        digests: (N,) 16 bytes each.
        row_ids: (N,) unique, in any order.
    """
    words = digests.view(np.uint64).reshape(-1, 2)
    order = np.lexsort((row_ids, words[:, 1], words[:, 0]))
    ordered = words[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    keep = np.empty(len(order), dtype=np.bool_)
    keep[order] = first
    return keep
