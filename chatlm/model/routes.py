"""Who attends to whom in flat training batches, and by which computation.

In: where the pairs begin and end; T5's relative bias by distance, or rotations. Out: the functions
that `chatlm.model.attention` calls. All routes give the same numbers up to rounding;
tests hold that. `math` is for CPUs, `sdpa` pads inside attention and runs anywhere, `flex` is for
GPUs: FlexAttention under T5's bias, flash attention where there is none.

Shapes: N target tokens, M source tokens, P pairs, H heads, K d_kv, L tokens of the longest pair.
"""

from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from chatlm.errors import ConfigError
from chatlm.model import flex, ragged
from chatlm.model.attention import AttendCross, AttendSelf
from chatlm.model.masks import additive_bias, causal_mask
from chatlm.model.padded import padded_attention
from chatlm.model.position import RelativeBias, bias_matrix
from chatlm.model.rope import Rotation, rotate_projected
from chatlm.model.varlen import varlen_attention

ROUTES = ("math", "sdpa", "flex")
SHORT_PAIR = 60
"""Source and target tokens below which padding pairs is faster on a CPU than a loop over them."""

FARTHEST = 256
"""Distances that FlexAttention's table of biases reaches at least. All beyond T5's max_distance
have one bias; a longer table spreads the additions into its gradient."""

Position = RelativeBias | Rotation
"""Where tokens are: T5's bias for a distance, or what queries and keys are turned by."""

Projected = Float[Tensor, "N 3 H K"]
Gathered = Float[Tensor, "N H K"]
KeysValues = Float[Tensor, "M 2 H K"]


class Side(NamedTuple):
    """The sources or the targets of a flat batch.

    Attributes:
        offsets: Where each pair starts, and where the last one ends, int32.
        num_tokens: Tokens in all.
        longest: Tokens of the longest pair that can occur in the run; None: read from the offsets,
            for which a GPU has to be waited for.
    """

    offsets: Int[Tensor, " P_and_1"]
    num_tokens: int
    longest: int | None

    def most(self) -> int:
        """Return the tokens that no pair exceeds."""
        return int(self.offsets.diff().max()) if self.longest is None else self.longest


@runtime_checkable
class Route(Protocol):
    """One computation of attention for one microbatch."""

    def to_itself(self, side: Side, position: Position, *, causal: bool) -> AttendSelf:
        """Return attention of tokens to those of their own side and pair, for all layers."""
        ...

    def to_memory(self, targets: Side, sources: Side) -> AttendCross:
        """Return attention of target tokens to the source of their pair, for all layers."""
        ...


def choose(name: str, sides: tuple[Side, Side], dtype: torch.dtype, dropout_rate: float) -> Route:
    """Return a route by name.

    `auto` is `flex` on a GPU, or `sdpa` with dropout; on a CPU it is `math`, or `sdpa` where pairs
    are so short that going through them one by one costs more than padding them.

    Args:
        name: See the module.
        sides: Sources and targets of the batch.
        dtype: In which matrices are multiplied.
        dropout_rate: Share of the attention weights that is dropped.

    Raises:
        ConfigError: There is no such route, or it cannot drop attention weights.
    """
    device = sides[0].offsets.device
    if name == "auto":
        num_tokens, num_pairs = sum(side.num_tokens for side in sides), len(sides[0].offsets) - 1
        on_cuda = "sdpa" if dropout_rate else "flex"
        on_cpu = "sdpa" if num_tokens < SHORT_PAIR * num_pairs else "math"
        name = on_cuda if device.type == "cuda" else on_cpu
    if name == "math":
        return MathRoute(dropout_rate)
    if name == "sdpa":
        return PaddedRoute(dropout_rate)
    if name != "flex":
        raise ConfigError(f"attention={name}: expected auto or one of {', '.join(ROUTES)}")
    if dropout_rate:
        raise ConfigError(
            "attention=flex cannot drop attention weights: set attention=sdpa or "
            "model.dropout_rate=0"
        )
    return FlexRoute(has_flash=device.type == "cuda" and dtype in (torch.bfloat16, torch.float16))


class MathRoute(NamedTuple):
    """Pair after pair, no padding. The lengths become Python numbers, so it is not compiled."""

    dropout_rate: float

    def to_itself(self, side: Side, position: Position, *, causal: bool) -> AttendSelf:
        """See `Route`."""
        offsets: list[int] = side.offsets.tolist()
        length = max(end - start for start, end in pairwise(offsets))
        matrix = _matrix(position, length)
        if causal:
            matrix = additive_bias(causal_mask(length, length, side.offsets.device)[0], matrix)

        def attended(projected: Projected) -> Gathered:
            return ragged.self_attention(projected, matrix, offsets, self.dropout_rate)

        return _rotated(attended, position)

    def to_memory(self, targets: Side, sources: Side) -> AttendCross:
        """See `Route`."""
        spans = ragged.Spans(targets.offsets.tolist(), sources.offsets.tolist())

        def attended(query: Gathered, keys_values: KeysValues) -> Gathered:
            return ragged.cross_attention(query, keys_values, spans, self.dropout_rate)

        return attended


class PaddedRoute(NamedTuple):
    """Every pair a padded row, inside attention only."""

    dropout_rate: float

    def to_itself(self, side: Side, position: Position, *, causal: bool) -> AttendSelf:
        """See `Route`."""
        matrix = _matrix(position, side.most())

        def attended(projected: Projected) -> Gathered:
            return self._attend(projected.unbind(1), (side, side), matrix, causal)

        return _rotated(attended, position)

    def to_memory(self, targets: Side, sources: Side) -> AttendCross:
        """See `Route`."""
        # Read once, not in every layer.
        targets, sources = (side._replace(longest=side.most()) for side in (targets, sources))

        def attended(query: Gathered, keys_values: KeysValues) -> Gathered:
            return self._attend((query, *keys_values.unbind(1)), (targets, sources), None, False)

        return attended

    def _attend(
        self,
        parts: tuple[Tensor, ...],
        sides: tuple[Side, Side],
        bias: Tensor | None,
        causal: bool,
    ) -> Tensor:
        query, key, value = parts
        ours, theirs = sides
        return padded_attention(
            query,
            key,
            value,
            ours.offsets,
            theirs.offsets,
            ours.most(),
            theirs.most(),
            bias,
            causal,
            1.0,
            self.dropout_rate,
        )


class FlexRoute(NamedTuple):
    """FlexAttention; flash attention in its place where there is no bias, in half precision."""

    has_flash: bool

    def to_itself(self, side: Side, position: Position, *, causal: bool) -> AttendSelf:
        """See `Route`."""
        is_turned = isinstance(position, Rotation)
        if is_turned and self.has_flash:
            return _rotated(self._flash(side, causal), position)
        table = None
        if not is_turned:
            reach = max(FARTHEST, position.max_distance)
            table = position(reach, reach).float()
        mask = flex.make_block_mask(side.offsets, side.num_tokens, causal)

        def attended(projected: Projected) -> Gathered:
            query, key, value = projected.unbind(1)
            return flex.flex_self_attention(query, key, value, mask, table, 1.0)

        return _rotated(attended, position)

    def _flash(self, side: Side, causal: bool) -> AttendSelf:
        offsets, longest = side.offsets, side.most()

        def attended(projected: Projected) -> Gathered:
            query, key, value = projected.unbind(1)
            return varlen_attention(
                query, key, value, offsets, offsets, longest, longest, 1.0, causal
            )

        return attended

    def to_memory(self, targets: Side, sources: Side) -> AttendCross:
        """See `Route`."""
        if self.has_flash:
            return self._flash_to_memory(targets, sources)
        mask = flex.make_cross_block_mask(
            targets.offsets, sources.offsets, targets.num_tokens, sources.num_tokens
        )

        def attended(query: Gathered, keys_values: KeysValues) -> Gathered:
            key, value = keys_values.unbind(1)
            return flex.flex_cross_attention(query, key, value, mask, 1.0)

        return attended

    def _flash_to_memory(self, targets: Side, sources: Side) -> AttendCross:
        longest_target, longest_source = targets.most(), sources.most()

        def attended(query: Gathered, keys_values: KeysValues) -> Gathered:
            key, value = keys_values.unbind(1)
            return varlen_attention(
                query,
                key,
                value,
                targets.offsets,
                sources.offsets,
                longest_target,
                longest_source,
                1.0,
                False,
            )

        return attended


def _matrix(position: Position, length: int) -> Float[Tensor, "H L L"] | None:
    return None if isinstance(position, Rotation) else bias_matrix(position, length, length)


def _rotated(attend_self: AttendSelf, position: Position) -> AttendSelf:
    """Return attention that turns queries and keys before, if positions are rotary."""
    if not isinstance(position, Rotation):
        return attend_self
    return lambda projected: attend_self(rotate_projected(projected, position))
