"""Is a step's gradient to be taken, thrown away, or are the weights to be put back?

In: the loss and the gradient norm of each step, the same on every process. Out: a verdict, and
after several bad steps in a row the way back or the end of the run. It holds no tensor, reads no
clock and talks to no other process; what it remembers is in a checkpoint's State and in
ledger.jsonl. Steps are counted as in metrics.jsonl: the first is 1, and a checkpoint of step s has
the weights that step s left.

One bad step says that its pairs are bad: its gradient does no harm when it is thrown away. Several
in a row say that the weights are, since pairs come in random order: then the run goes back to a
checkpoint whose weights were good for a later step, and passes over the bad steps on its way.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from chatlm.errors import SickRunError
from chatlm.health.spikes import SpikeDetector

SPIKES_IN_A_ROW = 3
"""As many say that the weights are sick."""
MOST_REWINDS = 3
"""Until the run is given up."""

SKIP, REWIND, STOP = "skip", "rewind", "stop"
"""Events in ledger.jsonl."""


class Verdict(Enum):
    """What is wrong with a step; the value is for people."""

    GOOD = "good"
    SPIKE = "the loss is a spike"
    NOT_FINITE = "the loss or the gradient is not finite"


@dataclass(frozen=True)
class Rewind:
    """A way back that was taken.

    Attributes:
        to: The step of the checkpoint.
        skip: Steps that are passed over since.
        worst: The loss above which a step is a spike where the checkpoint knows too few losses.
    """

    to: int
    skip: tuple[int, ...]
    worst: float


@dataclass
class Health:
    """The verdicts of one run so far.

    Attributes:
        max_bad_steps: As many bad steps in a row end the run.
        detector: The losses of the last good steps.
        skipped: Steps whose gradients were not taken, in order.
        streak: The last of them, as far as no good step came between.
        rewinds: The ways back taken since the run was last given up, on.
        planned: Steps that are passed over without computing them.
    """

    max_bad_steps: int
    detector: SpikeDetector
    skipped: list[int] = field(default_factory=list)
    streak: list[int] = field(default_factory=list)
    rewinds: list[Rewind] = field(default_factory=list)
    planned: set[int] = field(default_factory=set)
    _last: Verdict = Verdict.GOOD

    @classmethod
    def of(
        cls,
        max_bad_steps: int,
        vocab_size: int,
        losses: Iterable[str],
        skipped: Sequence[int],
        bad_steps: int,
        ledger: Iterable[Mapping[str, Any]],
    ) -> "Health":
        """Returns the health of a run that goes on from a checkpoint.

        Args:
            max_bad_steps: as above.
            vocab_size: entries of the model's vocabulary.
            losses: State.losses.
            skipped: State.skipped_steps.
            bad_steps: State.bad_steps.
            ledger: all lines of ledger.jsonl, those after the checkpoint too.
        """
        rewinds: list[Rewind] = []
        planned: set[int] = set()
        for line in ledger:
            if line.get("event") == REWIND:
                worst = float.fromhex(line["worst"])
                rewinds.append(Rewind(line["to"], tuple(line["skip"]), worst))
                planned.update(line["skip"])
            elif line.get("event") == STOP:
                rewinds.clear()
        streak = list(skipped[len(skipped) - bad_steps :])
        detector = SpikeDetector.from_hex(vocab_size, losses)
        return cls(max_bad_steps, detector, list(skipped), streak, rewinds, planned)

    @property
    def is_quiet(self) -> bool:
        """Whether the last step was good; in a row of bad ones no checkpoint is written."""
        return not self.streak

    def threshold(self) -> float:
        """Returns the loss above which the next step is a spike."""
        known = self.detector.threshold()
        if math.isinf(known) and self.rewinds:
            return self.rewinds[-1].worst
        return known

    def judge(self, step: int, loss: float, norm: float) -> Verdict:
        """Returns what is wrong with a step, and remembers it.

        Args:
            step: the first is 1.
            loss: nats a target token, over all processes.
            norm: of the gradient of all processes, before clipping.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._last = Verdict.NOT_FINITE
        elif loss > self.threshold():
            self._last = Verdict.SPIKE
        else:
            self._last = Verdict.GOOD
            self.detector.add(loss)
            self.streak.clear()
            return self._last
        self.skipped.append(step)
        self.streak.append(step)
        return self._last

    def pass_over(self, step: int) -> None:
        """Remembers a planned step that was passed over."""
        self.skipped.append(step)

    def wants_rewind(self) -> bool:
        """Whether so many spikes came in a row that the weights must be sick."""
        return self._last is Verdict.SPIKE and len(self.streak) >= SPIKES_IN_A_ROW

    def is_exhausted(self) -> bool:
        """Whether so many bad steps came in a row that the run ends."""
        return len(self.streak) >= self.max_bad_steps

    def target(self, checkpoints: Iterable[int]) -> int | None:
        """Returns the checkpoint to go back to, or None if there is none yet.

        The newest checkpoint may hold the very weights that the first spike was computed with; an
        older one was good for a step that came after it.

        Args:
            checkpoints: the steps of the whole ones.

        Raises:
            SickRunError: going back has been tried and did not help.
        """
        older = [step for step in checkpoints if step < self.streak[0] - 1]
        if not older:
            return None
        found = max(older)
        if any(one.to == found for one in self.rewinds) or len(self.rewinds) >= MOST_REWINDS:
            raise SickRunError(
                f"{len(self.streak)} steps in a row have a loss far above those before (step "
                f"{self.streak[0]} on), and going back to step {found} did not help: lower "
                "learning_rate, or look at the pairs in inspect/; resume=True goes on"
            )
        return found

    def rewind(self, to: int) -> dict[str, Any]:
        """Plans the way back over the bad steps; returns the ledger's line.

        The caller then loads the checkpoint and makes a Health `of` it and of the ledger.
        """
        taken = Rewind(to, tuple(self.streak), self.detector.worst())
        self.rewinds.append(taken)
        self.planned.update(taken.skip)
        return {
            "event": REWIND,
            "step": self.streak[-1],
            "to": to,
            "skip": list(taken.skip),
            "worst": taken.worst.hex(),
        }

    def skip(
        self, step: int, why: Verdict, loss: float, norm: float, rows: Sequence[int]
    ) -> dict[str, Any]:
        """Returns the ledger's line for a step whose gradient was thrown away."""
        return {
            "event": SKIP,
            "step": step,
            "why": why.value,
            "loss": _text(loss),
            "threshold": _text(self.threshold()),
            "norm": _text(norm),
            "rows": list(rows),
        }

    def stop(self, why: str) -> dict[str, Any]:
        """Returns the ledger's line for the end of a sick run."""
        return {"event": STOP, "step": self.streak[-1], "why": why}

    def given_up(self, inspected: str) -> SickRunError:
        """Returns the error that ends a run after too many bad steps in a row.

        Args:
            inspected: the file that holds the pairs of the last one.
        """
        return SickRunError(
            f"{len(self.streak)} steps in a row were bad (step {self.streak[0]} to "
            f"{self.streak[-1]}; {self._last.value}), none of them was taken: look at the pairs in "
            f"{inspected}, lower learning_rate, and go on with resume=True"
        )


def warning(step: int, why: Verdict, loss: float, norm: float, threshold: float) -> str:
    """Returns the line that people see when a step's gradient is thrown away."""
    limit = f", limit {threshold:.3g}" if why is Verdict.SPIKE else ""
    return f"step {step} is skipped: {why.value} (loss {loss:.4g}{limit}, norm {norm:.3g})"


def _text(value: float) -> float | str:
    """Returns a float as JSON can hold it."""
    return value if math.isfinite(value) else str(value)
