"""Who attends to whom on padded rows, as generation has them, with or without a cache.

In: token masks, T5's relative bias, a cache. Out: the functions that `chatlm.model.attention`
calls. Has no weights. Training batches are flat: see `chatlm.model.routes`.

Shapes: B batch, T query length, S key length, H heads, K d_kv.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from chatlm.model.attention import AttendCross, AttendSelf
from chatlm.model.cache import Cache, KeysValues


def attend(
    query: Float[Tensor, "B T H K"],
    key: Float[Tensor, "B H S K"],
    value: Float[Tensor, "B H S K"],
    bias: Float[Tensor, "#B #H #T S"],
) -> Float[Tensor, "B T H K"]:
    """Return softmax(query key^T + bias) value.

    T5's oddity: the scores are not divided by sqrt(d_kv); the initialisation of `q` absorbs it.
    """
    gathered = F.scaled_dot_product_attention(
        query.transpose(1, 2), key, value, attn_mask=bias.to(query.dtype), scale=1.0
    )
    return gathered.transpose(1, 2)


def by_head(states: Float[Tensor, "B S 2 H K"]) -> KeysValues:
    """Return keys and values, (B, H, S, K) each."""
    key, value = states.transpose(1, 3).unbind(2)
    return key, value


def attend_self(bias: Float[Tensor, "#B #H T S"]) -> AttendSelf:
    """Return attention of the tokens of each row to each other under `bias`, masks included."""

    def attended(projected: Float[Tensor, "B T 3 H K"]) -> Float[Tensor, "B T H K"]:
        return attend(projected[:, :, 0], *by_head(projected[:, :, 1:]), bias)

    return attended


def attend_cached(bias: Float[Tensor, "#B #H T S"], cache: Cache, layer: int) -> AttendSelf:
    """Return the same for new tokens, which see those in the cache too and are added to it."""

    def attended(projected: Float[Tensor, "B T 3 H K"]) -> Float[Tensor, "B T H K"]:
        return attend(projected[:, :, 0], *cache.extend(layer, by_head(projected[:, :, 1:])), bias)

    return attended


def attend_cross(bias: Float[Tensor, "#B 1 1 S"]) -> AttendCross:
    """Return attention to the source; `bias` hides its padding."""

    def attended(
        query: Float[Tensor, "B T H K"], keys_values: KeysValues
    ) -> Float[Tensor, "B T H K"]:
        return attend(query, *keys_values, bias)

    return attended
