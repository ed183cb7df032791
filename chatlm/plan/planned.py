"""What a plan asks of the model that is to be trained, and our own T5's answers.

A model of others answers by a rehearsal: `chatlm.plan.tuned`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from chatlm.config import TrainConfig
from chatlm.plan import memory
from chatlm.plan.calibrate import Bench
from chatlm.plan.flops import training_flops
from chatlm.plan.load import Load
from chatlm.plan.memory import Memory, Setup
from chatlm.plan.timing import Calibration, Times


@dataclass(frozen=True)
class Flops:
    """The operations of a microbatch, a multiplication and an addition as two.

    Attributes:
        useful: those that the training needs.
        computed: with those that are computed again to save memory.
    """

    useful: float
    computed: float


class Planned(Protocol):
    """A model and what its training takes."""

    @property
    def num_parameters(self) -> int:
        """All weights."""
        ...

    @property
    def shape(self) -> str:
        """What it is, for people."""
        ...

    @property
    def shardings(self) -> tuple[str, ...]:
        """How several processes may share it, those first that communicate least."""
        ...

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of one checkpoint."""
        ...

    def memory(self, setup: Setup, load: Load) -> Memory:
        """Returns what a process takes whose largest microbatch is `load`."""
        ...

    def flops(self, load: Load) -> Flops:
        """Returns the operations of a microbatch, forward and backward."""
        ...

    def clockwork(self, bench: Bench) -> Callable[[Load], Times]:
        """Returns what tells how long microbatches take here; it measures when it is asked."""
        ...


class OwnModel:
    """Our T5, of which everything is known in formulas."""

    def __init__(self, config: TrainConfig) -> None:
        """Takes the settings; the model's vocabulary is the tokenizer's."""
        self._config = config

    @property
    def num_parameters(self) -> int:
        """All weights."""
        return self._config.model.num_parameters()

    @property
    def shape(self) -> str:
        """Width, layers and vocabulary."""
        shape = self._config.model
        return (
            f"d_model {shape.d_model}, {shape.num_layers}+{shape.num_decoder_layers} layers, "
            f"vocabulary {shape.vocab_size}"
        )

    @property
    def shardings(self) -> tuple[str, ...]:
        """FSDP2 cuts up the matrices that Muon needs whole; DeepSpeed has a Muon of its own."""
        last = "zero3" if self._config.optimizer == "muon" else "fsdp2"
        return ("ddp", "zero1", "zero2", last)

    @property
    def checkpoint_bytes(self) -> int:
        """Weights and moments."""
        return memory.checkpoint_bytes(self._config)

    def memory(self, setup: Setup, load: Load) -> Memory:
        """Returns what a process takes whose largest microbatch is `load`."""
        return memory.predict(setup, load)

    def flops(self, load: Load) -> Flops:
        """Returns the operations of a microbatch; none is computed twice."""
        found = training_flops(self._config.model, load.source_lengths, load.target_lengths)
        return Flops(found, found)

    def clockwork(self, bench: Bench) -> Callable[[Load], Times]:
        """Returns what puts measured parts of a step together."""
        return Calibration(self._config, bench).times
