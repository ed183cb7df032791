"""Launch configurations that bring an arithmetic of their own, or what cannot be, are refused."""

import pytest

from chatlm import launch
from chatlm.config import TrainConfig
from chatlm.errors import ConfigError
from tests.trainings import forget_accelerate

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.fixture(autouse=True)
def fresh_accelerate():
    forget_accelerate()


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "8"}, "gradient_accumulation_steps: 8; remove"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "compile= decides that"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "fsdp_version"),
        (FSDP2 | {"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        (FSDP2 | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "fsdp_activation_checkpointing"),
        ({"MASTER_PORT": "1", "ACCELERATE_MIXED_PRECISION": "no"}, "started one"),
    ],
)
def test_what_a_launch_line_must_not_say(monkeypatch, env, message):
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError) as caught:
        launch.launch(TrainConfig(device="cpu", optimizer="muon"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fsdp2_with_one_process_is_refused(monkeypatch):
    for key, value in FSDP2.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match="launch two or more"):
        launch.launch(TrainConfig(device="cpu", optimizer="adamw", threads=1))
