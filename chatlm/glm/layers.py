"""The layers of ChatGLM-6B.

In: hidden states, the batch's rotation and mask, perhaps a cache. Out: hidden states. Parameters
have the names of the published weights. Two oddities: the residual carries the *normalised* value,
times sqrt(56) whatever the number of layers; and queries, keys and values are interleaved by head.

Shapes: B batch, T tokens, D hidden_size, H heads, K width of a head.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from chatlm.glm.configuration import ChatGLMConfig
from chatlm.glm.rotary import Rotation, rotate

ALPHA = (2 * 28) ** 0.5
"""The published code means 2 * num_layers, but always takes its default of 28 layers."""


class LayerNorm(nn.LayerNorm):
    """Computed in fp32, returned in its input's dtype; its weights stay fp32 in half models."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised states."""
        weight, bias = self.weight.float(), self.bias.float()
        normed = F.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps)
        return normed.to(input.dtype)


class SelfAttention(nn.Module):
    """Attention with rotary positions; the published scale per layer cancels out."""

    def __init__(self, config: ChatGLMConfig, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.num_heads = config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        states: Float[Tensor, "B T D"],
        rotation: Rotation,
        mask: Bool[Tensor, "B 1 T S"] | None,
        cache: Cache | None,
    ) -> Float[Tensor, "B T D"]:
        """Return what each token attends to; the cache, if any, keeps turned keys."""
        mixed = self.query_key_value(states).unflatten(-1, (self.num_heads, -1))
        query, key, value = mixed.chunk(3, dim=-1)
        query, key = rotate(query, rotation).transpose(1, 2), rotate(key, rotation).transpose(1, 2)
        value = value.transpose(1, 2)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_index)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.dense(attended.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    """Two plain matrices, GELU in its tanh form between."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.inner_hidden_size)
        self.dense_4h_to_h = nn.Linear(config.inner_hidden_size, config.hidden_size)

    def forward(self, states: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Return the states, transformed token by token."""
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(states), approximate="tanh"))


class GLMBlock(GradientCheckpointingLayer):
    """Attention and MLP; with gradient checkpointing, computed again in the backward pass."""

    def __init__(self, config: ChatGLMConfig, layer_index: int) -> None:
        super().__init__()
        self.input_layernorm = LayerNorm(config.hidden_size, config.layernorm_epsilon)
        self.attention = SelfAttention(config, layer_index)
        self.post_attention_layernorm = LayerNorm(config.hidden_size, config.layernorm_epsilon)
        self.mlp = MLP(config)

    def forward(
        self,
        states: Float[Tensor, "B T D"],
        rotation: Rotation,
        mask: Bool[Tensor, "B 1 T S"] | None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the states after this layer."""
        normed = self.input_layernorm(states)
        states = normed * ALPHA + self.attention(normed, rotation, mask, cache)
        normed = self.post_attention_layernorm(states)
        return normed * ALPHA + self.mlp(normed)


class Transformer(nn.Module):
    """The table of embeddings, the layers and the last norm."""

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(GLMBlock(config, i) for i in range(config.num_layers))
        self.final_layernorm = LayerNorm(config.hidden_size, config.layernorm_epsilon)

    def forward(
        self,
        embedded: Float[Tensor, "B T D"],
        rotation: Rotation,
        mask: Bool[Tensor, "B 1 T S"] | None,
        cache: Cache | None,
    ) -> Float[Tensor, "B T D"]:
        """Return the last hidden states."""
        states = embedded
        for layer in self.layers:
            states = layer(states, rotation, mask, cache=cache)
        return self.final_layernorm(states)
