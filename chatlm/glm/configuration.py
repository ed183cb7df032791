"""ChatGLM-6B's config.json.

In: the fields of the published file, older and newer. Out: `ChatGLMConfig`, or one line that says
why the folder is another model's.
"""

from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig

from chatlm.errors import CheckpointError
from chatlm.glm import numbering

ROPE_PRECISIONS = ("fp16", "fp32")
_OTHERS = ("padded_vocab_size", "multi_query_attention")


class ChatGLMConfig(PreTrainedConfig):
    """The shape of a ChatGLM-6B.

    Attributes:
        rope_precision: fp16 rounds the angles of positions as the published code does, and so as
            the published weights were trained; fp32 does not round.
        num_used_ids: Rows of the table that stand for tokens; those behind are never generated.
    """

    model_type = "chatglm"
    attribute_map = {  # noqa: RUF012 as `transformers` declares it
        "num_hidden_layers": "num_layers",
        "intermediate_size": "inner_hidden_size",
        "max_position_embeddings": "max_sequence_length",
        "layer_norm_eps": "layernorm_epsilon",
    }
    keys_to_ignore_at_inference = ["cache", "past_key_values"]  # noqa: RUF012

    vocab_size: int = numbering.VOCAB_SIZE
    hidden_size: int = 4096
    inner_hidden_size: int = 16384
    num_layers: int = 28
    num_attention_heads: int = 32
    layernorm_epsilon: float = 1e-5
    max_sequence_length: int = 2048
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    mask_token_id: int | None = None
    gmask_token_id: int | None = None
    num_used_ids: int | None = None
    rope_precision: str = "fp16"
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Fills in what follows from the size of the table, and refuses other models.

        Raises:
            CheckpointError: The config is that of another model, or no model can have it.
        """
        _refuse_others(kwargs)
        super().__post_init__(**kwargs)
        self._fill_ids()
        faults = list(self._faults())
        if faults:
            raise CheckpointError(f"config.json: {'; '.join(faults)}")

    @property
    def first_used_id(self) -> int:
        """The first id that a text can have: those before are the old numbering's images."""
        return numbering.shift_of(self.vocab_size)

    def _fill_ids(self) -> None:
        names = ("bos_token_id", "eos_token_id", "pad_token_id", "mask_token_id", "gmask_token_id")
        if any(getattr(self, name) is None for name in names):
            for name, value in numbering.special_ids(self.vocab_size).items():
                if getattr(self, name) is None:
                    setattr(self, name, value)
        if self.num_used_ids is None:
            padding = numbering.VOCAB_SIZE - numbering.NUM_PIECES
            is_published = numbering.is_published(self.vocab_size)
            self.num_used_ids = self.vocab_size - (padding if is_published else 0)

    def _faults(self) -> Iterator[str]:
        """Yields what is wrong with the values."""
        if self.rope_precision not in ROPE_PRECISIONS:
            choices = " or ".join(ROPE_PRECISIONS)
            yield f"rope_precision={self.rope_precision} must be {choices}"
        for name in ("hidden_size", "inner_hidden_size", "num_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                yield f"{name}={getattr(self, name)} must be at least 1"
                return
        if self.hidden_size % (4 * self.num_attention_heads):
            yield (
                f"hidden_size={self.hidden_size} must be a multiple of 4 times "
                f"num_attention_heads={self.num_attention_heads}: each head has two halves, and "
                "each half pairs of dimensions"
            )
        assert self.num_used_ids is not None
        if not 0 < self.num_used_ids <= self.vocab_size:
            yield f"num_used_ids={self.num_used_ids} must be between 1 and {self.vocab_size}"


def _refuse_others(fields: dict[str, Any]) -> None:
    """Refuses what shares the model_type but is not this model.

    Raises:
        CheckpointError: Always one line.
    """
    if found := [name for name in _OTHERS if name in fields]:
        raise CheckpointError(
            f"config.json: {found[0]} says that this is ChatGLM2 or 3, whose architecture is "
            "another one; ChatGLM-6B (THUDM/chatglm-6b) is supported, and of the newer ones those "
            "that transformers has itself, such as THUDM/glm-4-9b-chat-hf"
        )
    if bits := fields.get("quantization_bit"):
        raise CheckpointError(
            f"config.json: quantization_bit={bits} says that these weights are quantised in "
            "ChatGLM's own way, which is not read; take the full ones (THUDM/chatglm-6b), which "
            "can be loaded in 4 or 8 bits"
        )
    if fields.get("position_encoding_2d") is False:
        raise CheckpointError(
            "config.json: position_encoding_2d=false; only ChatGLM-6B's two-dimensional positions "
            "are supported"
        )
    if fields.get("pre_seq_len"):
        raise CheckpointError(
            "config.json: pre_seq_len says that the weights have a P-Tuning prefix, which is not "
            "supported; take the plain THUDM/chatglm-6b"
        )
