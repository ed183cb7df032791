"""What a training step keeps in memory between its forward and its backward pass.

In: the model's shape and a microbatch. Out: every tensor that autograd saves, by name and size.
The list is read off `chatlm.model`, not fitted; a test compares its sum with what autograd saves.

Sizes are in bytes; D is d_model, I the width of all heads together, F d_ff, H the heads, V the
vocabulary; `w` is the bytes of a number in a matrix product (4, or 2 under autocast to bf16).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from chatlm.model.config import ModelConfig
from chatlm.model.loss import ALIGNED_FLOATS, CHUNK_ROWS
from chatlm.plan.load import Load

FP32 = 4
IDS = 8


class Saved(NamedTuple):
    """Tensors of one kind that are saved until the backward pass has used them."""

    name: str
    num_bytes: float


@dataclass(frozen=True)
class Kernels:
    """What the computation keeps that another one would not.

    Attributes:
        keeps_scores: Attention weights, as the math route does; flash attention keeps a number for
            each row of them.
        keeps_normed: The normed states before they are multiplied by the norm's weight; fused norms
            compute them again.
        keeps_logits: The memory of a chunk of logits, from one microbatch to the next.
    """

    keeps_scores: bool = True
    keeps_normed: bool = True
    keeps_logits: bool = True


@dataclass(frozen=True)
class Widths:
    """The numbers that sizes are made of; see the module."""

    config: ModelConfig
    w: int
    kernels: Kernels

    @property
    def inner(self) -> int:
        """I, the width of all heads together."""
        return self.config.num_heads * self.config.d_kv


def saved(
    config: ModelConfig, load: Load, w: int, kernels: Kernels | None = None
) -> Iterator[Saved]:
    """Yields all that the forward pass saves, the loss left out.

    Weights themselves are not listed; copies of them are.
    """
    widths = Widths(config, w, kernels or Kernels())
    encoder, decoder, cross = load.scores()
    source, target = load.num_source_tokens, load.num_target_tokens
    layers, decoder_layers = config.num_layers, config.num_decoder_layers
    yield Saved("token ids", IDS * load.num_tokens)
    yield from _times(layers, "encoder", _self_attention(widths, source, encoder))
    yield from _times(layers, "encoder", _feed_forward(widths, source))
    yield from _norm(widths, source)
    yield Saved("memory", w * config.d_model * source)
    yield Saved("cross keys, values", w * 2 * widths.inner * decoder_layers * source)
    yield Saved("joint k,v weights", w * 2 * widths.inner * decoder_layers * config.d_model)
    yield from _times(decoder_layers, "decoder", _self_attention(widths, target, decoder))
    yield from _times(decoder_layers, "decoder", _cross_attention(widths, target, cross))
    yield from _times(decoder_layers, "decoder", _feed_forward(widths, target))
    yield from _norm(widths, target)
    if widths.kernels.keeps_scores:
        yield from _biases(config, load)


def _times(layers: int, stack: str, one: Iterator[Saved]) -> Iterator[Saved]:
    for name, num_bytes in one:
        yield Saved(f"{stack} {name}", layers * num_bytes)


def _norm(widths: Widths, tokens: int) -> Iterator[Saved]:
    # The residual stream is fp32 always: sums of it with halves are fp32.
    width = FP32 * widths.config.d_model
    yield Saved("residual stream", width * tokens)
    if widths.kernels.keeps_normed:
        yield Saved("normed, before its weight", width * tokens)
    yield Saved("1 / rms", FP32 * tokens)


def _self_attention(widths: Widths, tokens: int, scores: int) -> Iterator[Saved]:
    config, w, inner = widths.config, widths.w, widths.inner
    yield from _norm(widths, tokens)
    yield Saved("input of q,k,v", w * config.d_model * tokens)
    yield Saved("joint q,k,v weights", w * 3 * inner * config.d_model)
    yield Saved("queries, keys, values", w * 3 * inner * tokens)
    yield _scores(widths, tokens, scores)
    yield Saved("gathered", w * inner * tokens)
    yield from _cast(widths, inner * config.d_model)


def _scores(widths: Widths, tokens: int, scores: int) -> Saved:
    heads = widths.config.num_heads
    if widths.kernels.keeps_scores:
        return Saved("attention weights", widths.w * heads * scores)
    return Saved("log-sums of attention", FP32 * heads * tokens)


def _cross_attention(widths: Widths, tokens: int, scores: int) -> Iterator[Saved]:
    config, w, inner = widths.config, widths.w, widths.inner
    yield from _norm(widths, tokens)
    yield Saved("input of q", w * config.d_model * tokens)
    yield Saved("queries", w * inner * tokens)
    yield _scores(widths, tokens, scores)
    yield Saved("gathered", w * inner * tokens)
    yield from _cast(widths, 2 * inner * config.d_model)


def _feed_forward(widths: Widths, tokens: int) -> Iterator[Saved]:
    config, w = widths.config, widths.w
    yield from _norm(widths, tokens)
    yield Saved("input of wi", w * config.d_model * tokens)
    if config.is_gated:
        yield Saved("joint wi weights", w * 2 * config.d_ff * config.d_model)
        yield Saved("gate, up", w * 2 * config.d_ff * tokens)
        yield Saved("gelu, product", w * 2 * config.d_ff * tokens)
        yield from _cast(widths, config.d_ff * config.d_model)
    else:
        yield Saved("relu", w * config.d_ff * tokens)
        yield from _cast(widths, 2 * config.d_ff * config.d_model)


def _cast(widths: Widths, weights: int) -> Iterator[Saved]:
    """Yields autocast's copy of weights that are multiplied one by one."""
    if widths.w != FP32:
        yield Saved("half-precision weights", widths.w * weights)


def _biases(config: ModelConfig, load: Load) -> Iterator[Saved]:
    """Yields the relative biases, one for each stack: matrices, places in the table, the mask."""
    longest_source, longest_target = load.longest()
    squares = longest_source**2 + longest_target**2
    yield Saved("relative bias", FP32 * config.num_heads * squares)
    yield Saved("distances", IDS * (2 * longest_source + 2 * longest_target - 2))
    yield Saved("causal mask", longest_target**2)


def loss_workspace(config: ModelConfig, load: Load, w: int, kernels: Kernels) -> float:
    """Returns the bytes that the loss takes once and keeps: the logits of a chunk, on a CPU."""
    if not kernels.keeps_logits or w != FP32:
        return 0.0
    columns = -(-config.vocab_size // ALIGNED_FLOATS) * ALIGNED_FLOATS
    return FP32 * min(load.num_target_tokens, CHUNK_ROWS) * columns


def loss_peak(config: ModelConfig, load: Load, w: int, kernels: Kernels) -> float:
    """Returns the bytes that the head and the loss have at their worst moment, beside those kept.

    The final states, their scaled copy and its gradient; the fp32 gradient of the table. Where
    logits have no memory of their own, those of two chunks, because a new chunk is made while the
    old one is still there; in halves, each chunk twice and the table and its gradient once more.
    """
    target, table = load.num_target_tokens, config.vocab_size * config.d_model
    rows = min(target, CHUNK_ROWS)
    fixed = 3 * FP32 * config.d_model * target + FP32 * table
    if kernels.keeps_logits and w == FP32:
        return fixed + FP32 * rows * config.d_model
    chunks = (2 if target > CHUNK_ROWS else 1) * rows * config.vocab_size
    halves = 0 if w == FP32 else w * (chunks + 2 * table)
    return fixed + FP32 * chunks + halves


def backward_peak(config: ModelConfig, load: Load, w: int) -> float:
    """Returns the bytes beside the saved ones when the backward pass is in the last feed-forward.

    The gradients of the table, of the residual stream, and of both sides of the nonlinearity; what
    the final norm saved (its input, that normed, the root mean squares) has been given back.
    """
    target, table = load.num_target_tokens, config.vocab_size * config.d_model
    states = config.d_model * target - 2 * config.d_model * target - target
    return FP32 * (table + states) + w * 2 * config.d_ff * target
