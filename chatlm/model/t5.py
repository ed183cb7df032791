"""T5, the encoder-decoder: ids in, hidden states, logits or the training loss out.

In: token ids and masks (`chatlm.dataset` makes them). Out: tensors. Does not generate text
(`chatlm.generate`), read or write files (`chatlm.model.hf`), or know of any optimizer.

Shapes: B batch, S source length, T target length, D d_model, H heads, V vocabulary.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from chatlm.model.attention import Attention
from chatlm.model.cache import Cache
from chatlm.model.config import ModelConfig
from chatlm.model.layers import FeedForward, RMSNorm
from chatlm.model.loss import compute_dtype, cross_entropy_sum
from chatlm.model.masks import TokenMask, additive_bias, causal_mask, padding_mask, segment_mask
from chatlm.model.position import relative_bias

IGNORE_INDEX = -100
"""The label of a position that is not to be learned."""


class LossOutput(NamedTuple):
    """A loss that can be summed over batches and devices before it is divided."""

    loss_sum: Float[Tensor, ""]
    """Sum of the cross-entropy in nats over the labels that are not ignored, fp32."""
    num_tokens: Int[Tensor, ""]
    """Number of those labels, int64."""


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
        self, states: Float[Tensor, "B S D"], bias: Float[Tensor, "#B #H S S"]
    ) -> Float[Tensor, "B S D"]:
        """Return the states after this layer."""
        normed = self.attention_norm(states)
        attended = self.attention(normed, self.attention.keys_values(normed), bias)
        states = states + self.dropout(attended)
        return states + self.dropout(self.feed_forward(self.feed_forward_norm(states)))


class DecoderLayer(nn.Module):
    """As an encoder layer, with attention to the encoder's output in between."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.attention_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.attention = Attention(config)
        self.cross_attention_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.cross_attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        states: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B S D"],
        bias: Float[Tensor, "#B #H T past_and_T"],
        cross_bias: Float[Tensor, "#B 1 #T S"],
        cache: Cache | None,
    ) -> Float[Tensor, "B T D"]:
        """Return the states after this layer."""
        normed = self.attention_norm(states)
        own = self.attention.keys_values(normed)
        if cache is None:
            cross = self.cross_attention.keys_values(memory)
        else:
            own = cache.extend(self.index, own)
            cross = cache.cross(self.index, lambda: self.cross_attention.keys_values(memory))
        states = states + self.dropout(self.attention(normed, own, bias))
        normed = self.cross_attention_norm(states)
        states = states + self.dropout(self.cross_attention(normed, cross, cross_bias))
        return states + self.dropout(self.feed_forward(self.feed_forward_norm(states)))


class Encoder(nn.Module):
    """Embedded source tokens in, the memory that the decoder attends to out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.max_distance = config.relative_attention_max_distance
        self.relative_attention_bias = nn.Embedding(
            config.relative_attention_num_buckets, config.num_heads
        )
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self, embedded: Float[Tensor, "B S D"], attention_mask: TokenMask
    ) -> Float[Tensor, "B S D"]:
        """Return the final states; those of padded positions are finite and mean nothing."""
        length = embedded.shape[1]
        segments = attention_mask.long()
        # The bias of T5 lives in layer 0 and is shared by all, so it is made once, mask included.
        bias = additive_bias(
            segment_mask(segments, segments),
            relative_bias(
                self.relative_attention_bias.weight, length, length, True, self.max_distance
            ),
            compute_dtype(embedded.device, embedded.dtype),
        )
        states = self.dropout(embedded)
        for layer in self.layers:
            states = layer(states, bias)
        return self.dropout(self.norm(states))


class Decoder(nn.Module):
    """Embedded target tokens and the memory in, states that predict the next token out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.max_distance = config.relative_attention_max_distance
        self.relative_attention_bias = nn.Embedding(
            config.relative_attention_num_buckets, config.num_heads
        )
        self.layers = nn.ModuleList(
            DecoderLayer(config, i) for i in range(config.num_decoder_layers)
        )
        self.norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        embedded: Float[Tensor, "B T D"],
        memory: Float[Tensor, "B S D"],
        attention_mask: TokenMask,
        cache: Cache | None = None,
        segments: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the final states of the T tokens that follow those in the cache."""
        length = embedded.shape[1]
        dtype = compute_dtype(embedded.device, embedded.dtype)
        total = length if cache is None else cache.length + length
        visible = causal_mask(length, total, embedded.device)
        cross_visible = padding_mask(attention_mask)
        if segments is not None:
            visible = visible & segment_mask(segments, segments)
            cross_visible = segment_mask(segments, attention_mask.long())
        table = self.relative_attention_bias.weight
        positions = relative_bias(table, length, total, False, self.max_distance)
        bias = additive_bias(visible, positions, dtype)
        cross_bias = additive_bias(cross_visible, dtype=dtype)
        states = self.dropout(embedded)
        for layer in self.layers:
            states = layer(states, memory, bias, cross_bias, cache)
        if cache is not None:
            cache.advance(length)
        return self.dropout(self.norm(states))


class T5(nn.Module):
    """The model: one embedding table, an encoder, a decoder; the head is the table again.

    Two oddities of T5: logits are scaled by d_model**-0.5, because the table that makes them has
    entries of standard deviation 1; and the decoder starts from the padding id.

    Attributes:
        config: The shape.
        embedding: The one table, `embedding.weight` (V, D), of both inputs and of the head.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.reset_parameters()

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
        """Return the memory of the source.

        Args:
            input_ids: Source ids, padded to S.
            attention_mask: 0 for padding, 1 for tokens; or, in a row that packs several sources,
                the number of the source, from 1.
        """
        return self.encoder(self.embedding(input_ids), attention_mask)

    def decode(
        self,
        decoder_input_ids: Int[Tensor, "B T"],
        memory: Float[Tensor, "B S D"],
        attention_mask: TokenMask,
        cache: Cache | None = None,
        decoder_segments: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the states that predict the token after each of `decoder_input_ids`.

        Padding behind a target needs no mask: nothing before it sees it.

        Args:
            decoder_input_ids: The targets so far, from the pad start; with a cache, those tokens
                only that it has not seen.
            memory: What `encode` returned.
            attention_mask: What `encode` was given.
            cache: Extended by T tokens, if given.
            decoder_segments: For packed rows, which source each target token belongs to.
        """
        embedded = self.embedding(decoder_input_ids)
        return self.decoder(embedded, memory, attention_mask, cache, decoder_segments)

    def logits(self, hidden: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Return the scores of all V tokens, before softmax."""
        return F.linear(hidden * self.config.d_model**-0.5, self.embedding.weight)

    def shift_right(
        self, labels: Int[Tensor, "B T"], decoder_segments: Int[Tensor, "B T"] | None = None
    ) -> Int[Tensor, "B T"]:
        """Return the decoder's input: pad, then all labels but the last; ignored ones as pad.

        In packed rows every segment starts from pad.
        """
        pad = self.config.pad_token_id
        shifted = F.pad(labels, (1, -1), value=pad)
        if decoder_segments is not None:
            previous = F.pad(decoder_segments, (1, -1), value=0)
            shifted = shifted.masked_fill(previous != decoder_segments, pad)
        return shifted.masked_fill(shifted == IGNORE_INDEX, pad)

    def forward(
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: TokenMask,
        labels: Int[Tensor, "B T"],
        decoder_segments: Int[Tensor, "B T"] | None = None,
    ) -> LossOutput:
        """Return the summed loss of predicting `labels`; ignored labels are never scored.

        Args:
            input_ids: Source ids.
            attention_mask: See `encode`.
            labels: Target ids with EOS, `IGNORE_INDEX` where nothing is to be learned.
            decoder_segments: For packed rows only, see `decode`.
        """
        memory = self.encode(input_ids, attention_mask)
        hidden = self.decode(
            self.shift_right(labels, decoder_segments),
            memory,
            attention_mask,
            decoder_segments=decoder_segments,
        )
        flat_labels = labels.flatten()
        kept = (flat_labels != IGNORE_INDEX).nonzero().squeeze(1)
        scaled = hidden.flatten(0, 1)[kept] * self.config.d_model**-0.5
        loss_sum = cross_entropy_sum(scaled, self.embedding.weight, flat_labels[kept])
        return LossOutput(loss_sum, torch.tensor(len(kept), device=labels.device))
