"""How many floating-point operations a training step takes: the one count of the project.

In: a model's shape and the true lengths of the pairs. Out: FLOPs, a multiplication and an addition
counting as two. Counted are the matrix products on real tokens, at true lengths, the causal half of
the decoder's attention, and a backward pass of twice the forward. Not counted is what a model does
not need: padding, recomputation, norms, softmax, lookups, the optimizer. It knows no machine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chatlm.model.config import ModelConfig

Lengths = Sequence[int] | npt.NDArray[np.integer]
BACKWARD_AND_FORWARD = 3
"""Every product of the forward pass has two of its size in the backward pass."""


@dataclass(frozen=True)
class Product:
    """A linear map that is applied to every token of one side: (rows, inner) x (inner, columns)."""

    name: str
    rows: int
    inner: int
    columns: int
    times: int = 1

    @property
    def flops(self) -> float:
        """Operations of the forward pass."""
        return 2.0 * self.rows * self.inner * self.columns * self.times


def linear_products(
    config: ModelConfig, num_source_tokens: int, num_target_tokens: int
) -> Iterator[Product]:
    """Yields the linear maps of a forward pass, grouped as they can be computed at once.

    Queries, keys and values of one input are one product, so are gate and up, and so are the keys
    and values that all decoder layers make of the encoder's output.
    """
    inner = config.num_heads * config.d_kv
    up = config.d_ff * (2 if config.is_gated else 1)
    stacks = (
        ("encoder", num_source_tokens, config.num_layers),
        ("decoder", num_target_tokens, config.num_decoder_layers),
    )
    for stack, rows, layers in stacks:
        yield Product(f"{stack} q,k,v", rows, config.d_model, 3 * inner, layers)
        yield Product(f"{stack} o", rows, inner, config.d_model, layers)
        yield Product(f"{stack} wi", rows, config.d_model, up, layers)
        yield Product(f"{stack} wo", rows, config.d_ff, config.d_model, layers)
    depth = config.num_decoder_layers
    yield Product("cross q", num_target_tokens, config.d_model, inner, depth)
    yield Product("cross o", num_target_tokens, inner, config.d_model, depth)
    yield Product("cross k,v", num_source_tokens, config.d_model, 2 * inner * depth)
    yield Product("head", num_target_tokens, config.d_model, config.vocab_size)


def attention_flops(config: ModelConfig, source_lengths: Lengths, target_lengths: Lengths) -> float:
    """Returns the operations of scores and weighted sums, all layers, forward pass only."""
    source, target = _as_floats(source_lengths), _as_floats(target_lengths)
    inner = config.num_heads * config.d_kv
    # Scores and weighted sums: two products, two operations each.
    of_encoder = 4.0 * inner * config.num_layers * (source @ source)
    causal = 2.0 * inner * (target @ target)
    cross = 4.0 * inner * (source @ target)
    return float(of_encoder + config.num_decoder_layers * (causal + cross))


def forward_flops(config: ModelConfig, source_lengths: Lengths, target_lengths: Lengths) -> float:
    """Returns the operations of one forward pass with the loss; see `training_flops`."""
    num_source, num_target = int(np.sum(source_lengths)), int(np.sum(target_lengths))
    linear = sum(product.flops for product in linear_products(config, num_source, num_target))
    return linear + attention_flops(config, source_lengths, target_lengths)


def training_flops(config: ModelConfig, source_lengths: Lengths, target_lengths: Lengths) -> float:
    """Returns the operations that training on these pairs takes, forward and backward.

    Args:
        config: the model's shape; `vocab_size` is the tokenizer's.
        source_lengths: tokens of each source, EOS included.
        target_lengths: tokens of each target, pair by pair as the sources.
    """
    return BACKWARD_AND_FORWARD * forward_flops(config, source_lengths, target_lengths)


def _as_floats(lengths: Lengths) -> npt.NDArray[np.float64]:
    return np.asarray(lengths, np.float64)
