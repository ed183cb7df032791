"""Attention within pairs on a GPU without a bias: flash attention over rows of any length.

In: queries, keys and values of all pairs one behind the other, offsets. Out: what each query
gathers from its own pair. T5's cross-attention has no bias, and self-attention has none with rotary
positions. Half precision on CUDA only: everything else is refused.

Shapes: Nq queries and Nk keys of P pairs, H heads, K width of a head.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from chatlm.errors import ConfigError

CAUSAL_WINDOW = (-1, 0)
FULL_WINDOW = (-1, -1)


def varlen_attention(
    query: Float[Tensor, "Nq H K"],
    key: Float[Tensor, "Nk H K"],
    value: Float[Tensor, "Nk H K"],
    query_offsets: Int[Tensor, " P_and_1"],
    key_offsets: Int[Tensor, " P_and_1"],
    max_query: int,
    max_key: int,
    scale: float,
    causal: bool,
) -> Float[Tensor, "Nq H K"]:
    """Return softmax(scale query key^T) value within pairs; zeros where a pair has no key.

    Args:
        query: Queries of all pairs.
        key: Their keys.
        value: Their values.
        query_offsets: Where the queries of each pair start, int32; the last one must be Nq, for
            queries of no pair would get whatever stood in memory.
        key_offsets: Where its keys start, int32.
        max_query: At least the most queries that any pair has, a filler included: further ones
            would get whatever stood in memory. A constant of the run, or each new number compiles
            the model anew; a generous one costs little.
        max_key: At least the most keys that any pair has.
        scale: Factor of the scores.
        causal: Whether keys behind the query's place are hidden; then both sides are one row.

    Raises:
        ConfigError: Not on a GPU, not in half precision, or heads that the kernel cannot take.
    """
    _refuse_foreign(query)
    gathered = varlen_attn(
        query,
        key.to(query.dtype),
        value.to(query.dtype),
        query_offsets.int().contiguous(),
        key_offsets.int().contiguous(),
        max_query,
        max_key,
        scale=scale,
        window_size=CAUSAL_WINDOW if causal else FULL_WINDOW,
    )
    assert isinstance(gathered, Tensor)
    return gathered


def _refuse_foreign(query: Tensor) -> None:
    """Raise unless the flash kernel can take the queries."""
    if not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16):
        raise ConfigError(
            f"flash attention got {query.dtype} on {query.device.type}: it needs bf16 on a GPU; "
            "set attention=auto, or precision=bf16 device=cuda"
        )
    if query.shape[-1] % 8 or query.shape[-1] > 256:
        raise ConfigError(
            f"flash attention got heads of width {query.shape[-1]}: it needs a multiple of 8, "
            "at most 256; change model.d_kv or set attention=sdpa"
        )
