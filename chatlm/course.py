"""How long a run is, which pairs each step takes, and at which rate.

In: the settings and the order of the pairs. Out: pure functions of a step's number. Nothing here
knows how many processes there are, or how a step is cut up.
"""

from dataclasses import dataclass

from chatlm import optim
from chatlm.config import TrainConfig
from chatlm.dataset.order import Order


@dataclass(frozen=True)
class Course:
    """A run from its first step to its last, counted in optimizer steps and training pairs."""

    config: TrainConfig
    order: Order
    total_steps: int

    @staticmethod
    def of(config: TrainConfig, num_rows: int) -> "Course":
        """Returns the course of a run over so many pairs."""
        order = Order(num_rows, config.batch_size, config.seed)
        steps = -(-config.epochs * order.steps_per_epoch // 1)
        return Course(config, order, config.max_steps or int(steps))

    @property
    def total_samples(self) -> int:
        """Pairs seen when the run ends."""
        return self.order.samples_before(self.total_steps)

    def rate(self, index: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        done = self.order.samples_before(index + 1) / self.total_samples
        share = optim.rate_share(
            min(1.0, done),
            warmup=self.config.warmup_share,
            final=self.config.final_rate_share,
            schedule=self.config.schedule,
            decay=self.config.decay_share,
        )
        return self.config.learning_rate * share

    def dropout_seed(self, index: int, share: int, microbatch: int) -> int:
        """Returns a seed for a microbatch of a share of a step, so that resuming needs no state."""
        place = (self.config.seed * 1_000_003 + index) * 4096 + microbatch
        return (place * 1024 + share) % 2**63
