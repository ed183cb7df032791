"""What `train.py plan` can be asked beside the settings of a training.

In: nothing. Out: `PlanOptions`, and `PlanConfig`, the two together. Imports no torch, so that
`--help` and a typo answer at once.
"""

from dataclasses import dataclass, field
from typing import Any

from chatlm.config import TrainConfig
from chatlm.errors import ConfigError
from chatlm.plan.cards import Card, card


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class PlanOptions:
    """The settings of a plan."""

    processes: int = _option(1, "as many as will be launched, one a GPU")
    price_per_hour: float = _option(0.0, "of the whole machine, in any currency; 0: no cost")
    check: bool = _option(True, "compute one largest microbatch here, to hold the plan against")
    json: bool = _option(False, "print the plan as one line of JSON after the table")
    gpu: str = _option("", "plan for a card that is not here: h100, h200, a100, 4090, ...")
    device_memory_gib: float = _option(0.0, "memory of a card that is not here")
    tflops: float = _option(0.0, "its peak of dense bf16 products, 10^12 operations a second")
    mfu: float = _option(0.4, "share of that peak that is assumed to be reached")

    def __post_init__(self) -> None:
        """Refuses what cannot work.

        Raises:
            ConfigError: every contradiction, in one message.
        """
        checks = [
            (self.processes >= 1, "processes must be at least 1"),
            (self.price_per_hour >= 0, "price_per_hour must not be negative"),
            (0 < self.mfu <= 1, "mfu must be above 0 and at most 1"),
            (
                bool(self.gpu) or bool(self.device_memory_gib > 0) == bool(self.tflops > 0),
                "a card that is not here needs gpu=, or device_memory_gib= and tflops= both",
            ),
        ]
        problems = [message for holds, message in checks if not holds]
        if problems:
            raise ConfigError("; ".join(problems))

    def card(self) -> Card | None:
        """Returns the card to plan for, or None for this machine.

        Raises:
            ConfigError: its figures are not known.
        """
        if not self.gpu and not self.tflops:
            return None
        known = card(self.gpu) if self.gpu else Card("a card", 0.0, 0.0, "your figures")
        return Card(
            known.name,
            self.tflops or known.tflops,
            self.device_memory_gib or known.memory_gib,
            known.source,
        )


@dataclass(frozen=True)
class PlanConfig(PlanOptions, TrainConfig):
    """Every key that `plan` takes; only their names and help texts are used."""
