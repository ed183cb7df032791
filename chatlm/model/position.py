"""T5's relative positions: a distance falls into a bucket, a bucket has one bias per head.

In: distances (key position - query position), a learned table. Out: bucket ids, and the bias that
is added to the attention scores. T5 has no other notion of position; it is computed once per stack
and shared by its layers.

Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chatlm.model.config import ModelConfig

ByDistance = Float[Tensor, "H distances"]


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


class RelativeBias(nn.Module):
    """A learned bias for every head and bucket of distances.

    Attributes:
        weight: (buckets, H).
    """

    def __init__(self, config: ModelConfig, *, bidirectional: bool) -> None:
        super().__init__()
        shape = (config.relative_attention_num_buckets, config.num_heads)
        self.weight = nn.Parameter(torch.randn(shape))
        self.bidirectional = bidirectional
        self.max_distance = config.relative_attention_max_distance

    def forward(self, back: int, ahead: int) -> ByDistance:
        """Return the bias for the distances -back .. ahead; entry 0 is that of -back.

        A distance is the key's position minus the query's. Each is looked up once, so the gradient
        of a bucket is a sum over its distances.
        """
        distance = torch.arange(-back, ahead + 1, device=self.weight.device)
        buckets = relative_buckets(
            distance, self.bidirectional, len(self.weight), self.max_distance
        )
        return self.weight[buckets].t()


def bias_matrix(bias: RelativeBias, query_length: int, key_length: int) -> Float[Tensor, "H T S"]:
    """Return the bias of the last `query_length` of `key_length` positions.

    The bias depends on the distance alone, so the matrix is a sliding window over the distances:
    no T x S table of indices, and a gradient without scattered additions.
    """
    distances = bias(key_length - 1, query_length - 1)
    return distances.unfold(1, key_length, 1).flip(1)
