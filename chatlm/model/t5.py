"""T5, the encoder-decoder: ids in, hidden states, logits or the training loss out.

In: token ids, in padded rows (generation) or flat (training). Out: tensors. Does not generate text
(`chatlm.generate`), read or write files (`chatlm.model.hf`), or know of any optimizer.

Shapes: B batch, S source length, T target length, D d_model, H heads, V vocabulary.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from chatlm.model import routes, rows
from chatlm.model.attention import AttendCross, AttendSelf, Attention
from chatlm.model.cache import Cache
from chatlm.model.config import ModelConfig
from chatlm.model.layers import FeedForward, RMSNorm, joint_linear
from chatlm.model.loss import compute_dtype, cross_entropy_sum
from chatlm.model.masks import TokenMask, additive_bias, causal_mask, padding_mask
from chatlm.model.offsets import positions
from chatlm.model.position import RelativeBias, bias_matrix
from chatlm.model.rope import rotate_projected, rotation
from chatlm.model.routes import Position, Side
from chatlm.model.trainee import IGNORE_INDEX, LossOutput, Trainee

KeysValues = Any
"""What a layer's cross-attention takes from the source; its form is agreed with `attend_cross`."""


@runtime_checkable
class CrossCache(Protocol):
    """Where a decoder finds what its layers took from the sources at an earlier step."""

    def cross(self, make: Callable[[], Sequence[KeysValues]]) -> Sequence[KeysValues]:
        """Return the keys and values of all layers, laid out by head; `make` makes them."""
        ...


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each on normed states and added to the residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self, states: Float[Tensor, "*B D"], attend_self: AttendSelf
    ) -> Float[Tensor, "*B D"]:
        """Return the states after this layer."""
        attended = self.attention.to_itself(self.attention_norm(states), attend_self)
        states = states + self.dropout(attended)
        return states + self.dropout(self.feed_forward(self.feed_forward_norm(states)))


class DecoderLayer(nn.Module):
    """As an encoder layer, with attention to the encoder's output in between."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.attention = Attention(config)
        self.cross_attention_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.cross_attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        states: Float[Tensor, "*B D"],
        keys_values: KeysValues,
        attend_self: AttendSelf,
        attend_cross: AttendCross,
    ) -> Float[Tensor, "*B D"]:
        """Return the states after this layer; `keys_values` are its own of the source."""
        attended = self.attention.to_itself(self.attention_norm(states), attend_self)
        states = states + self.dropout(attended)
        normed = self.cross_attention_norm(states)
        attended = self.cross_attention.to_memory(normed, keys_values, attend_cross)
        states = states + self.dropout(attended)
        return states + self.dropout(self.feed_forward(self.feed_forward_norm(states)))


class Encoder(nn.Module):
    """Embedded source tokens in, the memory that the decoder attends to out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.relative_attention_bias = None
        if not config.is_rotary:
            self.relative_attention_bias = RelativeBias(config, bidirectional=True)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        embedded: Float[Tensor, "*B D"],
        make_attend: Callable[[RelativeBias | None], AttendSelf],
    ) -> Float[Tensor, "*B D"]:
        """Return the final states; those of padded positions are finite and mean nothing.

        Args:
            embedded: Source tokens.
            make_attend: The bias in (None with rotary positions), attention out. The bias of T5 is
                shared by all layers, so this is called once.
        """
        attend_self = make_attend(self.relative_attention_bias)
        states = self.dropout(embedded)
        for layer in self.layers:
            states = layer(states, attend_self)
        return self.dropout(self.norm(states))


class Decoder(nn.Module):
    """Embedded target tokens and the memory in, states that predict the next token out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.relative_attention_bias = None
        if not config.is_rotary:
            self.relative_attention_bias = RelativeBias(config, bidirectional=False)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_decoder_layers))
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def keys_values(self, memory: Float[Tensor, "*S D"]) -> tuple[Float[Tensor, "*S 2 H K"], ...]:
        """Return what each layer's cross-attention takes from the memory, by one product."""
        layers = cast(Iterable[DecoderLayer], self.layers)
        attentions = [layer.cross_attention for layer in layers]
        joint = joint_linear(memory, [one for own in attentions for one in (own.k, own.v)])
        return joint.unflatten(-1, (len(attentions), 2, self.num_heads, -1)).unbind(-4)

    def forward(
        self,
        embedded: Float[Tensor, "*B D"],
        memory: Float[Tensor, "*S D"] | None,
        make_attend: Callable[[RelativeBias | None], Sequence[AttendSelf]],
        attend_cross: AttendCross,
        cache: CrossCache | None = None,
    ) -> Float[Tensor, "*B D"]:
        """Return the final states of the target tokens.

        Args:
            embedded: Target tokens, those only that are not in a cache.
            memory: What the encoder returned; None: the cache has what the layers take from it.
            make_attend: As in the encoder, but one for each layer, because a cache has layers.
            attend_cross: Attention to the source.
            cache: Keeps what the layers take from the memory, laid out by head, from the first
                call on.
        """

        def from_memory() -> tuple[Tensor, ...]:
            assert memory is not None, "nothing in the cache and no memory to make it from"
            return self.keys_values(memory)

        if cache is None:
            keys_values: Sequence[KeysValues] = from_memory()
        else:
            keys_values = cache.cross(lambda: [*map(rows.by_head, from_memory())])
        attends = make_attend(self.relative_attention_bias)
        states = self.dropout(embedded)
        for layer, own, attend_self in zip(self.layers, keys_values, attends, strict=True):
            states = layer(states, own, attend_self, attend_cross)
        return self.dropout(self.norm(states))


class T5(Trainee):
    """The model: one embedding table, an encoder, a decoder; the head is the table again.

    Two oddities of T5: logits are scaled by d_model**-0.5, because the table that makes them has
    entries of standard deviation 1; and the decoder starts from the padding id.

    Attributes:
        config: The shape.
        embedding: The one table, `embedding.weight` (V, D), of both inputs and of the head.
        attention: By which of `chatlm.model.routes` the training loss is computed.
        longest: Tokens of the longest source and target that can occur in a flat batch. None: read
            from each batch, for which a GPU has to be waited for.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self.has_dropout = config.dropout_rate > 0
        self.attention = "auto"
        self.longest: tuple[int, int] | None = None
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.reset_parameters()

    def twin(self) -> "T5":
        """Return a model of the same shape on the meta device, not compiled."""
        with torch.device("meta"):
            twin = T5(self.config)
        twin.attention, twin.longest = self.attention, self.longest
        return twin

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights anew from T5's distributions, from torch's global generator.

        Source: mesh-tensorflow's T5: normal, of standard deviation 1 for the table,
        (d_model * d_kv)**-0.5 for `q` (which stands in for the missing 1/sqrt(d_kv)) and
        fan_in**-0.5 for everything else; norms start at 1. All times `initializer_factor`.
        """
        factor, d_model = self.config.initializer_factor, self.config.d_model
        for name, weight in self.named_parameters():
            kind = name.split(".")[-2]
            if kind.endswith("norm"):
                nn.init.constant_(weight, factor)
            elif kind == "embedding":
                nn.init.normal_(weight, std=factor)
            elif kind == "q":
                nn.init.normal_(weight, std=factor * (d_model * self.config.d_kv) ** -0.5)
            elif kind == "relative_attention_bias":
                nn.init.normal_(weight, std=factor * d_model**-0.5)
            else:
                nn.init.normal_(weight, std=factor * weight.shape[1] ** -0.5)

    def encode(
        self, input_ids: Int[Tensor, "B S"], attention_mask: TokenMask
    ) -> Float[Tensor, "B S D"]:
        """Return the memory of padded sources.

        Args:
            input_ids: Source ids, padded to S.
            attention_mask: 0 for padding, anything else for tokens.
        """
        length, visible = input_ids.shape[1], padding_mask(attention_mask)

        def make_attend(bias: RelativeBias | None) -> AttendSelf:
            matrix = None if bias is None else bias_matrix(bias, length, length)
            attended = rows.attend_self(additive_bias(visible, matrix, self._dtype()))
            return self._turned(attended, torch.arange(length, device=input_ids.device), bias)

        return self.encoder(self.embedding(input_ids), make_attend)

    def decode(
        self,
        decoder_input_ids: Int[Tensor, "B T"],
        memory: Float[Tensor, "B S D"],
        attention_mask: TokenMask,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the states that predict the token after each of `decoder_input_ids`.

        Padding behind a target needs no mask: nothing before it sees it.

        Args:
            decoder_input_ids: The targets so far, from the pad start; with a cache, those tokens
                only that it has not seen.
            memory: What `encode` returned.
            attention_mask: What `encode` was given.
            cache: Extended by T tokens, if given.
        """
        cache = Cache() if cache is None else cache
        length = decoder_input_ids.shape[1]
        total = cache.length + length

        def make_attend(bias: RelativeBias | None) -> list[AttendSelf]:
            visible = causal_mask(length, total, decoder_input_ids.device)
            matrix = None if bias is None else bias_matrix(bias, length, total)
            matrix = additive_bias(visible, matrix, self._dtype())
            places = torch.arange(cache.length, total, device=decoder_input_ids.device)
            return [
                self._turned(rows.attend_cached(matrix, cache, layer), places, bias)
                for layer in range(self.config.num_decoder_layers)
            ]

        hidden = self.decoder(
            self.embedding(decoder_input_ids),
            memory,
            make_attend,
            rows.attend_cross(additive_bias(padding_mask(attention_mask), dtype=self._dtype())),
            cache,
        )
        cache.advance(length)
        return hidden

    def _position(self, bias: RelativeBias | None, side: Side) -> Position:
        if bias is not None:
            return bias
        return rotation(positions(side.offsets, side.num_tokens), self.config.d_kv)

    def _turned(
        self, attend_self: AttendSelf, places: Int[Tensor, " T"], bias: RelativeBias | None
    ) -> AttendSelf:
        """Return attention that turns queries and keys before, if there is no bias."""
        if bias is not None:
            return attend_self
        by = rotation(places, self.config.d_kv)
        return lambda projected: attend_self(rotate_projected(projected, by))

    def _dtype(self) -> torch.dtype:
        weight = self.embedding.weight
        return compute_dtype(weight.device, weight.dtype)

    def logits(self, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Return the scores of all V tokens, before softmax."""
        return F.linear(hidden * self.config.d_model**-0.5, self.embedding.weight)

    def shift_right(
        self, labels: Int[Tensor, " N"], offsets: Int[Tensor, " P_and_1"]
    ) -> Int[Tensor, " N"]:
        """Return the decoder's input: for each pair pad, then all labels but the last.

        Ignored labels become pad.
        """
        pad = self.config.pad_token_id
        # One more place than tokens, because empty pairs at the end start there.
        shifted = F.pad(labels, (1, 0)).index_fill(0, offsets[:-1].long(), pad)[:-1]
        return shifted.masked_fill(shifted == IGNORE_INDEX, pad)

    def forward(
        self,
        input_ids: Int[Tensor, " M"],
        labels: Int[Tensor, " N"],
        source_offsets: Int[Tensor, " P_and_1"],
        target_offsets: Int[Tensor, " P_and_1"],
    ) -> LossOutput:
        """Return the summed loss of predicting `labels`; ignored labels are never scored.

        A batch is flat: its pairs lie one behind the other, without padding.

        Args:
            input_ids: Source ids of all pairs.
            labels: Target ids with EOS, `IGNORE_INDEX` where nothing is to be learned.
            source_offsets: Pair p has the sources from source_offsets[p] up to the next offset.
            target_offsets: Likewise.
        """
        dropout_rate = self.config.dropout_rate if self.training else 0.0
        longest_source, longest_target = self.longest or (None, None)
        source = Side(source_offsets, len(input_ids), longest_source)
        target = Side(target_offsets, len(labels), longest_target)
        route = routes.choose(self.attention, (source, target), self._dtype(), dropout_rate)
        # One lookup for both sides: its gradient is as large as the table.
        ids = torch.cat([input_ids, self.shift_right(labels, target_offsets)])
        sources, targets = self.embedding(ids).split([len(input_ids), len(labels)])
        memory = self.encoder(
            sources,
            lambda bias: route.to_itself(source, self._position(bias, source), causal=False),
        )
        num_layers = self.config.num_decoder_layers
        hidden = self.decoder(
            targets,
            memory,
            lambda bias: (
                [route.to_itself(target, self._position(bias, target), causal=True)] * num_layers
            ),
            route.to_memory(target, source),
        )
        scaled = hidden * self.config.d_model**-0.5
        loss_sum = cross_entropy_sum(scaled, self.embedding.weight, labels, IGNORE_INDEX)
        return LossOutput(loss_sum, (labels != IGNORE_INDEX).sum())
