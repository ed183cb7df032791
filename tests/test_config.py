"""The settings of a run: what is refused, and what a preset may say."""

import pytest

from chatlm import cli
from chatlm.config import PRESETS, TrainConfig
from chatlm.errors import ConfigError


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_valid_settings(name):
    config = cli.build(TrainConfig, PRESETS[name])
    assert config.model.num_parameters() > 0


def test_the_base_preset_is_the_published_shape():
    config = cli.build(TrainConfig, PRESETS["base"])
    assert config.model.num_parameters() == 187_692_288


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"preset": "huge"}, "preset=huge: starter, small, base"),
        ({"schedule": "step"}, "schedule must be one of cosine, wsd, constant"),
        ({"decay_share": 0.0}, "decay_share must be in (0, 1]"),
        ({"optimizer": "sgd"}, "optimizer must be one of muon, adamw"),
        ({"embedding_learning_rate": 0.0}, "embedding_learning_rate must be above 0"),
        ({"epochs": 0.0}, "epochs or max_steps must be above 0"),
        ({"batch_size": 0}, "batch_size must be above 0"),
        ({"microbatch_tokens": 100}, "microbatch_tokens must hold one longest pair"),
        ({"freeze": "head"}, "freeze=head: none, or a comma-separated choice of"),
        ({"init_from": "out/x"}, "init_from= needs finetune=True"),
        ({"precision": "fp16"}, "precision must be auto, fp32 or bf16"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0"),
        ({"keep_checkpoints": 1}, "keep_checkpoints must be at least 2"),
        ({"gradient_shares": 3}, "gradient_shares must be 0 or a power of two"),
        ({"accept_changes": True}, "accept_changes=True needs resume=True"),
        ({"deterministic": True, "attention": "flex"}, "does not go with attention=flex"),
        ({"max_bad_steps": 0}, "max_bad_steps must be at least 1"),
        ({"hang_seconds": 1.0}, "hang_seconds must be at least 5"),
    ],
)
def test_what_cannot_work_is_refused(given, message):
    with pytest.raises(ConfigError) as caught:
        cli.build(TrainConfig, given)
    assert message in str(caught.value)


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        TrainConfig(batch_size=0, schedule="x", preset="y")
    assert len(str(caught.value).split("; ")) == 3
