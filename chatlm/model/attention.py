"""Multi-head attention as T5 does it, for self-attention and cross-attention alike.

In: hidden states, keys and values, an additive bias that already holds positions and masks.
Out: hidden states. Makes no mask, keeps no cache.

Shapes: B batch, T query length, S key length, D d_model, H heads, K d_kv.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from chatlm.model.config import ModelConfig

KeysValues = tuple[Float[Tensor, "B H S K"], Float[Tensor, "B H S K"]]


def attend(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B H S K"],
    value: Float[Tensor, "B H S K"],
    bias: Float[Tensor, "#B #H #T S"],
    dropout_rate: float = 0.0,
) -> Float[Tensor, "B H T K"]:
    """Return softmax(query key^T + bias) value.

    T5's oddity: the scores are not divided by sqrt(d_kv); the initialisation of `q` absorbs it.
    """
    # On a CPU a bias that needs gradients sends the fused kernel to its unfused path, which is no
    # faster than the three lines below; without them (cross-attention has no learned bias) it
    # saves 4 % of a training step and neither gains nor loses when decoding.
    if query.is_cuda or not bias.requires_grad:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias.to(query.dtype), dropout_p=dropout_rate, scale=1.0
        )
    weights = torch.softmax(query @ key.transpose(-1, -2) + bias, dim=-1)
    if dropout_rate:
        weights = F.dropout(weights, dropout_rate)
    return weights.to(value.dtype) @ value


class Attention(nn.Module):
    """The four projections of one attention; `q`, `k`, `v` and `o` stay separate and plain."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.num_heads = config.num_heads
        self.dropout_rate = config.dropout_rate
        self.q = nn.Linear(config.d_model, inner, bias=False)
        self.k = nn.Linear(config.d_model, inner, bias=False)
        self.v = nn.Linear(config.d_model, inner, bias=False)
        self.o = nn.Linear(inner, config.d_model, bias=False)

    def _heads(self, states: Float[Tensor, "B T inner"]) -> Float[Tensor, "B H T K"]:
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def keys_values(self, states: Float[Tensor, "B S D"]) -> KeysValues:
        """Return what `states` offer to be attended to: keys and values, (B, H, S, K) each."""
        return self._heads(self.k(states)), self._heads(self.v(states))

    def forward(
        self,
        states: Float[Tensor, "B T D"],
        keys_values: KeysValues,
        bias: Float[Tensor, "#B #H #T S"],
    ) -> Float[Tensor, "B T D"]:
        """Return what the queries made of `states` gather from `keys_values` under `bias`."""
        key, value = keys_values
        dropout_rate = self.dropout_rate if self.training else 0.0
        gathered = attend(self._heads(self.q(states)), key, value, bias, dropout_rate)
        return self.o(gathered.transpose(1, 2).flatten(2))
