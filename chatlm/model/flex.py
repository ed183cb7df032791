"""Attention within pairs on a GPU, for any bias by distance: PyTorch's FlexAttention.

In: queries, keys and values of all pairs in one row, one pair behind the other; offsets. Out: what
each query gathers from its own pair. Blocks of 128 x 128 scores in which no query meets a key of
its pair are never computed, and no score is ever stored.

On a CPU there is a forward pass only (the tests use it); training there is `chatlm.model.ragged`.

Shapes: N tokens, P pairs, H heads, K width of a head.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from chatlm.model.offsets import pair_numbers

BLOCK = 128
"""Side of the squares of scores that are computed or skipped as one."""


def make_block_mask(offsets: Int[Tensor, " P_and_1"], num_tokens: int, causal: bool) -> BlockMask:
    """Return the mask of self-attention within pairs, for all layers of a batch.

    Args:
        offsets: Where each pair starts, int32.
        num_tokens: N; tokens behind the last pair form one more.
        causal: Whether later tokens of the pair are hidden.
    """
    numbers = pair_numbers(offsets, num_tokens)
    return _block_mask(numbers, numbers, causal)


def make_cross_block_mask(
    query_offsets: Int[Tensor, " P_and_1"],
    key_offsets: Int[Tensor, " P_and_1"],
    num_queries: int,
    num_keys: int,
) -> BlockMask:
    """Return the mask that lets the target of each pair see the whole source of that pair."""
    return _block_mask(
        pair_numbers(query_offsets, num_queries), pair_numbers(key_offsets, num_keys), False
    )


def flex_self_attention(
    query: Float[Tensor, "N H K"],
    key: Float[Tensor, "N H K"],
    value: Float[Tensor, "N H K"],
    block_mask: BlockMask,
    bias_per_distance: Float[Tensor, "H distances"] | None,
    scale: float,
) -> Float[Tensor, "N H K"]:
    """Return softmax(scale query key^T + bias) value within pairs.

    Args:
        query: Queries of all pairs.
        key: Their keys.
        value: Their values.
        block_mask: From `make_block_mask`.
        bias_per_distance: For every head the bias of each distance, key position minus query
            position, from -(L-1) to L-1; in fp32, so that its gradient is summed in fp32; computed
            from a parameter, but none itself (a captured parameter gets no right gradient). Farther
            distances share the ends of the table, as they do in T5's buckets from
            `relative_attention_max_distance` on, so L need not be the length of any pair. A longer
            table spreads the additions into the gradient, which wait for each other.
        scale: Factor of the scores.
    """
    if bias_per_distance is None:
        return _attend(query, key, value, block_mask, None, scale)
    assert bias_per_distance.dtype == torch.float32, "the bias must be in fp32"
    # One row of memory a head, whatever view the table was: the kernel adds gradients into it.
    bias = bias_per_distance.contiguous()
    farthest = bias.shape[1] // 2

    return _attend(
        query,
        key,
        value,
        block_mask,
        lambda score, _batch, head, q, kv: (
            score + bias[head, (kv - q).clamp(-farthest, farthest) + farthest]
        ),
        scale,
    )


def flex_cross_attention(
    query: Float[Tensor, "Nq H K"],
    key: Float[Tensor, "Nk H K"],
    value: Float[Tensor, "Nk H K"],
    block_mask: BlockMask,
    scale: float,
) -> Float[Tensor, "Nq H K"]:
    """Return softmax(scale query key^T) value; zeros for queries whose pair has no key.

    For what `chatlm.model.varlen` does not do: fp32.
    """
    return _attend(query, key, value, block_mask, None, scale)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_mask: BlockMask,
    score_mod: Callable[..., Tensor] | None,
    scale: float,
) -> Tensor:
    # Inside a compiled model the call is compiled with all the rest.
    alone = query.is_cuda and not torch.compiler.is_compiling()
    attention = _compiled() if alone else flex_attention
    row = (states.transpose(0, 1)[None] for states in (query, key, value))
    gathered: Any = attention(*row, score_mod=score_mod, block_mask=block_mask, scale=scale)
    return gathered.squeeze(0).transpose(0, 1)


@functools.cache
def _compiled() -> Callable[..., Any]:
    """Return the fused kernel; called as it is, the function would store all N x N scores."""
    return torch.compile(flex_attention)


def _block_mask(
    query_numbers: Int[Tensor, " Nq"], key_numbers: Int[Tensor, " Nk"], causal: bool
) -> BlockMask:
    """Return the mask that lets tokens of one pair see each other.

    The numbers of pairs never fall along a row, so two blocks have to do with each other only if
    their ranges of numbers meet: the first and the last number of each block decide, and the
    Nq x Nk scores need not be asked one by one as `create_block_mask` does.
    """
    first_q, last_q, whole_q = _ranges(query_numbers)
    first_k, last_k, whole_k = _ranges(key_numbers)
    meet = (first_q[:, None] <= last_k) & (first_k <= last_q[:, None])
    same = (first_q[:, None] == last_k) & (first_k == last_q[:, None])
    full = meet & same & whole_q[:, None] & whole_k
    if causal:
        rows = torch.arange(len(first_q), device=meet.device)[:, None]
        columns = torch.arange(len(first_k), device=meet.device)
        meet, full = meet & (columns <= rows), full & (columns < rows)

    return BlockMask.from_kv_blocks(
        *_listed(meet & ~full),
        *_listed(full),
        BLOCK_SIZE=BLOCK,
        mask_mod=_visible(query_numbers, key_numbers, causal),
        seq_lengths=(len(query_numbers), len(key_numbers)),
    )


def _visible(query_numbers: Tensor, key_numbers: Tensor, causal: bool) -> Callable[..., Tensor]:
    """Return the function that the kernel asks about single scores.

    A lambda, and so is the one that adds the bias: they are traced into the kernel, which the type
    checks that the tests wrap around named functions would prevent.
    """
    if causal:
        return lambda _batch, _head, q, kv: (query_numbers[q] == key_numbers[kv]) & (kv <= q)
    return lambda _batch, _head, q, kv: query_numbers[q] == key_numbers[kv]


def _ranges(numbers: Int[Tensor, " N"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return of each block the first number, the last number, and whether the block is whole."""
    starts = torch.arange(0, len(numbers), BLOCK, device=numbers.device)
    ends = (starts + BLOCK).clamp(max=len(numbers))
    return numbers[starts], numbers[ends - 1], starts + BLOCK == ends


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each row of blocks how many are True, and their columns, these first."""
    count = blocks.sum(dim=1, dtype=torch.int32)
    columns = blocks.int().argsort(dim=1, descending=True, stable=True).int()
    return count[None, None], columns[None, None]
