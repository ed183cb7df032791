"""Where each token of a flat batch stands: in which pair, and at which place in it.

In: offsets, P+1 rising numbers of which pair p owns the tokens offsets[p] to offsets[p+1]. Out: one
number a token. No step reads a value back from the device, so none waits for it, and all of it can
be traced by `torch.compile`.

Shapes: N tokens, P pairs.
"""

import torch
from jaxtyping import Int
from torch import Tensor


def pair_numbers(offsets: Int[Tensor, " P_and_1"], num_tokens: int) -> Int[Tensor, " N"]:
    """Return the pair, 0 to P - 1, of each token; tokens behind the last pair get P.

    Empty pairs own no token, so their numbers do not occur. The numbers never fall.
    """
    tokens = torch.arange(num_tokens, device=offsets.device, dtype=offsets.dtype)
    return torch.searchsorted(offsets[1:].contiguous(), tokens, right=True, out_int32=True)


def positions(offsets: Int[Tensor, " P_and_1"], num_tokens: int) -> Int[Tensor, " N"]:
    """Return the place of each token in its pair, counted from 0."""
    tokens = torch.arange(num_tokens, device=offsets.device, dtype=offsets.dtype)
    return tokens - offsets[pair_numbers(offsets, num_tokens)]
