"""Real trainings that fall ill: what they skip, where they go back to, when they give up."""

import json
import math
from collections.abc import Collection
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from chatlm import run_folder
from chatlm.checkpoint.paths import step_name, whole_steps
from chatlm.errors import SickRunError
from chatlm.health.care import read_ledger
from chatlm.model.t5 import T5, Encoder


@pytest.fixture
def run(run_on_sums):
    """Returns a function that trains in tmp_path and returns the run folder."""
    common = {"optimizer": "adamw", "learning_rate": 2e-2, "max_steps": 12}
    unjudged = {"eval_answers": 0, "eval_every_steps": 1000}
    return lambda name, **changes: run_on_sums(name, **common | unjudged | changes)


@contextmanager
def at_calls(calls: Collection[int], act, module: type[nn.Module] = T5, before: bool = False):
    """Calls `act(module, values)` at the given calls (from 1) of a kind of module in training."""
    count = 0

    def hook(here, arguments, output=None):
        nonlocal count
        if isinstance(here, module) and here.training:
            count += 1
            if count in calls:
                return act(here, arguments if before else output)
        return None

    register = register_module_forward_pre_hook if before else register_module_forward_hook
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


ONE_EACH = {"microbatch_tokens": 4096, "gradient_shares": 1}
"""Settings under which a step is one call of the model."""


def spoiled_gradient(_module, output):
    output.register_hook(lambda gradient: gradient * math.nan)


def newest(folder):
    return load_file(folder / step_name(whole_steps(folder)[-1]) / "model.safetensors")


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


def events(folder, name):
    return [line for line in read_ledger(folder) if line["event"] == name]


def state(folder, step):
    return json.loads((folder / step_name(step) / "state.json").read_text())


def test_a_gradient_that_is_not_finite_is_skipped_and_nothing_else_changes(run, capfd):
    with at_calls({6}, spoiled_gradient, Encoder):
        one = run("one", **ONE_EACH)
    with at_calls({6}, lambda _, output: output * math.inf, Encoder):
        other = run("other", **ONE_EACH)
    assert same(newest(one), newest(other))
    assert all(torch.isfinite(tensor).all() for tensor in newest(one).values())
    (line,) = events(one, "skip")
    assert (line["step"], line["norm"], len(line["rows"])) == (6, "nan", 16)
    assert math.isfinite(line["loss"])
    assert state(one, 12)["skipped_steps"] == [6]
    assert "step 6 is skipped" in capfd.readouterr().err
    logged = [record["step"] for record in run_folder.metrics(one) if "loss" in record]
    assert logged == [step for step in range(1, 13) if step != 6]
    assert not same(newest(one), newest(run("calm", **ONE_EACH)))


def test_too_many_in_a_row_end_the_run_with_the_pairs_and_it_goes_on_exactly(run):
    calm = run("calm", **ONE_EACH)
    with (
        at_calls(range(7, 13), spoiled_gradient, Encoder),
        pytest.raises(SickRunError, match="3 steps in a row were bad") as caught,
    ):
        run("sick", max_bad_steps=3, **ONE_EACH)
    folder = calm.parent / "sick"
    assert "step_000009.json" in str(caught.value)
    # None of step 8, which is a step to save at: nobody knew whether its weights were good.
    assert whole_steps(folder) == [4]
    found = json.loads((folder / "inspect" / "step_000009.json").read_text())
    assert [pair["row"] for pair in found["pairs"]] == events(folder, "skip")[-1]["rows"]
    assert all("加" in pair["prompt"] and "等于" in pair["response"] for pair in found["pairs"])
    assert all(0 < pair["loss"] < 20 for pair in found["pairs"])
    run("sick", resume=True, max_bad_steps=3, **ONE_EACH)
    assert same(newest(folder), newest(calm))


def test_spoiled_weights_lead_back_and_over_the_bad_steps(run):
    def scale(module, _arguments):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(10)

    def permute(module, arguments):
        sources, labels, *offsets = arguments
        order = torch.randperm(module.config.vocab_size, generator=torch.Generator().manual_seed(1))
        return sources, order[labels], *offsets

    # Step 13 is computed with the weights of checkpoint 12: the way leads to one before it.
    changes = {"max_steps": 24, "learning_rate": 1e-1, "keep_checkpoints": 3, **ONE_EACH}
    with at_calls({13}, scale, before=True):
        weights_sick = run("weights", **changes)
    (line,) = events(weights_sick, "rewind")
    assert (line["step"], line["to"], line["skip"]) == (15, 8, [13, 14, 15])
    assert (weights_sick / ".sick-step_000012").is_dir()
    # Calls 16 to 19 of the model are steps 9 to 12 again.
    assert state(weights_sick, 24)["skipped_steps"] == [13, 14, 15]
    with at_calls({13, 14, 15}, permute, before=True):
        labels_wrong = run("labels", **changes)
    assert [one["step"] for one in events(labels_wrong, "skip")] == [13, 14, 15]
    assert same(newest(weights_sick), newest(labels_wrong))


def test_a_run_that_going_back_does_not_help_is_given_up(run):
    def scale(_module, output):
        return output._replace(loss_sum=output.loss_sum * 10)

    # Steps 15 to 17; back at 12 steps 13, 14 and 18; back at 8 ...
    with at_calls(range(15, 100), scale), pytest.raises(SickRunError) as caught:
        run("sick", max_steps=24, max_bad_steps=6, keep_checkpoints=9, **ONE_EACH)
    folder = run_folder.OUT_ROOT / "sick"
    ways = [(line["to"], line["skip"]) for line in events(folder, "rewind")]
    assert ways[:2] == [(12, [15, 16, 17]), (8, [13, 14, 18])]
    assert [line["why"] for line in events(folder, "stop")] == [str(caught.value)]
    weights = newest(folder)
    assert all(tensor.abs().max() < 100 for tensor in weights.values())


def test_memory_that_runs_out_changes_nothing_but_rounding(run, capfd):
    def fail(_module, _output):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    calm = run("calm")
    with at_calls({13}, fail, Encoder):
        short = run("short")
    (line,) = events(short, "halving")
    one, other = (
        [record["loss"] for record in run_folder.metrics(each) if "loss" in record]
        for each in (calm, short)
    )
    assert other[: line["step"] - 1] == one[: line["step"] - 1]
    assert other == pytest.approx(one, rel=1e-6)
    assert state(short, 12)["ledger"] == state(calm, 12)["ledger"]
    assert state(short, 12)["microbatch_tokens"] == line["microbatch_tokens"] < 256
    assert f"microbatches of {line['microbatch_tokens']} tokens" in capfd.readouterr().err
