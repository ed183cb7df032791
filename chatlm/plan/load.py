"""How large a microbatch is, in the sums that memory and time depend on.

In: the lengths of its pairs. Out: a `Load`. Batches are flat, so tokens count, not padding; only
attention sees the pairs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Load:
    """One microbatch.

    Attributes:
        source_lengths: Tokens of each source.
        target_lengths: Tokens of each target, pair by pair as the sources.
    """

    source_lengths: Lengths
    target_lengths: Lengths

    @property
    def num_pairs(self) -> int:
        """Pairs."""
        return len(self.source_lengths)

    @property
    def num_source_tokens(self) -> int:
        """Source tokens of all pairs."""
        return int(self.source_lengths.sum())

    @property
    def num_target_tokens(self) -> int:
        """Target tokens of all pairs."""
        return int(self.target_lengths.sum())

    @property
    def num_tokens(self) -> int:
        """Source and target tokens of all pairs."""
        return self.num_source_tokens + self.num_target_tokens

    def scores(self) -> tuple[int, int, int]:
        """Returns the attention scores of one head and layer: encoder, decoder, cross."""
        source, target = self.source_lengths, self.target_lengths
        return int(source @ source), int(target @ target), int(source @ target)

    def longest(self) -> tuple[int, int]:
        """Returns the tokens of the longest source and target."""
        return int(self.source_lengths.max()), int(self.target_lengths.max())


def filled(source_lengths: Lengths, target_lengths: Lengths, max_tokens: int) -> Load:
    """Returns pairs of these lengths, over and over, up to a number of tokens; at least one pair.

    The last pair is cut so that the number is met.
    """
    totals = np.cumsum(source_lengths + target_lengths)
    rounds = -(-max_tokens // int(totals[-1])) if len(totals) else 0
    source, target = np.tile(source_lengths, rounds), np.tile(target_lengths, rounds)
    ends = np.cumsum(source + target)
    whole = int(np.searchsorted(ends, max_tokens, side="right"))
    rest = max_tokens - (int(ends[whole - 1]) if whole else 0)
    if rest >= 2 and whole < len(ends):
        share = rest / int(source[whole] + target[whole])
        last = max(1, min(rest - 1, round(share * int(source[whole]))))
        source, target = source[: whole + 1].copy(), target[: whole + 1].copy()
        source[whole], target[whole] = last, rest - last
        return Load(source, target)
    return Load(source[: max(1, whole)], target[: max(1, whole)])
