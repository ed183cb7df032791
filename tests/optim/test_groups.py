"""Each tensor gets the optimizer and the rate that it should."""

import pytest
import torch

from chatlm import optim
from chatlm.config import TrainConfig
from chatlm.errors import ConfigError
from chatlm.model.t5 import T5
from chatlm.optim.groups import MIN_RMS, is_for_muon


def make(small_config, **changes):
    torch.manual_seed(0)
    model = T5(small_config())
    config = TrainConfig(**changes)
    optimizer = optim.make_optimizer(model.named_parameters(), config)
    return model, config, optimizer


def step(model, config, optimizer, share=1.0):
    named = dict(model.named_parameters())
    scales = optim.tensor_scales(named, rms_scaled=config.scales_rates)
    optim.set_rates(optimizer, config.learning_rate * share, scales)
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def rates(optimizer):
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def test_muon_gets_the_matrices_inside_the_layers_and_nothing_else(small_config):
    model, _, _ = make(small_config)
    for name, tensor in model.named_parameters():
        outside = "norm" in name or "relative" in name or name == "embedding.weight"
        assert is_for_muon(name, tensor) is not outside, name


def test_the_embedding_table_has_a_rate_of_its_own_under_muon(small_config):
    model, config, optimizer = make(
        small_config, optimizer="muon", learning_rate=0.01, embedding_learning_rate=0.3
    )
    step(model, config, optimizer, share=0.5)
    found = rates(optimizer)
    assert found.pop("embedding.weight") == pytest.approx(0.15)
    assert set(found.values()) == {0.005}


def test_the_table_moves_by_its_rate_and_matrices_by_unit_singular_values(small_config):
    changes = {"optimizer": "muon", "learning_rate": 0.01, "embedding_learning_rate": 0.3}
    model, config, optimizer = make(small_config, **changes)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(model, config, optimizer)
    for name, parameter in model.named_parameters():
        moved = parameter.detach() - before[name]
        if is_for_muon(name, parameter):
            scale = max(1, parameter.shape[0] / parameter.shape[1]) ** 0.5
            values = torch.linalg.svdvals(moved) / (0.01 * scale)
            assert values.max() < 1.22, name
            assert values.median() > 0.67, name
        else:
            # Adam's first step is the sign of the gradient, times the rate.
            rate = 0.3 if name == "embedding.weight" else 0.01
            assert moved.abs().mean().item() == pytest.approx(rate, rel=1e-3), name


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_another_learning_rate_gives_other_weights(small_config, optimizer):
    results = []
    for rate in (1e-4, 1e-2):
        model, config, made = make(small_config, optimizer=optimizer, learning_rate=rate)
        step(model, config, made)
        name = "encoder.layers.0.attention.q.weight"
        results.append(model.get_parameter(name).detach().clone())
    assert not torch.equal(*results)


def test_an_adamw_step_is_relative_to_the_size_of_a_tensor(small_config):
    model, config, optimizer = make(small_config, optimizer="adamw", learning_rate=1e-2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(model, config, optimizer)
    for name, parameter in model.named_parameters():
        moved = (parameter - before[name]).abs().mean().item()
        rms = before[name].pow(2).mean().sqrt().item()
        assert moved == pytest.approx(1e-2 * rms, rel=1e-3), name


def test_without_rms_scaling_all_tensors_move_alike(small_config):
    changes = {"optimizer": "adamw", "learning_rate": 1e-3, "rms_scaled": False}
    model, config, optimizer = make(small_config, **changes)
    before = model.embedding.weight.detach().clone()
    step(model, config, optimizer)
    moved = (model.embedding.weight - before).abs().mean().item()
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_a_tensor_of_zeros_can_still_move():
    scales = optim.tensor_scales({"zeros": torch.zeros(4)}, rms_scaled=True)
    assert scales == {"zeros": pytest.approx(MIN_RMS)}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_weight_decay_spares_norm_scales(small_config, optimizer):
    _, _, made = make(small_config, optimizer=optimizer, weight_decay=0.1)
    decay = {group["name"]: group["weight_decay"] for group in made.param_groups}
    assert decay["embedding.weight"] == 0.1
    assert decay["encoder.layers.0.attention.q.weight"] == 0.1
    assert decay["encoder.norm.weight"] == 0.0


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_frozen_parts_do_not_reach_the_optimizer(small_config, optimizer):
    torch.manual_seed(0)
    model = T5(small_config())
    frozen = optim.freeze(model, ("embedding", "encoder"))
    config = TrainConfig(optimizer=optimizer)
    made = optim.make_optimizer(model.named_parameters(), config)
    names = [group["name"] for group in made.param_groups]
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
