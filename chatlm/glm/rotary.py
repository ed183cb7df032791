"""Two-dimensional rotary positions: each half of a head is turned by one of a token's positions.

In: positions, queries or keys. Out: the same, turned. Inside a half, dimension i is paired with
dimension i + K/4.

The published code computes the angles in fp16, and the published weights were trained with them:
the cosine is off by up to 0.01 at position 64 and 0.16 at 2047. `precision="fp16"` rounds in the
same places. Differs from it in that cosines and products are computed in fp32 whatever the dtype
of the model, which is the same up to the last bit of fp16, and better in bf16.

Shapes: B batch, T tokens, H heads, K width of a head, F = K / 4 frequencies of a half.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

BASE = 10_000.0


class Rotation(NamedTuple):
    """What every layer turns its queries and keys by, made once a batch, fp32."""

    cos: Float[Tensor, "B T 2 F"]
    sin: Float[Tensor, "B T 2 F"]


def rotation(position_ids: Int[Tensor, "B 2 T"], width: int, precision: str) -> Rotation:
    """Return the rotation of tokens at `position_ids`.

    Args:
        position_ids: Both positions of each token.
        width: K, a multiple of 4.
        precision: Of the angles, fp16 or fp32.
    """
    exponents = torch.arange(0, width // 2, 2, device=position_ids.device).float() / (width // 2)
    places, frequencies = position_ids.mT[..., None].float(), BASE**-exponents
    if precision == "fp16":
        angles = (places.half() * frequencies.half()).float()
    else:
        angles = places * frequencies
    return Rotation(angles.cos(), angles.sin())


def rotate(states: Float[Tensor, "B T H K"], by: Rotation) -> Float[Tensor, "B T H K"]:
    """Return queries or keys, turned; computed in fp32, returned in the dtype of `states`."""
    first, second = states.float().unflatten(-1, (2, -1)).chunk(2, dim=-1)
    cos, sin = by.cos[:, :, None], by.sin[:, :, None]
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.flatten(-2).to(states.dtype)
