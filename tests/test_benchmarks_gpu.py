"""The script for one CUDA card works on a tiny shape on a CPU: rows, checks, failures, one file."""

import importlib
import json
from pathlib import Path

import pytest

from chatlm import cli
from tests import programs

FOLDER = Path(__file__).parents[1] / "benchmarks"
TINY = [
    "device=cpu",
    "source_tokens=10",
    "target_tokens=20",
    "max_source_tokens=40",
    "max_target_tokens=60",
    "microbatch_tokens=700",
    "microbatches=2",
    "steps=2",
    "peer_pairs=8",
    "model.vocab_size=101",
    "model.d_model=32",
    "model.d_kv=8",
    "model.d_ff=48",
    "model.num_heads=3",
    "model.num_layers=1",
    "model.num_decoder_layers=1",
]


@pytest.fixture
def row(monkeypatch):
    """Return a function that measures one side as the script's inner process does."""
    monkeypatch.syspath_prepend(FOLDER)
    gpu_step = importlib.import_module("gpu_step")

    def measure(side, *more):
        settings = cli.parse([*TINY, f"side={side}", *more], gpu_step.Settings)
        return gpu_step.one_side(settings)

    return measure


@pytest.mark.parametrize("side", ["sdpa", "hf"])
def test_a_side_has_all_figures(row, side):
    found = row(side)
    assert found["steps"] == 2
    assert found["passes_a_step"] >= 2
    parts = found["milliseconds"]
    assert 0 < parts["forward"] + parts["backward"] + parts["optimizer"] < parts["step"]
    assert 0 < found["tflops"] < found["peak_tflops"]
    assert found["first_norm"] > 0
    assert found["recompilations"] == found["graph_breaks"] == 0


def test_ours_and_the_peer_are_credited_with_the_same_work(row):
    found = [row(side) for side in ("sdpa", "hf")]
    operations, again = (one["tflops"] / one["tokens_per_second"] for one in found)
    assert operations == pytest.approx(again)


def test_a_route_is_checked_against_the_plainest_in_both_precisions(row):
    found = row("check", "sides=sdpa")
    checks = {one["name"]: one for one in found["checks"]}
    assert checks["sdpa fp32"]["holds"]
    assert checks["sdpa bf16"]["holds"]
    assert checks["sdpa fp32"]["gradient"] < 1e-5 < checks["sdpa bf16"]["gradient"]
    assert found["pairs"] > 30
    assert found["filler"] < 0.2


def test_sides_that_do_not_begin_alike_are_found(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    judge = importlib.import_module("gpu_checks").judge
    rows = {
        "sdpa": {"first_loss": 10.0, "first_norm": 2.0},
        "flex": {"first_loss": 10.01, "first_norm": 2.01},
        "flex_compiled": {"first_loss": 10.2, "first_norm": 2.0},
        "rope": {"first_loss": 12.0, "first_norm": 2.0},
        "hf": {"first_loss": 99.0, "first_norm": 99.0},
    }
    holds = {one["name"]: one["holds"] for one in judge(rows)}
    assert holds == {"flex begins as sdpa": True, "flex_compiled begins as sdpa": False}


def test_a_side_that_fails_is_a_row_that_says_why(monkeypatch, tmp_path, capfd):
    """A run on a CPU, where FlexAttention has no backward pass, so that this side has to fail."""
    out = tmp_path / "found.json"
    monkeypatch.syspath_prepend(FOLDER)
    main = importlib.import_module("gpu_step").main
    done = programs.run(main, [*TINY, "sides=flex", f"out={out}"], capfd)
    assert done.returncode == 1
    assert "failed" in done.stdout
    found = json.loads(out.read_text())
    assert list(found["sides"]) == ["check", "flex"]
    assert "does not support backward on CPU" in found["sides"]["flex"]["error"]
    assert [one["holds"] for one in found["checks"]] == [False, False]
    assert found["settings"]["model"]["d_model"] == 32
    assert json.loads(done.stdout.splitlines()[-1])["checks"] == found["checks"]
