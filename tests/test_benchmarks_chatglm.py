"""The script for LoRA on a full-size ChatGLM works on a tiny one on a CPU, and counts rightly."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from chatlm import cli
from chatlm.errors import ConfigError

FOLDER = Path(__file__).parents[1] / "benchmarks"
TINY = [
    "device=cpu",
    "layers=2",
    "hidden=64",
    "heads=4",
    "vocab=200",
    "rows=2",
    "tokens=24",
    "prompt=9",
    "steps=3",
    "warm=1",
]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("chatglm_lora")


@pytest.fixture
def found(script, capsys):
    assert script.main([*TINY, "peak_tflops=1"]) == 0
    printed = capsys.readouterr().out
    assert "LoRA on ChatGLM-6B" in printed
    return json.loads(printed.splitlines()[-1])


@pytest.mark.filterwarnings("error::FutureWarning")
def test_both_sides_have_all_figures_and_take_the_same_steps(script, found):
    assert list(found["sides"]) == ["checkpointing", "no checkpointing"]
    for row in found["sides"].values():
        assert row["tokens_per_second"] == pytest.approx(48 / row["seconds_a_step"])
        assert row["mfu"] == pytest.approx(row["tflops"])
        assert row["memory_gib"] is None
        assert row["last_loss"] < row["first_loss"]
    assert found["moving"] == 2 * 8 * (64 + 3 * 64)
    width, vocab = 64, 200
    layer = 12 * width**2 + (3 + 1 + 4 + 1) * width + 4 * width
    own = 2 * layer + 2 * width + 2 * vocab * width
    assert found["parameters"] == own + found["moving"]


def test_the_operations_are_those_that_pytorch_counts(script):
    """But for attention, which the plain products compute in whole squares."""
    settings = cli.parse(TINY, script.Settings)
    model, batch = script.make_model(settings), script.make_batch(settings)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(*batch).loss_sum.backward()
    seen = 8**2 + sum(range(9, 25))
    hidden = 2 * 2 * 3 * 4 * 64 * (24**2 - seen)
    assert counter.get_total_flops() == script.step_flops(settings) + hidden


def test_the_full_size_is_the_published_one(script):
    with torch.device("meta"):
        shape = script.Settings.shape(cli.parse(["device=cpu"], script.Settings))
        model = script.ChatGLMForConditionalGeneration(shape)
    assert sum(p.numel() for p in model.parameters()) == 6_707_929_088
    assert (shape.gmask_token_id, shape.bos_token_id, shape.eos_token_id) == (
        130001,
        130004,
        130005,
    )
    needed = script.step_flops(cli.parse(["device=cpu"], script.Settings))
    assert needed == pytest.approx(4 * 1200 * 28 * 12 * 4096**2, rel=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_one_line_says_what_is_missing():
    done = subprocess.run(
        [sys.executable, FOLDER / "chatglm_lora.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert not done.stdout
    (line,) = (line for line in done.stderr.splitlines() if "error" in line)
    assert "no CUDA card is visible" in line


@pytest.mark.parametrize("wrong", ["prompt=2", "prompt=24", "layers=0", "warm=-1"])
def test_numbers_that_cannot_be_measured_are_refused(script, wrong):
    with pytest.raises(ConfigError, match=r"start at|must be at least"):
        cli.parse([*TINY, wrong], script.Settings)
