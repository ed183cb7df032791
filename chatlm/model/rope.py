"""Rotary positions: queries and keys are turned by an angle that grows with their place.

In: places of tokens, queries or keys. Out: the same, turned; the product of a query and a key then
depends on their distance alone. Instead of T5's bias (`position=rope`), so attention needs no bias
and any fused kernel will do. Cross-attention is not turned: question and answer share no places.

Turning changes no length, and the initialisation of `q` stands in for the missing 1/sqrt(d_kv) as
before: scores keep T5's scale of 1.

Source: Su et al. 2021, arXiv:2104.09864. Differs in that dimension i is paired with i + K/2, not
with its neighbour: the same up to an order of dimensions that `q` and `k` learn anyway.

Shapes: T tokens, H heads, K width of a head.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

BASE = 10_000.0
"""The slowest pair of dimensions makes a full turn in 2 pi BASE tokens."""


class Rotation(NamedTuple):
    """What every layer turns its queries and keys by, made once a batch, fp32."""

    cos: Float[Tensor, "*B T half_K"]
    sin: Float[Tensor, "*B T half_K"]


def rotation(positions: Int[Tensor, "*B T"], width: int, base: float = BASE) -> Rotation:
    """Return the rotation of tokens at `positions`.

    Args:
        positions: Places in the pair, from 0; tokens decoded later start at the cache's length.
        width: K, an even number.
        base: See `BASE`.
    """
    assert width % 2 == 0, f"heads of width {width} have no pairs of dimensions"
    exponents = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    angles = positions[..., None].float() * base**-exponents
    return Rotation(angles.cos(), angles.sin())


def rotate(states: Float[Tensor, "*B T H K"], by: Rotation) -> Float[Tensor, "*B T H K"]:
    """Return queries or keys, turned; computed in fp32, returned in the dtype of `states`."""
    first, second = states.float().chunk(2, dim=-1)
    cos, sin = by.cos[..., None, :], by.sin[..., None, :]
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(states.dtype)


def rotate_projected(
    projected: Float[Tensor, "*B T 3 H K"], by: Rotation
) -> Float[Tensor, "*B T 3 H K"]:
    """Return queries and keys turned, values as they are."""
    query, key, value = projected.unbind(-3)
    return torch.stack((rotate(query, by), rotate(key, by), value), dim=-3)
