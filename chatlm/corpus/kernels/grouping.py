"""Groups of rows, and the best row of each.

In: keys in sorted order, or a forest (see `linking.find`). Out: who represents whom. What is best
is a matter of trust and content; the number of a row decides between equal rows only.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def is_better(
    row: int, other: int, ranks: NDArray[np.uint16], contents: NDArray[np.uint64]
) -> bool:
    """Says if `row` represents a group better than `other`: smaller rank, then content, then row.

    Args:
        row: A row.
        other: Another one.
        ranks: Of each row's corpus; 0 is trusted most.
        contents: Hash of each row's bytes.
    """
    if ranks[row] != ranks[other]:
        return ranks[row] < ranks[other]
    if contents[row] != contents[other]:
        return contents[row] < contents[other]
    return row < other


@njit(cache=True, nogil=True)
def not_best(
    keys: NDArray[np.uint64],
    order: NDArray[np.int64],
    ranks: NDArray[np.uint16],
    contents: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """Returns (duplicates, 2): each row whose key a better row has, and the best row of that key.

    Args:
        keys: (N, words).
        order: (N,) rows with equal keys side by side.
        ranks: See `is_better`.
        contents: See there.
    """
    found = np.empty((len(order), 2), np.int64)
    size, start = 0, 0
    while start < len(order):
        end, best = start + 1, order[start]
        while end < len(order) and _same(keys, order[end], order[start]):
            if is_better(order[end], best, ranks, contents):
                best = order[end]
            end += 1
        for place in range(start, end):
            if order[place] != best:
                found[size, 0], found[size, 1] = order[place], best
                size += 1
        start = end
    return found[:size].copy()


@njit(cache=True, nogil=True)
def _same(keys: NDArray[np.uint64], row: int, other: int) -> bool:
    same = True
    for word in range(keys.shape[1]):
        same &= keys[row, word] == keys[other, word]
    return same


@njit(cache=True, nogil=True)
def best_of_tree(
    forest: NDArray[np.int64], ranks: NDArray[np.uint16], contents: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Returns (N,): of each row the best row of its tree; -1 for rows that take no part.

    Args:
        forest: (N,) the root of each row.
        ranks: See `is_better`.
        contents: See there.
    """
    best = np.full(len(forest), -1, np.int64)
    for row in range(len(forest)):
        root = int(forest[row])
        if root >= 0 and (best[root] < 0 or is_better(row, int(best[root]), ranks, contents)):
            best[root] = row
    of_row = np.full(len(forest), -1, np.int64)
    for row in range(len(forest)):
        if forest[row] >= 0:
            of_row[row] = best[forest[row]]
    return of_row


@njit(cache=True, nogil=True)
def smallest_of_tree(forest: NDArray[np.int64], values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Returns (N,): of each row the smallest value in its tree; its own if it takes no part."""
    smallest = values.copy()
    for row in range(len(forest)):
        root = forest[row]
        if root >= 0:
            smallest[root] = min(smallest[root], values[row])
    for row in range(len(forest)):
        if forest[row] >= 0:
            smallest[row] = smallest[forest[row]]
    return smallest
