"""A whole plan, as a user gets it: the table, the JSON line, the check, and nothing written."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import train
from chatlm import cli
from chatlm.config import TrainConfig
from chatlm.dataset import prepare
from chatlm.plan import plan as planning
from chatlm.plan import report
from chatlm.plan.check import Measured
from chatlm.plan.flops import training_flops
from chatlm.plan.options import PlanOptions
from tests import tiny_data

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tiny_data.make(tmp_path / "pairs")


def made(folder, options=None, **changes):
    argv = tiny_data.argv(data=folder, **changes)
    config = cli.build(TrainConfig, cli.overrides(argv, TrainConfig))
    options = options or PlanOptions(check=False)
    return planning.make(config, prepare.locate(str(folder), finetune=False), None, options, argv)


def text(plan):
    console = Console(width=160, file=io.StringIO())
    report.show(plan, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_door_plans_checks_and_writes_nothing(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}
    argv = tiny_data.argv(data=folder, out="run", batch_size=64)
    own = ["json=True", "price_per_hour=3"]
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "plan", *argv, *own],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")} == before
    *_, launch, line = done.stdout.splitlines()
    found = json.loads(line)
    assert found["launch"] == launch
    config, _, _ = train.resolve(launch.split("train.py train ")[1].split())
    assert config.microbatch_tokens == found["microbatch_tokens"]
    assert config.batch_size == found["batch_size"] == 64
    assert found["microbatches"] > 1
    assert found["memory_predicted"] == pytest.approx(sum(found["memory_parts"].values()), abs=99)
    check = found["check"]
    assert 1 < check["tokens"] <= found["microbatch_tokens"]
    assert abs(check["memory_error"]) < 0.5  # libraries, above all: the model is tiny
    assert check["microbatch_measured"] > 0
    assert found["hours"] == pytest.approx(found["steps"] * found["step_seconds"] / 3600)
    assert found["cost"] == pytest.approx(3 * found["hours"])
    assert found["tokens_basis"] == "all 70 pairs, tokenised"


def test_a_card_that_is_not_here_is_planned_from_operations(folder):
    options = PlanOptions(gpu="h100", processes=2, mfu=0.5, price_per_hour=4)
    plan = made(folder, options)
    pairs = plan.pairs
    whole = training_flops(plan.config.model, pairs.source_lengths, pairs.target_lengths)
    a_step = whole / pairs.num_pairs * plan.config.batch_size
    assert plan.step_flops() == pytest.approx(a_step, rel=0.05)
    assert plan.step_seconds == pytest.approx(a_step / (2 * 0.5 * 989.4e12), rel=0.1)
    told = text(plan)
    assert "assumed: 50% of 989.4 TFLOP/s in bf16" in told
    assert "not checked: that machine is not here" in told
    assert "accelerate launch --multi_gpu --num_processes 2 ./train.py train" in told
    assert plan.check is None


def test_a_run_that_does_not_fit_is_said_to(folder):
    plan = made(folder, PlanOptions(tflops=100, device_memory_gib=0.2))
    assert not plan.choice.fits
    assert plan.memory_left < 0
    assert "this does not fit" in text(plan)


def test_a_wrong_prediction_gives_way_to_what_was_measured(folder):
    plan = made(folder)
    load, needs, times = plan.choice.largest, plan.choice.memory, plan.times
    twice = Measured(round(2 * needs.total), 0, 3 * times.of_microbatch, 3 * times.optimizer)
    wrong = replace(plan, check=planning.Check(load, needs, times, twice))
    assert wrong.memory_bytes == pytest.approx(2 * plan.memory_bytes)
    assert wrong.step_seconds == pytest.approx(3 * plan.step_seconds)
    told = text(wrong)
    assert "memory was predicted -50% off" in told
    assert "time was predicted -67% off" in told
    right = Measured(round(1.05 * needs.total), 0, 1.2 * times.of_microbatch, 1.2 * times.optimizer)
    held = replace(plan, check=planning.Check(load, needs, times, right))
    assert (held.memory_bytes, held.step_seconds) == (plan.memory_bytes, plan.step_seconds)
    assert not list(report.remarks(held))


@pytest.mark.parametrize(("steps", "count"), [(4, 1), (8, 2), (400, 4)])
def test_checkpoints_are_counted_with_the_best_and_the_one_being_written(folder, steps, count):
    plan = made(
        folder, PlanOptions(gpu="a100"), max_steps=steps, save_every_steps=4, keep_checkpoints=2
    )
    assert f"checkpoints, {count} at once" in plan.disk
