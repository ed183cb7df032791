"""The list of what autograd saves is read off the model: here it is compared with the model."""

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from chatlm.model.config import ModelConfig
from chatlm.model.t5 import T5
from chatlm.plan import activations
from chatlm.plan.activations import Kernels
from chatlm.plan.load import Load

LOAD = Load(np.array([97, 40, 83]), np.array([131, 20, 12]))


def shape(feed_forward, **changes):
    values = {
        "vocab_size": 1009,
        "d_model": 64,
        "d_kv": 16,
        "d_ff": 192,
        "num_heads": 2,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "feed_forward_proj": feed_forward,
    }
    return ModelConfig(**values | changes)


def batch(config, load):
    offsets = [
        torch.from_numpy(np.concatenate([[0], np.cumsum(side)]).astype(np.int32))
        for side in (load.source_lengths, load.target_lengths)
    ]
    ids = [torch.randint(3, config.vocab_size, (int(one[-1]),)) for one in offsets]
    return *ids, *offsets


@pytest.mark.parametrize("feed_forward", ["relu", "gated-gelu"])
@pytest.mark.parametrize("half", [False, True])
def test_the_saved_bytes_are_those_that_autograd_saves(feed_forward, half):
    config = shape(feed_forward)
    model = T5(config)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        model(*batch(config, LOAD))
    # The loss keeps the gradients that it made in its forward pass.
    of_loss = 4 * config.d_model * (LOAD.num_target_tokens + config.vocab_size)
    predicted = sum(one.num_bytes for one in activations.saved(config, LOAD, 2 if half else 4))
    assert sum(size for size, _ in found.values()) - of_loss == predicted


@pytest.mark.parametrize(
    ("feed_forward", "changes"),
    [("relu", {}), ("gated-gelu", {}), ("relu", {"vocab_size": 60, "d_ff": 2048})],
)
def test_the_worst_moment_is_the_predicted_one_to_two_percent(feed_forward, changes):
    """Of every byte that PyTorch takes and gives back; the third model's is not in the loss."""
    config = shape(feed_forward, **changes)
    load = Load(np.full(12, 40), np.full(12, 150))
    model, tensors = T5(config), batch(config, load)
    model(*tensors).loss_sum.backward()  # gradients are there, as with accumulation
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model(*tensors).loss_sum.backward()
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    events = [one for one in profiled.profiler.kineto_results.events() if one.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    sizes = [event.nbytes() for event in events]  # pyright: ignore[reportAttributeAccessIssue]
    measured = int(np.cumsum(sizes).max())
    kept = sum(one.num_bytes for one in activations.saved(config, load, 4))
    beside = max(
        activations.loss_peak(config, load, 4, Kernels()),
        activations.backward_peak(config, load, 4),
    )
    assert kept + beside == pytest.approx(measured, rel=0.02)


def test_rows_of_a_load_are_cut_to_its_tokens():
    from chatlm.plan.load import filled

    load = filled(np.array([5, 9]), np.array([7, 30]), 100)
    assert load.num_tokens == 100
    assert load.source_lengths[:4].tolist() == [5, 9, 5, 9]
    assert min(load.source_lengths.min(), load.target_lengths.min()) >= 1
    assert filled(np.array([50]), np.array([60]), 10).num_tokens == 10
