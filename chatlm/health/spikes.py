"""Losses that stand out from those before them.

In: the losses of the steps whose gradients were taken, in order. Out: whether the next one is a
spike. It is a pure function of a few dozen numbers, which a checkpoint keeps as hex, so a resumed
run finds what an uninterrupted one finds. What to do about a spike is decided in `verdicts`.

A loss is a spike if it lies above the median of the window by more than each of three distances:
a number of nats that is worth an alarm at all; a multiple of the usual deviation; and a multiple of
the rise of the highest loss in the window, which is what small batches of unequal pairs need, whose
losses have a long tail upwards and are harmless. So that the fast fall at a run's beginning, which
makes the window wide, does not hide everything, a loss is a spike in any case if it is clearly
worse than guessing and than all of the window.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

WINDOW = 64
"""Losses that are remembered."""
LEAST_LOSSES = 10
"""Without so many there is no alarm."""
LEAST_RISE = 1.0
"""Nats a token above the median."""
DEVIATIONS = 8.0
"""Standard deviations above the median, estimated from the median of the absolute deviations."""
TIMES_HIGHEST = 4.0
"""Times the rise of the window's highest loss above its median."""
TO_STANDARD_DEVIATION = 1.4826
"""Of a normal distribution: its standard deviation over its median absolute deviation."""


@dataclass
class SpikeDetector:
    """The losses of the last good steps, in nats a target token, of tokens of a vocabulary."""

    vocab_size: int
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def threshold(self) -> float:
        """Returns the loss above which a step is a spike; infinite while too few are known."""
        if len(self.losses) < LEAST_LOSSES:
            return math.inf
        middle = median(self.losses)
        deviation = median(abs(loss - middle) for loss in self.losses) * TO_STANDARD_DEVIATION
        rises = (
            LEAST_RISE,
            DEVIATIONS * deviation,
            TIMES_HIGHEST * (max(self.losses) - middle),
        )
        return min(middle + max(rises), self.worst())

    def worst(self) -> float:
        """Returns a loss that is clearly worse than guessing and than all of the window."""
        return max([math.log(self.vocab_size), *self.losses]) + LEAST_RISE

    def add(self, loss: float) -> None:
        """Remembers the loss of a step that was good."""
        self.losses.append(loss)

    def as_hex(self) -> list[str]:
        """Returns the window for a checkpoint, without rounding."""
        return [loss.hex() for loss in self.losses]

    @classmethod
    def from_hex(cls, vocab_size: int, losses: Iterable[str]) -> "SpikeDetector":
        """Returns the detector that `as_hex` was called on."""
        return cls(vocab_size, deque((float.fromhex(loss) for loss in losses), maxlen=WINDOW))
