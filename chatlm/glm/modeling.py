"""ChatGLM-6B as a model of `transformers`: loading, saving, loss and generation.

In: ids of the form `[X] [gMASK] <sop> [Y]`, padded on the left to generate, on the right to train.
Out: logits, or the loss, without a table of logits; `generate` with all that `transformers` offers.
The published weights load by their own names. Runs no remote code.

Shapes: B batch, S tokens, N tokens with a label, D hidden_size, V vocab_size.
"""

import dataclasses
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, GenerationMixin, LogitsProcessor, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from chatlm.glm import positions
from chatlm.glm.configuration import ChatGLMConfig
from chatlm.glm.layers import Transformer
from chatlm.glm.positions import Layout, SpecialIds
from chatlm.glm.rotary import rotation

IGNORE_INDEX = -100
CHUNK_ROWS = 1024
"""Tokens whose logits exist at a time: 1024 x 130528 in fp32 are 535 MB."""

_FIELDS = {field.name for field in dataclasses.fields(CausalLMOutputWithPast)}
CACHE = "cache" if "cache" in _FIELDS else "past_key_values"
"""What `generate` calls the cache; the name changed in transformers 5.24."""


class UnusedIds(LogitsProcessor):
    """Keeps rows of the table that stand for no token from being generated."""

    def __init__(self, first_used_id: int, num_used_ids: int) -> None:
        self.first_used_id = first_used_id
        self.num_used_ids = num_used_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        """Return the scores, minus infinity for those ids."""
        scores = scores.clone()
        scores[:, : self.first_used_id] = -torch.inf
        scores[:, self.num_used_ids :] = -torch.inf
        return scores


class ChatGLMForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """ChatGLM-6B. Made by `from_pretrained`, or from a config with random weights."""

    config_class = ChatGLMConfig
    config: ChatGLMConfig
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    accepts_loss_kwargs = True
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # `transformers` declares these so.
    _no_split_modules = ["GLMBlock"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = {  # noqa: RUF012
        "input_layernorm",
        "post_attention_layernorm",
        "final_layernorm",
    }
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]  # noqa: RUF012

    def __init__(self, config: ChatGLMConfig) -> None:
        super().__init__(config)
        self.transformer = Transformer(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of embeddings."""
        return self.transformer.word_embeddings

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the table of embeddings."""
        self.transformer.word_embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        """Return the head, which is not tied to the table of embeddings."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        """Replace the head."""
        self.lm_head = new_embeddings

    @property
    def _special(self) -> SpecialIds:
        ids = (self.config.bos_token_id, self.config.mask_token_id, self.config.gmask_token_id)
        assert None not in ids, "the config fills them in"
        return SpecialIds(*ids)  # pyright: ignore[reportArgumentType]

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "B S"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B 2 S"] | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Float[Tensor, "B S D"] | None = None,
        labels: Int[Tensor, "B S"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> CausalLMOutputWithPast:
        """Return logits, or with labels the loss.

        Args:
            input_ids: With a cache, only the tokens that are not in it.
            attention_mask: (B, S), 0 = padding; or (B, 1, S, all tokens), True = may attend.
            position_ids: As `chatlm.glm.positions` makes them; needed, with a mask of four
                dimensions, where `input_ids` does not hold the whole sequences.
            cache: Where keys and values are kept.
            past_key_values: The same, by its older name.
            inputs_embeds: Instead of the table's rows.
            labels: The same ids as `input_ids` or -100; they are shifted here. The loss is their
                mean in nats.
            use_cache: Whether to return a cache; by default only where nothing is learnt.
            logits_to_keep: The last so many tokens, or the indices, that get logits; 0 = all. By
                default all without labels, and none with labels.
            num_items_in_batch: What to divide the summed loss by instead.
            output_attentions: Not available.
            output_hidden_states: Not available.

        Raises:
            ValueError: The sequences are not of ChatGLM's form, or too little is given to know.
        """
        if output_attentions or output_hidden_states:
            raise ValueError("attentions and hidden states of single layers are not available")
        cache = cache if cache is not None else past_key_values
        placed = self._layout(input_ids, attention_mask, position_ids, cache)
        if inputs_embeds is None:
            inputs_embeds = self.transformer.word_embeddings(input_ids)
        if use_cache is None:
            use_cache = bool(self.config.use_cache) and labels is None and not self.training
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        head_width = self.config.hidden_size // self.config.num_attention_heads
        turn = rotation(placed.position_ids, head_width, self.config.rope_precision)
        mask = _for_cache(placed.mask, cache)
        hidden = self.transformer(inputs_embeds, turn, mask, cache)
        loss = None
        if labels is not None:
            loss = self._loss(hidden, labels, num_items_in_batch)
        logits = None
        if labels is None or logits_to_keep is not None:
            logits = self.lm_head(_kept(hidden, logits_to_keep))
        kept = {CACHE: cache if use_cache else None}
        return CausalLMOutputWithPast(loss=loss, logits=logits, **kept)  # pyright: ignore[reportArgumentType]

    def _layout(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        cache: Cache | None,
    ) -> Layout:
        """Return positions and mask, those given or those that the ids tell.

        Raises:
            ValueError: The ids do not tell.
        """
        if position_ids is not None and attention_mask is not None and attention_mask.dim() == 4:
            return Layout(position_ids, attention_mask)
        if position_ids is not None:
            raise ValueError(
                "position_ids are given without their mask: leave both away, or give "
                "attention_mask as (batch, 1, tokens, all tokens), True = may attend"
            )
        if input_ids is None or (cache is not None and int(cache.get_seq_length())):
            raise ValueError(
                "positions cannot be told from a part of a sequence: give position_ids and a mask "
                "of four dimensions, or call generate, which does"
            )
        positions.require_form(input_ids, attention_mask, self._special)
        return positions.layout(input_ids, attention_mask, self._special)

    def _loss(
        self,
        hidden: Float[Tensor, "B S D"],
        labels: Int[Tensor, "B S"],
        num_items: Tensor | int | None,
    ) -> Float[Tensor, ""]:
        """Return the mean loss of the tokens that have a label.

        Only they get logits, in fp32, a chunk at a time, and once more in the backward pass.
        """
        targets = labels[:, 1:].to(hidden.device)
        wanted = targets != IGNORE_INDEX
        rows, targets = hidden[:, :-1][wanted], targets[wanted]
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, max(1, len(rows)), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            total = total + checkpoint(
                self._loss_sum, rows[chunk], targets[chunk], use_reentrant=False
            )
        count = wanted.sum().clamp(min=1) if num_items is None else num_items
        return total / count

    def _loss_sum(self, rows: Float[Tensor, "N D"], targets: Int[Tensor, " N"]) -> Tensor:
        return F.cross_entropy(self.lm_head(rows).float(), targets, reduction="sum")

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Int[Tensor, "B S"],
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return what `forward` needs for the next token.

        Raises:
            ValueError: Of `input_ids` only the end is given, or positions that are not ours.
        """
        if kwargs.get("position_ids") is not None:
            raise ValueError("generate makes ChatGLM's positions itself: leave position_ids away")
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        num_cached = int(cache.get_seq_length()) if cache is not None else 0
        num_new = input_ids.shape[1] - num_cached
        if num_new < 1:
            raise ValueError(
                "with a cache, generate needs the ids of the whole sequences, those in it included"
            )
        if not num_cached:
            positions.require_form(input_ids, attention_mask, self._special)
        placed = positions.layout(input_ids, attention_mask, self._special, num_new)
        inputs = {
            "input_ids": input_ids[:, num_cached:].contiguous(),
            "attention_mask": placed.mask,
            "position_ids": placed.position_ids,
            CACHE: cache,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep,
        }
        return {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }

    def _prepare_position_ids_for_generation(self, *_: Any, **__: Any) -> None:
        """Keep `generate` from making the positions of another kind of model."""

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> Any:
        processors = super()._get_logits_processor(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        assert self.config.num_used_ids is not None
        processors.insert(0, UnusedIds(self.config.first_used_id, self.config.num_used_ids))
        return processors


def _kept(
    hidden: Float[Tensor, "B S D"], logits_to_keep: int | Tensor | None
) -> Float[Tensor, "B N D"]:
    if isinstance(logits_to_keep, Tensor):
        return hidden[:, logits_to_keep]
    return hidden[:, -logits_to_keep:] if logits_to_keep else hidden


def _for_cache(mask: Tensor, cache: Cache | None) -> Tensor:
    """Return the mask for the keys that the cache will give.

    Caches of fixed size give more keys than there are tokens; what is behind them is hidden.
    """
    if cache is None:
        return mask
    num_keys, _ = cache.get_mask_sizes(mask.shape[-2], 0)
    return F.pad(mask, (0, int(num_keys) - mask.shape[-1]))
