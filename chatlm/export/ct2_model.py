"""A checkpoint's weights in the form that CTranslate2 reads.

In: the state of a `T5` and its tokenizer. Out: model.bin, config.json and shared_vocabulary.json in
a folder. It does not judge what quantization does to the answers; `drift` does. The bytes of
model.bin are those that CTranslate2's own converter writes, which would load the model once more,
through transformers, past the checkpoint's sums, and which drops `layer_norm_epsilon`.

Source: the layout of `ctranslate2.specs.TransformerSpec`, https://opennmt.net/CTranslate2/.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import common_spec, transformer_spec
from torch import Tensor

from chatlm.errors import ConfigError
from chatlm.model.config import ModelConfig
from chatlm.tokenizer import TOKENIZER_FILE, Tokenizer

State = Mapping[str, Tensor]


def require_possible(config: ModelConfig) -> None:
    """Refuses a model that CTranslate2 cannot compute.

    Raises:
        ConfigError: it has rotary positions.
    """
    if config.is_rotary:
        raise ConfigError(
            "position=rope: CTranslate2 knows no T5 with rotary positions; chat with the "
            "checkpoint itself, or train with model.position=t5"
        )


def write_model(
    folder: Path, state: State, config: ModelConfig, tokens: list[str], quantization: str
) -> None:
    """Writes the model's files into an empty folder.

    Args:
        folder: where to.
        state: the weights under our names, fp32.
        config: the model's shape.
        tokens: as many as the model has ids, each another one; from `vocabulary`.
        quantization: one of `ct2_files.QUANTIZATIONS`.
    """
    spec: Any = transformer_spec.TransformerSpec.from_config(
        (config.num_layers, config.num_decoder_layers),
        config.num_heads,
        pre_norm=True,
        activation=_activation(config),
        ffn_glu=config.is_gated,
        relative_attention_bias=True,
        rms_norm=True,
    )
    _set_stack(spec.encoder, "encoder", state, config)
    _set_stack(spec.decoder, "decoder", state, config)
    spec.decoder.projection.weight = _array(state, "embedding")
    spec.decoder.scale_outputs = np.float32(config.d_model**-0.5)
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.bos_token = spec.config.decoder_start_token = tokens[config.pad_token_id]
    spec.config.eos_token = tokens[config.eos_token_id]
    spec.config.unk_token = tokens[config.unk_token_id]
    spec.config.layer_norm_epsilon = config.layer_norm_epsilon
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))


def vocabulary(folder: Path, tokenizer: Tokenizer, config: ModelConfig) -> list[str]:
    """Returns a name for each id of the model; ids beyond the tokenizer get made-up ones.

    Args:
        folder: the tokenizer's.
        tokenizer: the loaded one, which vouches for the files.
        config: the model's.
    """
    parts = json.loads((folder / TOKENIZER_FILE).read_text(encoding="utf-8"))
    listed: Any = parts["model"]["vocab"]
    if isinstance(listed, dict):
        names = {index: name for name, index in listed.items()}
    else:
        names = {index: entry[0] for index, entry in enumerate(listed)}
    names |= {token["id"]: token["content"] for token in parts.get("added_tokens") or ()}
    taken = set(names.values())
    for index in range(config.vocab_size):
        name = names.get(index, f"<extra_id_{index}>")
        while index not in names and name in taken:
            name = f"<{name}>"
        names[index] = name
        taken.add(name)
    assert tokenizer.vocab_size <= config.vocab_size
    tokens = [names[index] for index in range(config.vocab_size)]
    assert len(set(tokens)) == len(tokens), "a tokenizer gives two ids the same name"
    return tokens


def _activation(config: ModelConfig) -> common_spec.Activation:
    return common_spec.Activation.GELUTanh if config.is_gated else common_spec.Activation.RELU


def _set_stack(spec: Any, stack: str, state: State, config: ModelConfig) -> None:
    embeddings = spec.embeddings[0] if isinstance(spec.embeddings, list) else spec.embeddings
    embeddings.weight = _array(state, "embedding")
    spec.scale_embeddings = False
    spec.layer_norm.gamma = _array(state, f"{stack}.norm")
    bias = _array(state, f"{stack}.relative_attention_bias")
    for index, layer in enumerate(spec.layer):
        name = f"{stack}.layers.{index}"
        attention = layer.self_attention
        _set_attention(attention, f"{name}.attention", state, groups=("qkv",))
        attention.relative_attention_bias = bias
        distance = np.int32(config.relative_attention_max_distance)
        attention.relative_attention_max_distance = distance
        if stack == "decoder":
            _set_attention(layer.attention, f"{name}.cross_attention", state, groups=("q", "kv"))
        _set_feed_forward(layer.ffn, f"{name}.feed_forward", state, config)


def _set_attention(spec: Any, name: str, state: State, groups: tuple[str, ...]) -> None:
    """Fills an attention; CTranslate2 computes the projections of a group at once."""
    spec.layer_norm.gamma = _array(state, f"{name}_norm")
    spec.queries_scale = np.float32(1.0)  # a T5 does not divide by sqrt(d_kv)
    for linear, group in zip(spec.linear, groups, strict=False):
        linear.weight = np.concatenate([_array(state, f"{name}.{part}") for part in group])
    spec.linear[-1].weight = _array(state, f"{name}.o")


def _set_feed_forward(spec: Any, name: str, state: State, config: ModelConfig) -> None:
    spec.layer_norm.gamma = _array(state, f"{name}_norm")
    spec.linear_0.weight = _array(state, f"{name}.wi_0" if config.is_gated else f"{name}.wi")
    if config.is_gated:
        spec.linear_0_noact.weight = _array(state, f"{name}.wi_1")
    spec.linear_1.weight = _array(state, f"{name}.wo")


def _array(state: State, name: str) -> Any:
    # A copy: CTranslate2 quantizes in place.
    return np.array(state[f"{name}.weight"].detach().cpu().float().numpy())
