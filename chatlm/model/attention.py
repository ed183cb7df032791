"""Multi-head attention as T5 does it: its projections.

In: hidden states, and a function that knows who attends to whom. Out: hidden states. Which
function that is (`chatlm.model.routes` for flat training batches, `chatlm.model.rows` for the
padded rows of generation) is none of the projections' business.

Shapes: B batch, T query length, S key length, D d_model, H heads, K d_kv.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from chatlm.model.config import ModelConfig
from chatlm.model.layers import joint_linear

AttendSelf = Callable[[Float[Tensor, "*B 3 H K"]], Float[Tensor, "*B H K"]]
"""Queries, keys and values of the same tokens in; what each token gathers out."""

AttendCross = Callable[[Float[Tensor, "*B H K"], Any], Float[Tensor, "*B H K"]]
"""Queries of the target, keys and values of the source in; what each target token gathers out."""


class Attention(nn.Module):
    """The four projections of one attention; `q`, `k`, `v` and `o` stay separate and plain."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.num_heads = config.num_heads
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)

    def to_itself(
        self, states: Float[Tensor, "*B D"], attend_self: AttendSelf
    ) -> Float[Tensor, "*B D"]:
        """Return what the tokens gather from each other."""
        projected = joint_linear(states, (self.q, self.k, self.v))
        return self.o(attend_self(projected.unflatten(-1, (3, self.num_heads, -1))).flatten(-2))

    def to_memory(
        self,
        states: Float[Tensor, "*B D"],
        keys_values: Any,
        attend_cross: AttendCross,
    ) -> Float[Tensor, "*B D"]:
        """Return what the tokens gather from the source, of which `keys_values` were made."""
        query = self.q(states).unflatten(-1, (self.num_heads, -1))
        return self.o(attend_cross(query, keys_values).flatten(-2))
