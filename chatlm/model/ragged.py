"""Attention over flat rows of pairs, one pair after another: the `math` route.

In: projections of N real tokens and where each pair begins and ends. Out: what each token gathers,
with gradients. There is no padding and no mask: a pair never meets another one, and its scores fit
into the cache of a CPU core. Works on any device, but is meant for CPUs.

Shapes: N query tokens, M key tokens, P pairs, H heads, K d_kv, L tokens of the longest pair.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx


class Spans(NamedTuple):
    """Where the pairs lie: pair p has the queries [queries[p], queries[p + 1]), keys likewise."""

    queries: Sequence[int]
    keys: Sequence[int]

    def pairs(self) -> list[tuple[slice, slice]]:
        """Return the slices of queries and keys of every pair that has both."""
        queries, keys = self.queries, self.keys
        return [
            (slice(queries[p], queries[p + 1]), slice(keys[p], keys[p + 1]))
            for p in range(len(queries) - 1)
            if queries[p + 1] > queries[p] and keys[p + 1] > keys[p]
        ]


def self_attention(
    projected: Float[Tensor, "N 3 H K"],
    bias: Float[Tensor, "#H L L"] | None,
    offsets: Sequence[int],
    dropout_rate: float = 0.0,
) -> Float[Tensor, "N H K"]:
    """Return what every token gathers from its own pair.

    Args:
        projected: Queries, keys and values.
        bias: Added to the scores of a pair of length l as `bias[:, :l, :l]`, masks included.
        offsets: P + 1 positions; pair p holds the tokens from offsets[p] up to offsets[p + 1].
        dropout_rate: Share of the attention weights that is dropped.
    """
    return _Attend.apply(projected, None, bias, Spans(offsets, offsets), dropout_rate)  # pyright: ignore[reportReturnType]


def cross_attention(
    query: Float[Tensor, "N H K"],
    keys_values: Float[Tensor, "M 2 H K"],
    spans: Spans,
    dropout_rate: float = 0.0,
) -> Float[Tensor, "N H K"]:
    """Return what every query gathers from the keys and values of its pair; 0 if there are none."""
    return _Attend.apply(query, keys_values, None, spans, dropout_rate)  # pyright: ignore[reportReturnType]


def _parts(projected: Tensor, keys_values: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values (·, H, K) as views."""
    if keys_values is None:
        query, key, value = projected.unbind(1)
    else:
        query, (key, value) = projected, keys_values.unbind(1)
    return query, key, value


class _Attend(torch.autograd.Function):
    """softmax(query key^T + bias) value for each pair; gradients go where the views point."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        projected: Tensor,
        keys_values: Tensor | None,
        bias: Tensor | None,
        spans: Spans,
        dropout_rate: float,
    ) -> Tensor:
        parts = _parts(projected, keys_values)
        gathered = torch.zeros_like(parts[0], memory_format=torch.contiguous_format)
        keeps = any(t is not None and t.requires_grad for t in (projected, keys_values, bias))
        saved = []
        with torch.autocast(projected.device.type, enabled=False):
            for queries, keys in spans.pairs():
                weights = _weights(parts, queries, keys, bias)
                kept = _kept(weights, dropout_rate)
                value = _by_head(parts[2][keys])
                used = weights if kept is None else weights * kept
                gathered[queries] = torch.bmm(used, value).transpose(0, 1)
                saved += [weights] if kept is None else [weights, kept]
        if keeps:
            ctx.save_for_backward(projected, keys_values, bias, *saved)  # pyright: ignore[reportArgumentType]  None is allowed
            ctx.spans, ctx.has_dropout = spans, bool(dropout_rate)  # pyright: ignore[reportAttributeAccessIssue]
        return gathered

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        projected, keys_values, bias, *saved = ctx.saved_tensors
        parts = _parts(projected, keys_values)
        d_projected = torch.zeros_like(projected)
        d_keys_values = None if keys_values is None else torch.zeros_like(keys_values)
        d_parts = _parts(d_projected, d_keys_values)
        d_bias = None
        if bias is not None and ctx.needs_input_grad[2]:
            d_bias = torch.zeros_like(bias, dtype=torch.float32)
        per_pair = 2 if ctx.has_dropout else 1
        for index, (queries, keys) in enumerate(ctx.spans.pairs()):
            kept = saved[2 * index + 1] if ctx.has_dropout else None
            weights = saved[per_pair * index]
            d_scores = _pair_backward(
                parts, d_parts, (queries, keys), weights, kept, upstream[0][queries]
            )
            if d_bias is not None:
                rows, columns = d_scores.shape[1:]
                d_bias[:, :rows, :columns] += d_scores
        if d_bias is not None and bias is not None:
            d_bias = d_bias.to(bias.dtype)
        return d_projected, d_keys_values, d_bias, None, None


def _by_head(states: Tensor) -> Tensor:
    """Return (H, l, K) for the (l, H, K) of one pair."""
    return states.transpose(0, 1)


def _weights(
    parts: tuple[Tensor, Tensor, Tensor], queries: slice, keys: slice, bias: Tensor | None
) -> Tensor:
    """Return the attention weights of one pair, (H, queries, keys)."""
    query, key = _by_head(parts[0][queries]), _by_head(parts[1][keys]).transpose(1, 2)
    if bias is None:
        scores = torch.bmm(query, key)
    else:
        added = bias[:, : query.shape[1], : key.shape[2]].to(query.dtype)
        scores = torch.baddbmm(added, query, key)
    return F.softmax(scores, dim=-1)


def _kept(weights: Tensor, dropout_rate: float) -> Tensor | None:
    """Return the factors of dropout, 0 or 1 / (1 - rate), or None without it."""
    if not dropout_rate:
        return None
    return torch.empty_like(weights).bernoulli_(1 - dropout_rate).div_(1 - dropout_rate)


def _pair_backward(
    parts: tuple[Tensor, Tensor, Tensor],
    d_parts: tuple[Tensor, Tensor, Tensor],
    place: tuple[slice, slice],
    weights: Tensor,
    kept: Tensor | None,
    upstream: Tensor,
) -> Tensor:
    """Write the gradients of one pair into `d_parts`; return that of its scores, (H, l, m)."""
    queries, keys = place
    d_gathered = _by_head(upstream)
    used = weights if kept is None else weights * kept
    d_parts[2][keys] = torch.bmm(used.transpose(1, 2), d_gathered).transpose(0, 1)
    d_weights = torch.bmm(d_gathered, _by_head(parts[2][keys]).transpose(1, 2))
    if kept is not None:
        d_weights *= kept
    d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
    d_parts[0][queries] = torch.bmm(d_scores, _by_head(parts[1][keys])).transpose(0, 1)
    d_parts[1][keys] = torch.bmm(d_scores.transpose(1, 2), _by_head(parts[0][queries])).transpose(
        0, 1
    )
    return d_scores
