"""What a decoder remembers between two tokens, so that each token costs one token.

In: new keys and values of each layer. Out: all of them so far. The law of this module: decoding
with a cache, in steps of any size, gives what decoding at once gives.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

KeysValues = tuple[Float[Tensor, "B H S K"], Float[Tensor, "B H S K"]]
NewKeysValues = tuple[Float[Tensor, "B H T K"], Float[Tensor, "B H T K"]]

FIRST_CAPACITY = 64
"""Tokens that the first allocation holds; a full cache doubles."""


class Cache:
    """Keys and values of one batch that is being decoded, for one `T5.decode` after another.

    Self-attention keys grow in place in a buffer that doubles when full; cross-attention keys are
    made from the encoder's output once, at the first step.

    Attributes:
        length: Tokens decoded so far, the same for all rows.
    """

    def __init__(self) -> None:
        self.length = 0
        self._own: dict[int, tuple[Tensor, Tensor]] = {}
        self._cross: Sequence[KeysValues] | None = None

    def extend(self, layer: int, new: NewKeysValues) -> KeysValues:
        """Append the keys and values of the new tokens of `layer` and return all so far.

        The length moves on with `advance`, after every layer has seen the new tokens.
        """
        end = self.length + new[0].shape[2]
        buffers = self._own.get(layer)
        if buffers is None or buffers[0].shape[2] < end:
            buffers = self._own[layer] = self._grown(buffers, new, end)
        for buffer, states in zip(buffers, new, strict=True):
            buffer[:, :, self.length : end] = states
        return buffers[0][:, :, :end], buffers[1][:, :, :end]

    def _grown(
        self, old: tuple[Tensor, Tensor] | None, new: NewKeysValues, end: int
    ) -> tuple[Tensor, Tensor]:
        capacity = max(FIRST_CAPACITY, 2 * end)
        grown = []
        for i, states in enumerate(new):
            batch, heads, _, width = states.shape
            buffer = states.new_zeros(batch, heads, capacity, width)
            if old is not None:
                buffer[:, :, : self.length] = old[i][:, :, : self.length]
            grown.append(buffer)
        return grown[0], grown[1]

    def advance(self, num_tokens: int) -> None:
        """Count tokens that all layers have seen."""
        self.length += num_tokens

    def cross(self, make: Callable[[], Sequence[KeysValues]]) -> Sequence[KeysValues]:
        """Return the cross-attention keys and values of all layers, made at the first call only."""
        if self._cross is None:
            # Laid out by head once, or every step would do it again before it multiplies.
            self._cross = [(key.contiguous(), value.contiguous()) for key, value in make()]
        return self._cross

    def reorder(self, rows: Int[Tensor, " B"]) -> None:
        """Let row i continue what row `rows[i]` has decoded.

        Only self-attention moves: beams change places within their example, and all beams of an
        example attend to the same source.
        """
        for layer, (key, value) in self._own.items():
            for buffer in (key, value):
                seen = buffer[:, :, : self.length]
                buffer[:, :, : self.length] = torch.index_select(seen, 0, rows)
            self._own[layer] = (key, value)
