"""The schedule is a pure function; the optimizer moves what it should, as far as it should."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatlm import optim
from chatlm.config import TrainConfig
from chatlm.errors import ConfigError
from chatlm.model.t5 import T5


def share(done, **changes):
    settings = {"warmup": 0.1, "final": 0.05, "schedule": "cosine"} | changes
    return optim.rate_share(done, **settings)


def test_the_schedule_rises_falls_and_ends_where_it_should():
    assert share(0.05) == pytest.approx(0.5)
    assert share(0.1) == pytest.approx(1.0)
    assert share(0.55) == pytest.approx(0.525)
    assert share(1.0) == pytest.approx(0.05)
    assert share(0.7, schedule="constant") == 1.0
    assert share(0.0, warmup=0.0) == pytest.approx(1.0)


@given(st.floats(0.1, 1), st.floats(0.1, 1))
def test_after_the_warm_up_cosine_only_falls(one, other):
    assert share(min(one, other)) >= share(max(one, other)) - 1e-12


def make(small_config, **changes):
    torch.manual_seed(0)
    model = T5(small_config())
    config = TrainConfig(**changes)
    optimizer = optim.make_optimizer(model.named_parameters(), config)
    return model, config, optimizer


def step(model, optimizer, rate, rms_scaled=True):
    named = dict(model.named_parameters())
    optim.set_rates(optimizer, rate, optim.tensor_scales(named, rms_scaled=rms_scaled))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def test_another_learning_rate_gives_other_weights(small_config):
    results = []
    for rate in (1e-4, 1e-2):
        model, _, optimizer = make(small_config)
        torch.manual_seed(1)
        step(model, optimizer, rate)
        results.append(model.embedding.weight.detach().clone())
    assert not torch.equal(*results)


def test_a_step_is_relative_to_the_size_of_a_tensor(small_config):
    model, _, optimizer = make(small_config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(model, optimizer, 1e-2)
    for name, parameter in model.named_parameters():
        # Adam's first step is the sign of the gradient, times the rate.
        moved = (parameter - before[name]).abs().mean().item()
        rms = before[name].pow(2).mean().sqrt().item()
        assert moved == pytest.approx(1e-2 * rms, rel=1e-3), name


def test_without_rms_scaling_all_tensors_move_alike(small_config):
    model, _, optimizer = make(small_config)
    before = model.embedding.weight.detach().clone()
    step(model, optimizer, 1e-3, rms_scaled=False)
    moved = (model.embedding.weight - before).abs().mean().item()
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_a_tensor_of_zeros_can_still_move():
    scales = optim.tensor_scales({"zeros": torch.zeros(4)}, rms_scaled=True)
    assert scales == {"zeros": pytest.approx(optim.MIN_RMS)}


def test_weight_decay_spares_norm_scales(small_config):
    _, _, optimizer = make(small_config, weight_decay=0.1)
    decay = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decay["embedding.weight"] == 0.1
    assert decay["encoder.norm.weight"] == 0.0


def test_frozen_parts_do_not_reach_the_optimizer(small_config):
    torch.manual_seed(0)
    model = T5(small_config())
    frozen = optim.freeze(model, ("embedding", "encoder"))
    names = {
        group["name"]
        for group in optim.make_optimizer(model.named_parameters(), TrainConfig()).param_groups
    }
    assert frozen == sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert all(name.startswith("decoder.") for name in names)
    assert len(names) == len(list(model.decoder.parameters()))


def test_freezing_everything_is_refused(small_config):
    with pytest.raises(ConfigError, match="leaves no weight to train"):
        optim.freeze(T5(small_config()), ("embedding", "encoder", "decoder"))


def test_finetuning_freezes_embedding_and_encoder_unless_told_otherwise():
    assert TrainConfig().frozen_parts() == ()
    assert TrainConfig(finetune=True).frozen_parts() == ("embedding", "encoder")
    assert TrainConfig(finetune=True, freeze="none").frozen_parts() == ()


def test_rates_stay_finite(small_config):
    model, config, optimizer = make(small_config)
    step(model, optimizer, config.learning_rate)
    assert all(math.isfinite(group["lr"]) for group in optimizer.param_groups)
