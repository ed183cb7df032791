"""ModelConfig: ranges, the parameter count, and the way to Hugging Face and back."""

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.errors import CheckpointError, ConfigError
from chatlm.model.config import FEED_FORWARDS, POSITIONS, ModelConfig

sizes = st.integers(1, 64)
configs = st.builds(
    ModelConfig,
    vocab_size=st.integers(8, 99),
    d_model=sizes,
    d_kv=sizes,
    d_ff=sizes,
    num_heads=sizes,
    num_layers=sizes,
    num_decoder_layers=sizes,
    feed_forward_proj=st.sampled_from(FEED_FORWARDS),
    relative_attention_num_buckets=st.sampled_from([4, 8, 32]),
    relative_attention_max_distance=st.integers(17, 500),
    dropout_rate=st.floats(0, 0.9),
    layer_norm_epsilon=st.floats(1e-9, 1e-3),
    initializer_factor=st.floats(0.1, 2.0),
    pad_token_id=st.integers(0, 1),
    eos_token_id=st.integers(2, 3),
    unk_token_id=st.integers(4, 7),
)


@given(configs)
def test_config_survives_the_way_to_hugging_face_and_back(config):
    assert ModelConfig.from_hf(config.to_hf()) == config


def test_rotary_positions_survive_and_are_no_t5_to_others(small_config):
    config = small_config(position="rope")
    kept = config.to_hf()
    assert ModelConfig.from_hf(kept) == config
    assert kept["model_type"] != "t5"
    with pytest.raises(CheckpointError, match="contradict each other"):
        ModelConfig.from_hf(kept | {"position": "t5"})
    with pytest.raises(ConfigError, match="even number"):
        small_config(position="rope", d_kv=5)
    with pytest.raises(ConfigError, match="position='alibi'"):
        small_config(position="alibi")


@given(configs)
def test_transformers_reads_the_same_numbers(config):
    from transformers import T5Config

    theirs = T5Config(**config.to_hf())
    for field in dataclasses.fields(config):
        if field.name != "position":  # theirs has one kind
            assert getattr(theirs, field.name) == getattr(config, field.name)
    assert theirs.scale_decoder_outputs
    assert theirs.decoder_start_token_id == config.pad_token_id


@pytest.mark.parametrize("feed_forward_proj", FEED_FORWARDS)
@pytest.mark.parametrize("num_decoder_layers", [1, 3])
@pytest.mark.parametrize("position", POSITIONS)
def test_num_parameters_counts_the_real_module(
    small_config, feed_forward_proj, num_decoder_layers, position
):
    from chatlm.model.t5 import T5

    config = small_config(
        feed_forward_proj=feed_forward_proj,
        num_decoder_layers=num_decoder_layers,
        position=position,
    )
    assert sum(p.numel() for p in T5(config).parameters()) == config.num_parameters()


def test_the_default_is_the_model_of_187_7_million():
    import torch

    from chatlm.model.t5 import T5

    with torch.device("meta"):
        model = T5(ModelConfig())
    assert sum(p.numel() for p in model.parameters()) == ModelConfig().num_parameters()
    assert ModelConfig().num_parameters() == 187_692_288


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"d_model": 0}, "d_model=0: expected a whole number above 0"),
        ({"feed_forward_proj": "swish"}, "feed_forward_proj='swish': expected one of relu"),
        ({"dropout_rate": 1.0}, "dropout_rate=1.0: expected 0 or more and below 1"),
        ({"dropout_rate": float("nan")}, "dropout_rate=nan"),
        ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon=0.0: expected a number above 0"),
        ({"relative_attention_num_buckets": 6}, "expected a multiple of 4"),
        ({"relative_attention_max_distance": 16}, "expected more than half of"),
        ({"eos_token_id": 29298}, "eos_token_id=29298: expected an id of the vocabulary"),
        ({"eos_token_id": 0}, "pad_token_id and eos_token_id are both 0"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(overrides, message):
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model_type": "mt5"}, "model_type='mt5'"),
        ({"architectures": ["T5EncoderModel"]}, "architectures=['T5EncoderModel']"),
        ({"tie_word_embeddings": False}, "an untied head cannot be loaded"),
        ({"scale_decoder_outputs": False}, "scale_decoder_outputs = false"),
        ({"decoder_start_token_id": 1}, "decoder_start_token_id=1"),
        ({"d_kv": None}, "config.json lacks d_kv"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj='gated-silu'"),
        ({"d_model": "wide"}, "config.json has d_model='wide': expected one int"),
        ({"eos_token_id": [1, 3]}, "config.json has eos_token_id=[1, 3]: expected one int"),
    ],
)
def test_a_foreign_config_is_refused(overrides, message):
    with pytest.raises(CheckpointError) as caught:
        ModelConfig.from_hf({**ModelConfig().to_hf(), **overrides})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_old_config_takes_the_defaults_of_t5():
    old = dict.fromkeys(("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers"), 16)
    config = ModelConfig.from_hf({"model_type": "t5", **old})
    assert config.num_decoder_layers == 16
    assert config.dropout_rate == 0.1
    assert config.relative_attention_max_distance == 128


def test_importing_the_config_imports_no_torch():
    code = "import sys, chatlm.model.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
