"""What the training loop asks of a model, whichever it is: our T5, or another one with adapters.

In: flat batches. Out: a summed loss, and what a training minimizes beside it. A subclass says which
weights a checkpoint holds; where they are written to is a `chatlm.checkpoint.layout.Layout`'s.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

IGNORE_INDEX = -100
"""The label of a position that is not to be learned."""


class LossOutput(NamedTuple):
    """A loss that can be summed over batches and devices before it is divided."""

    loss_sum: Float[Tensor, ""]
    """Sum of the cross-entropy in nats over the labels that are not ignored, fp32."""
    num_tokens: Int[Tensor, ""]
    """Number of those labels, int64."""
    kl_sum: Float[Tensor, ""] | None = None
    """Sum of KL(base || tuned) in nats over the same labels, fp32; None where it is not wanted."""
    kl_weight: float = 0.0
    """How much of it is minimized."""

    @property
    def objective(self) -> Float[Tensor, ""]:
        """What a training minimizes, summed like the loss, which it is where there is no KL."""
        return (
            self.loss_sum if self.kl_sum is None else self.loss_sum + self.kl_weight * self.kl_sum
        )

    @property
    def sums(self) -> Float[Tensor, "2"]:
        """Loss and KL, for a log: without gradients, 0 where there is no KL."""
        kl = torch.zeros_like(self.loss_sum) if self.kl_sum is None else self.kl_sum
        return torch.stack([self.loss_sum, kl]).detach()


class Trainee(nn.Module):
    """A model in training.

    `forward(input_ids, labels, source_offsets, target_offsets)` returns a `LossOutput` for a flat
    batch, as `chatlm.dataset.batches.Batch` describes it.

    Attributes:
        vocab_size: the number of tokens that it chooses among.
        has_dropout: whether the loss depends on random numbers while it trains.
    """

    vocab_size: int
    has_dropout: bool

    def saved(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields the weights that a checkpoint holds: all that move, and those they need."""
        yield from self.named_parameters()

    def twin(self) -> "Trainee":
        """Returns a model of the same shape on the meta device, not compiled."""
        raise NotImplementedError
