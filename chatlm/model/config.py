"""The shape of a T5, in the words of Hugging Face's T5Config, checked once when it is made.

In: numbers, or the dict of a `config.json`. Out: a frozen `ModelConfig`, its parameter count, and
the dict that `T5ForConditionalGeneration` reads. Imports no torch and touches no file.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from chatlm.errors import CheckpointError, ConfigError
from chatlm.untrusted import shown

FEED_FORWARDS = ("relu", "gated-gelu")
POSITIONS = ("t5", "rope")

ARCHITECTURE = "T5ForConditionalGeneration"
ROTARY_ARCHITECTURE = "RotaryT5"
ROTARY_MODEL_TYPE = "chatlm_rope"
"""Model type of what Hugging Face has no class for: T5 with rotary positions."""

_TOO_LARGE = 1 << 31
_REQUIRED_KEYS = ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the shape and the arithmetic of one T5.

    The defaults are the 0.2B model. The decoder starts from `pad_token_id`, as in every T5.

    Raises:
        ConfigError: A value is out of its range; the message names the key and the range.

    Source: Raffel et al. 2020, arXiv:1910.10683; the gated form is T5 v1.1, arXiv:2002.05202.
    Differs from T5 v1.1 in that the output head is always the embedding table.
    """

    vocab_size: int = 29298
    d_model: int = 768
    d_kv: int = 64
    d_ff: int = 3072
    num_heads: int = 12
    num_layers: int = 10
    num_decoder_layers: int = 10
    feed_forward_proj: str = "relu"
    position: str = "t5"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.0
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    pad_token_id: int = 0
    eos_token_id: int = 1
    unk_token_id: int = 2

    def __post_init__(self) -> None:
        for key in (*_REQUIRED_KEYS, "num_decoder_layers"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}: expected a whole number above 0")
        self._check_choices()
        self._check_positions()
        self._check_token_ids()

    def _check_choices(self) -> None:
        if self.feed_forward_proj not in FEED_FORWARDS:
            raise ConfigError(
                f"feed_forward_proj={shown(self.feed_forward_proj)}: expected one of "
                + ", ".join(FEED_FORWARDS)
            )
        if self.position not in POSITIONS:
            raise ConfigError(f"position={self.position!r}: expected one of {', '.join(POSITIONS)}")
        if self.is_rotary and self.d_kv % 2:
            raise ConfigError(f"d_kv={self.d_kv}: rotary positions need an even number")
        if not 0.0 <= self.dropout_rate < 1.0:
            raise ConfigError(f"dropout_rate={self.dropout_rate}: expected 0 or more and below 1")
        for key in ("layer_norm_epsilon", "initializer_factor"):
            if not getattr(self, key) > 0.0:
                raise ConfigError(f"{key}={getattr(self, key)}: expected a number above 0")

    def _check_positions(self) -> None:
        buckets = self.relative_attention_num_buckets
        if buckets < 4 or buckets % 4:
            # The encoder gives half of the buckets to each direction, and half of those to
            # single distances, so only a multiple of 4 uses every bucket.
            raise ConfigError(
                f"relative_attention_num_buckets={buckets}: expected a multiple of 4, at least 4"
            )
        if self.relative_attention_max_distance <= buckets // 2:
            raise ConfigError(
                f"relative_attention_max_distance={self.relative_attention_max_distance}: "
                f"expected more than half of relative_attention_num_buckets={buckets}"
            )

    def _check_token_ids(self) -> None:
        for key in ("pad_token_id", "eos_token_id", "unk_token_id"):
            if not 0 <= getattr(self, key) < self.vocab_size:
                raise ConfigError(
                    f"{key}={getattr(self, key)}: expected an id of the vocabulary, "
                    f"0 to {self.vocab_size - 1}"
                )
        if self.pad_token_id == self.eos_token_id:
            raise ConfigError(
                f"pad_token_id and eos_token_id are both {self.pad_token_id}: "
                "the end of an answer could not be told from padding; give them different ids"
            )

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward multiplies its GELU by a second projection."""
        return self.feed_forward_proj.startswith("gated")

    @property
    def is_rotary(self) -> bool:
        """Whether positions are rotations of queries and keys, and not T5's learned bias."""
        return self.position == "rope"

    def num_parameters(self) -> int:
        """Return the number of trainable values; the tied table counts once."""
        attention = 4 * self.d_model * self.d_kv * self.num_heads
        feed_forward = (3 if self.is_gated else 2) * self.d_model * self.d_ff
        encoder_layer = attention + feed_forward + 2 * self.d_model
        decoder_layer = 2 * attention + feed_forward + 3 * self.d_model
        bias = 0 if self.is_rotary else self.relative_attention_num_buckets * self.num_heads
        per_stack = bias + self.d_model
        return (
            self.vocab_size * self.d_model
            + self.num_layers * encoder_layer
            + self.num_decoder_layers * decoder_layer
            + 2 * per_stack
        )

    def to_hf(self) -> dict[str, Any]:
        """Return the `config.json` of `T5ForConditionalGeneration`, tied and scaled.

        Tied and scaled is the one variant that transformers 4 and 5 read alike. With rotary
        positions the model type is one that transformers does not know and says so.
        """
        values = dataclasses.asdict(self)
        if not self.is_rotary:
            del values["position"]
        return {
            "architectures": [ROTARY_ARCHITECTURE if self.is_rotary else ARCHITECTURE],
            "model_type": ROTARY_MODEL_TYPE if self.is_rotary else "t5",
            "is_encoder_decoder": True,
            "use_cache": True,
            "tie_word_embeddings": True,
            "decoder_start_token_id": self.pad_token_id,
            **values,
        }

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any]) -> "ModelConfig":
        """Return the config that a `config.json` of `T5ForConditionalGeneration` describes.

        Args:
            hf: The parsed file. Keys that Hugging Face lets a T5 omit take its T5 defaults.

        Raises:
            CheckpointError: Another architecture, an untied or unscaled head, another decoder
                start than pad, or a missing or impossible value.
        """
        _refuse_foreign(hf)
        missing = [key for key in _REQUIRED_KEYS if hf.get(key) is None]
        if missing:
            raise CheckpointError(f"config.json lacks {', '.join(missing)}: expected a T5 config")
        values = _typed_values(hf, dataclasses.fields(cls))
        values.setdefault("num_decoder_layers", values["num_layers"])
        values.setdefault("dropout_rate", 0.1)
        try:
            config = cls(**values)
        except ConfigError as error:
            raise CheckpointError(f"config.json does not describe a T5: {error}") from error
        if config.is_rotary != (hf["model_type"] == ROTARY_MODEL_TYPE):
            raise CheckpointError(
                f"config.json has model_type={shown(hf['model_type'])} and position="
                f"{config.position!r}, which contradict each other: copy the file anew"
            )
        start = hf.get("decoder_start_token_id")
        if start is not None and start != config.pad_token_id:
            raise CheckpointError(
                f"config.json has decoder_start_token_id={shown(start)}: expected pad_token_id="
                f"{config.pad_token_id}, from which every T5 decoder starts"
            )
        return config


def _typed_values(
    hf: Mapping[str, Any], fields: tuple[dataclasses.Field[Any], ...]
) -> dict[str, Any]:
    """Return the entries of `hf` that are fields and not null, of the type of their default."""
    values = {}
    for field in fields:
        value = hf.get(field.name)
        if value is None:
            continue
        kind = type(field.default)
        kinds = (int, float) if kind is float else (kind,)
        # Beyond this no number of a T5 makes sense, and arithmetic with it would not end well.
        if type(value) not in kinds or (kind is not str and not abs(value) < _TOO_LARGE):
            raise CheckpointError(
                f"config.json has {field.name}={shown(value)}: expected one {kind.__name__}"
            )
        values[field.name] = value
    return values


def _refuse_foreign(hf: Mapping[str, Any]) -> None:
    """Raise unless the dict describes a tied, scaled `T5ForConditionalGeneration`."""
    known = {"t5": ARCHITECTURE, ROTARY_MODEL_TYPE: ROTARY_ARCHITECTURE}
    kind = hf.get("model_type")
    architecture = known.get(kind) if isinstance(kind, str) else None
    architectures = hf.get("architectures") or [architecture]
    is_list = isinstance(architectures, list)
    if architecture is None or not is_list or architecture not in architectures:
        raise CheckpointError(
            f"config.json describes model_type={shown(kind)}, architectures="
            f"{shown(architectures)}: expected a {ARCHITECTURE} (model_type 't5')"
        )
    if hf.get("tie_word_embeddings") is False or hf.get("scale_decoder_outputs") is False:
        raise CheckpointError(
            "config.json has tie_word_embeddings or scale_decoder_outputs = false: expected a T5 "
            "whose output head is its embedding table, scaled; an untied head cannot be loaded"
        )
