"""Attention within pairs by padding inside attention only: the route that runs anywhere.

In: queries, keys and values of all pairs one behind the other, offsets. Out: what each query
gathers from its own pair. Each pair becomes a row of a (P, H, T, S) batch under a dense additive
mask, and PyTorch's `scaled_dot_product_attention` picks the kernel. Memory and time grow with the
longest pair of the batch, so it suits batches of like lengths; it is the only fused one with
dropout.

Shapes: Nq queries and Nk keys of P pairs, at most T and S a pair, H heads, K width of a head.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from chatlm.model.offsets import pair_numbers, positions

KEY_MULTIPLE = 8
"""Keys a row are filled up to a multiple of this, or CUDA's kernels copy the mask to get one."""

HIDDEN = -1e9
"""Bias of a hidden score: its weight underflows to 0. Far from the lowest number of bf16, which
the kernels' change to base 2 would send to minus infinity, and a row of those to NaN."""


def padded_attention(
    query: Float[Tensor, "Nq H K"],
    key: Float[Tensor, "Nk H K"],
    value: Float[Tensor, "Nk H K"],
    query_offsets: Int[Tensor, " P_and_1"],
    key_offsets: Int[Tensor, " P_and_1"],
    max_query: int,
    max_key: int,
    bias: Float[Tensor, "H T S"] | None,
    causal: bool,
    scale: float,
    dropout_rate: float,
) -> Float[Tensor, "Nq H K"]:
    """Return softmax(scale query key^T + bias) value within pairs; zeros where a pair has no key.

    Args:
        query: Queries of all pairs.
        key: Their keys.
        value: Their values.
        query_offsets: Where the queries of each pair start.
        key_offsets: Where its keys start.
        max_query: T, at least the most queries that any pair has.
        max_key: S, at least the most keys that any pair has.
        bias: Of each query place and key place, the same for all pairs; gets a gradient if it
            wants one.
        causal: Whether keys behind the query's place are hidden.
        scale: Factor of the scores.
        dropout_rate: Share of weights that are dropped.
    """
    num_pairs, width = len(query_offsets) - 1, -(-max_key // KEY_MULTIPLE) * KEY_MULTIPLE
    query_slots = _slots(query_offsets, len(query), max_query)
    key_slots = _slots(key_offsets, len(key), width)
    mask = _mask(key_offsets, max_query, max_key, width, bias, causal, query.dtype)
    gathered = F.scaled_dot_product_attention(
        _padded(query, query_slots, num_pairs, max_query),
        _padded(key.to(query.dtype), key_slots, num_pairs, width),
        _padded(value.to(query.dtype), key_slots, num_pairs, width),
        attn_mask=mask,
        dropout_p=dropout_rate,
        scale=scale,
    )
    return gathered.transpose(1, 2).flatten(0, 1).index_select(0, query_slots)


def _slots(offsets: Tensor, num_tokens: int, width: int) -> Int[Tensor, " N"]:
    """Return where each token stands when every pair takes `width` slots.

    Tokens behind the last pair would have none: offsets must end at `num_tokens`.
    """
    return (pair_numbers(offsets, num_tokens) * width + positions(offsets, num_tokens)).long()


def _padded(
    states: Float[Tensor, "N H K"], slots: Int[Tensor, " N"], num_pairs: int, width: int
) -> Float[Tensor, "P H width K"]:
    """Return the states as rows of `width`, zeros where a pair has no token.

    Zeros of the values make a query without any key gather zeros, as in the other routes.
    """
    rows = states.new_zeros(num_pairs * width, *states.shape[1:])
    rows = rows.index_copy(0, slots, states)
    return rows.unflatten(0, (num_pairs, width)).transpose(1, 2)


def _mask(
    key_offsets: Tensor,
    max_query: int,
    max_key: int,
    width: int,
    bias: Tensor | None,
    causal: bool,
    dtype: torch.dtype,
) -> Float[Tensor, "P #H T width"]:
    """Return the bias where a query may see a key and `HIDDEN` elsewhere."""
    columns = torch.arange(width, device=key_offsets.device)
    visible = (columns < key_offsets.diff()[:, None])[:, None, None, :]
    if causal:
        rows = torch.arange(max_query, device=key_offsets.device)
        visible = visible & (columns <= rows[:, None])
    seen = torch.zeros((), dtype=dtype, device=key_offsets.device)
    if bias is not None:
        seen = F.pad(bias, (0, width - max_key)).to(dtype)
    mask = torch.where(visible, seen, HIDDEN)
    return mask.expand(-1, -1, max_query, -1)
