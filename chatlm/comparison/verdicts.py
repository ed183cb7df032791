"""Who won, row by row, and whether that can be chance.

In: the chrF of both answers to each question. Out: wins, losses and ties of the tuned model, the
mean difference with its interval, and the p-value of a sign test.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DEAD_BAND = 1.0
"""Points of chrF within which two answers are equally near."""
RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Contest:
    """The tuned model against its base.

    Attributes:
        wins: rows in which the tuned answer is nearer to the reference by more than `DEAD_BAND`.
        losses: rows in which the base's is.
        ties: the other rows.
        mean_gain: mean difference in chrF, tuned less base.
        low: lower end of the 95 % bootstrap interval of that mean over the rows.
        high: upper end.
        p_value: of the two-sided sign test on wins and losses.
    """

    wins: int
    losses: int
    ties: int
    mean_gain: float
    low: float
    high: float
    p_value: float

    @property
    def verdict(self) -> str:
        """Returns better, worse, or open: where the interval holds 0, the data does not say."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "open"


def outcome(gain: float) -> str:
    """Returns win, loss or tie."""
    if abs(gain) <= DEAD_BAND:
        return "tie"
    return "win" if gain > 0 else "loss"


def contest(gains: Sequence[float]) -> Contest:
    """Returns who is ahead; the same for the same gains in any order.

    Args:
        gains: chrF of the tuned answer less that of the base's, one a row, at least one.
    """
    ordered = sorted(gains)
    found = [outcome(gain) for gain in ordered]
    wins, losses, ties = (found.count(kind) for kind in ("win", "loss", "tie"))
    low, high = _interval(ordered)
    mean = math.fsum(ordered) / len(ordered)
    return Contest(wins, losses, ties, mean, low, high, sign_test(wins, losses))


def sign_test(wins: int, losses: int) -> float:
    """Returns how often a fair coin is at least as one-sided; ties say nothing."""
    total, fewer = wins + losses, min(wins, losses)
    tail = sum(math.comb(total, count) for count in range(fewer + 1))
    return min(1.0, 2 * tail / 2**total)


def _interval(gains: Sequence[float]) -> tuple[float, float]:
    """Returns the percentile interval of the mean over resampled rows, seeded."""
    values = np.asarray(gains, np.float64)
    draws = np.random.default_rng(0)
    at_once = (100, len(values))
    means = [
        values[draws.integers(0, len(values), at_once)].mean(1)
        for _ in range(RESAMPLES // at_once[0])
    ]
    rest = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.concatenate(means), [rest, 100 - rest])
    return float(low), float(high)
