"""T5's relative positions: a distance falls into a bucket, a bucket has one bias per head.

In: distances (key position - query position), a learned table. Out: bucket ids, and the bias that
is added to the attention scores. T5 has no other notion of position; it is computed once per stack
and shared by its layers.

Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def relative_buckets(
    distance: Int[Tensor, "*shape"], bidirectional: bool, num_buckets: int, max_distance: int
) -> Int[Tensor, "*shape"]:
    """Return the bucket, 0 to num_buckets - 1, of each distance.

    The nearer half of the buckets holds one distance each; the other half grows logarithmically
    up to `max_distance`, and its last bucket holds everything beyond.

    Args:
        distance: Key position minus query position, in tokens.
        bidirectional: Whether later keys get buckets of their own (encoder). Otherwise (decoder)
            they all fall into bucket 0, where the causal mask hides them.
        num_buckets: Size of the table.
        max_distance: Distance, in tokens, from which on all share the last bucket.
    """
    if bidirectional:
        num_buckets //= 2
        side = (distance > 0).long() * num_buckets
        distance = distance.abs()
    else:
        side = torch.zeros_like(distance)
        distance = (-distance).clamp(min=0)
    num_exact = num_buckets // 2
    # The order of these operations decides which way a distance on an edge is rounded.
    growth = torch.log(distance.clamp(min=1).float() / num_exact)
    growth = growth / math.log(max_distance / num_exact) * (num_buckets - num_exact)
    far = (num_exact + growth.long()).clamp(max=num_buckets - 1)
    return side + torch.where(distance < num_exact, distance, far)


def relative_bias(
    table: Float[Tensor, "buckets H"],
    query_length: int,
    key_length: int,
    bidirectional: bool,
    max_distance: int,
) -> Float[Tensor, "1 H T S"]:
    """Return the bias of every head for the last `query_length` of `key_length` positions.

    The bias depends on the distance alone, so each distance is looked up once and the matrix is
    its sliding window: no T x S table of indices, and a gradient without scattered additions.
    """
    distance = torch.arange(1 - key_length, query_length, device=table.device)
    buckets = relative_buckets(distance, bidirectional, table.shape[0], max_distance)
    per_distance = table[buckets].t()
    return per_distance.unfold(1, key_length, 1).flip(1)[None]
