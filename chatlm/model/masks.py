"""Who may attend to whom: small pure functions that make masks, and one that turns them to bias.

In: token masks, lengths. Out: boolean masks (True = may attend) whose dimensions
broadcast to (B, H, T, S), and the additive form that attention takes. Masks combine with `&`.
Knows nothing of layers or weights.

Shapes: B batch, H heads, T query length, S key length.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TokenMask = Bool[Tensor, "B S"] | Int[Tensor, "B S"]
"""0 or False = padding; True or any positive id = a real token."""


def padding_mask(attention_mask: TokenMask) -> Bool[Tensor, "B 1 1 S"]:
    """Return the mask that hides padded keys from every query."""
    return (attention_mask != 0)[:, None, None, :]


def causal_mask(
    query_length: int, key_length: int, device: torch.device | str = "cpu"
) -> Bool[Tensor, "1 1 T S"]:
    """Return the mask that hides the future.

    The queries are the last `query_length` of `key_length` positions, so that one query over a
    cache of n keys sees all n.
    """
    mask = torch.ones(query_length, key_length, dtype=torch.bool, device=device)
    return mask.tril(key_length - query_length)[None, None]


def additive_bias(
    mask: Bool[Tensor, "..."],
    bias: Float[Tensor, "..."] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "..."]:
    """Return `bias` (or 0) where the mask is True and the lowest finite number elsewhere.

    Mask and bias broadcast to each other.

    Finite, so that a query that sees nothing (a padded one) gets an even spread and not NaN; and
    chosen, not added, so that the sum cannot overflow to minus infinity in half precision.
    """
    hidden = torch.tensor(torch.finfo(dtype).min, dtype=dtype, device=mask.device)
    seen = torch.zeros((), dtype=dtype, device=mask.device) if bias is None else bias.to(dtype)
    return torch.where(mask, seen, hidden)
