"""Adapters trained by two processes are those of one, and either goes on where the other stopped.

All trainings run on CPUs with gloo, as forks of one Python process (`tests/ranks.py`) with the
environment that accelerate makes of a launch configuration. The model is a ChatGLM, which takes
nothing but prompts of its own form, and the last step of an epoch has fewer pairs than there are
shares of a step: some get ids that are no prompt.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from chatlm.adapters.data import parted
from chatlm.adapters.forms import open_form
from chatlm.adapters.sequences import open_sequences
from tests.adapters import small
from tests.adapters.tunings import tokenized
from tests.launched import ROOT, Trainings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, and DeepSpeed")
DDP, ZERO2 = "runs/ddp.yaml", "accelerate.yaml"
DRIVER = """
import sys
import chatlm.adapters.data, chatlm.adapters.tuning, chatlm.glm.modeling
from tests import ranks

ranks.main(*sys.argv[1:])
"""
SHARED: dict[str, Any] = {"gradient_shares": 4}
"""Shares that 1, 2 and 4 processes can divide: their sums have the same bits."""
APART: dict[str, Any] = {"gradient_shares": 1}
STEPS = 8
TUNING: dict[str, Any] = {
    "finetune": True,
    "lora.rank": 4,
    "rms_scaled": False,
    "learning_rate": 1e-2,
    "max_source_tokens": 64,
    "max_target_tokens": 32,
    "microbatch_tokens": 512,
    "max_steps": STEPS,
    "eval_answers": 2,
}


def batch_with_a_rest(data: Path, base: Path) -> int:
    """Returns a batch size with which the last step of an epoch has fewer pairs than shares."""
    rows = len(parted(open_sequences(data, open_form(str(base)).fingerprint))[0])
    return next(size for size in range(12, 30) if rows // size < STEPS and rows % size in (1, 2, 3))


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    base = small.chatglm(folder / "chatglm")
    (folder / "data").mkdir()
    data = tokenized(folder / "data", base)
    given: dict[str, Any] = TUNING | {"base": base, "batch_size": batch_with_a_rest(data, base)}
    made = Trainings(folder, data)
    jobs = [
        made.job("one", **given, **SHARED),
        made.job("two", DDP, 2, **given, **SHARED),
        made.job("one_after_two", of="two", **given, **SHARED),
        made.job("ddp", DDP, 2, gradient_checkpointing=True, **given, **APART),
        made.job("zero2", ZERO2, 2, **given, **APART),
    ]
    (folder / "jobs.json").write_text(json.dumps([asdict(one) for one in jobs]))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(folder / "jobs.json"), str(folder / "seen")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return made


def adapters(trainings: Trainings, name: str) -> Mapping[str, torch.Tensor]:
    """Returns the adapters that the run of a job ended with."""
    folder = trainings.run_folder(name) / f"step_{STEPS:06d}"
    assert (folder / "adapter_config.json").is_file(), trainings.log(name)[-3000:]
    return load_file(folder / "adapter_model.safetensors")


def assert_same_bits(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(tensor.abs().max() > 0 for tensor in one.values())
    for name, tensor in one.items():
        assert torch.equal(other[name], tensor), name


def test_two_processes_give_the_bits_of_one_which_goes_on_where_they_stopped(trainings):
    for key in ("loss", "valid_loss", "grad_norm"):
        assert trainings.figures("two", key) == trainings.figures("one", key), key
    assert trainings.seen("one_after_two").code == 0, trainings.log("one_after_two")[-3000:]
    assert "going on from" in trainings.log("one_after_two")
    assert "step 5/8" in trainings.log("one_after_two")
    # Both were in one folder: two processes took the first steps, one the last.
    assert_same_bits(adapters(trainings, "one"), adapters(trainings, "two"))


@pytest.mark.parametrize("name", ["ddp", "zero2"])
def test_other_engines_give_nearly_the_same(trainings, name):
    for key in ("loss", "valid_loss"):
        expected = trainings.figures("one", key)
        assert trainings.figures(name, key) == pytest.approx(expected, rel=1e-5), key
    expected, found = adapters(trainings, "one"), adapters(trainings, name)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert (found[key] - tensor).norm() <= 1e-3 * tensor.norm(), key
