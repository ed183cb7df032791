"""States of the optimizer, checkpoints and shards, against real ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chatlm import cli, optim
from chatlm.checkpoint.moments import write_moments
from chatlm.config import TrainConfig
from chatlm.model import hf
from chatlm.model.t5 import T5
from chatlm.plan import memory
from chatlm.plan.load import Load
from chatlm.plan.memory import Setup, Split
from tests.tiny_data import MODEL

LOAD = Load(np.array([9, 4]), np.array([7, 20]))


def settings(**changes):
    return cli.build(TrainConfig, MODEL, {"model.vocab_size": 700}, changes)


def stepped(config):
    """Returns a model's optimizer after one step."""
    model = T5(config.model)
    optim.freeze(model, config.frozen_parts())
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = optim.make_optimizer(named.items(), config)
    for parameter in named.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("freeze", ["none", "embedding", "encoder"])
def test_moments_take_the_predicted_bytes(optimizer, freeze):
    config = settings(optimizer=optimizer, freeze=freeze)
    _, made = stepped(config)
    moments = [
        value for state in made.state.values() for name, value in state.items() if name != "step"
    ]
    assert sum(value.nbytes for value in moments) == memory.optimizer_bytes(config)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_checkpoint_takes_the_predicted_bytes_and_its_headers(optimizer, tmp_path):
    config = settings(optimizer=optimizer)
    model, made = stepped(config)
    hf.save_pretrained(dict(model.named_parameters()), config.model, tmp_path)
    moments = {
        f"{group['name']}|{moment}": value
        for group in made.param_groups
        for moment, value in made.state[group["params"][0]].items()
    }
    write_moments(tmp_path, moments)
    written = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert 0 <= written - memory.checkpoint_bytes(config) < 30_000


def predicted(sharding="single", processes=1, *, half=False, accumulates=True, **changes):
    config = settings(optimizer="adamw", **changes)
    setup = Setup(config, Split(sharding, processes), False, half, accumulates, 100)
    return memory.predict(setup, LOAD)


def test_parts_are_named_and_add_up():
    found = predicted()
    assert found.total == sum(found.parts.values())
    parameters = settings().model.num_parameters()
    assert found.parts["weights"] == found.parts["gradients"] == 4 * parameters
    assert found.parts["optimizer state"] == 8 * parameters
    assert found.parts[memory.LIBRARIES] == 100
    assert found.without(memory.LIBRARIES, memory.SLACK).total < found.total


def test_shards_halve_what_they_are_made_of():
    whole = predicted("ddp", 2)
    for sharding, halved in (
        ("zero1", {"optimizer state"}),
        ("zero2", {"optimizer state", "gradients"}),
        ("zero3", {"optimizer state", "gradients", "weights"}),
        ("fsdp2", {"optimizer state", "gradients", "weights"}),
    ):
        found = predicted(sharding, 2)
        for name in ("optimizer state", "gradients", "weights"):
            assert found.parts[name] == whole.parts[name] / (2 if name in halved else 1)


def test_gradients_count_beside_activations_only_when_microbatches_add_up():
    many = Load(np.full(400, 20), np.full(400, 20))
    setup = Setup(settings(), Split(), False, False, True, 0)
    with_others = memory.predict(setup, many)
    alone = memory.predict(replace(setup, accumulates=False), many)
    gradients = 4 * settings().model.num_parameters()
    assert with_others.total - alone.total == gradients


def test_bf16_products_need_less_for_activations():
    assert predicted(half=True).parts["activations"] < predicted().parts["activations"]
