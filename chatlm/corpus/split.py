"""Which rows train, which validate, which test.

In: one group hash a row, the same for all rows with like questions (`duplicates.decide` gives it).
Out: a part for every row. A question is never in two parts, nor is one in another part that is
nearly the same. Pure arithmetic on the hashes: no draw, no order, no state.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

PARTS = ("train", "valid", "test")


@dataclass(frozen=True, slots=True)
class SplitSizes:
    """How many rows to hold out: at most so many, and at most this share of all rows each.

    The share rules small corpora (1 % of 100,000 rows is 1,000), the number large ones.
    """

    valid_rows: int = 25_000
    test_rows: int = 25_000
    max_percent: int = 1

    def rows(self, num_rows: int) -> tuple[int, int]:
        """Returns (valid, test) as numbers of rows for a corpus of `num_rows`."""
        share = int(Fraction(self.max_percent, 100) * num_rows)
        return min(self.valid_rows, share), min(self.test_rows, share)


def assign(groups: NDArray[np.uint64], num_valid: int, num_test: int) -> NDArray[np.int8]:
    """Returns (N,) indices into `PARTS`, with at most `num_valid` and `num_test` rows held out.

    The groups with the smallest hashes validate, those with the largest test, so that growing data
    moves few questions between the parts. A group larger than a tenth of a part trains: one
    question with hundreds of answers would not measure anything.
    """
    parts = np.zeros(len(groups), dtype=np.int8)
    unique, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    of_group = np.zeros(len(unique), dtype=np.int8)
    of_group[_smallest(sizes, num_valid)] = 1
    # The tenth rule may let the two ends meet in tiny data; what validates does not test.
    from_end = len(unique) - 1 - _smallest(sizes[::-1], num_test)
    of_group[from_end[of_group[from_end] == 0]] = 2
    parts[:] = of_group[inverse]
    return parts


def _smallest(sizes: NDArray[np.int64], num_rows: int) -> NDArray[np.int64]:
    """Returns the indices of the first groups that together hold at most `num_rows`."""
    fitting = np.flatnonzero(sizes <= max(1, num_rows // 10))
    return fitting[np.cumsum(sizes[fitting]) <= num_rows]
