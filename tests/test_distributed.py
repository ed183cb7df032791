"""Two processes give what one gives, whatever launcher and engine brought them up.

These tests start real launchers with gloo on CPU. Launch lines that would silently train as one
process, or as two that do not know of each other, must be refused.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chatlm import run_folder
from tests import tiny_data

ROOT = Path(__file__).parent.parent
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
ONE = [sys.executable]
TWO = [*ACCELERATE, "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc_per_node",
    "2",
]
DEEPSPEED = [
    *ACCELERATE,
    "--config_file",
    str(ROOT / "accelerate.yaml"),
    "--main_process_port",
    "0",
]
FOLDER = "out/a"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data.make(tmp_path_factory.mktemp("data"))


def launch(launcher, cwd, data, **changes):
    settings = {"data": data, "out": FOLDER} | changes
    env = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    return subprocess.run(
        [*launcher, str(ROOT / "train.py"), "train", *tiny_data.argv(**settings)],
        cwd=cwd,
        env=env | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def figures(done, cwd, key):
    assert done.returncode == 0, done.stderr[-3000:]
    return [r[key] for r in run_folder.metrics(cwd / FOLDER) if r.get(key) is not None]


@pytest.fixture(scope="module")
def single(data, tmp_path_factory):
    """Returns the figures of one process."""
    cwd = tmp_path_factory.mktemp("single")
    done = launch(ONE, cwd, data)
    return {key: figures(done, cwd, key) for key in ("loss", "valid_loss", "bleu4", "grad_norm")}


@pytest.mark.parametrize("launcher", [TWO, TORCHRUN], ids=["accelerate", "torchrun"])
def test_two_processes_give_the_losses_of_one(single, data, tmp_path, launcher):
    done = launch(launcher, tmp_path, data)
    assert "on 2 x cpu" in done.stderr
    for key, expected in single.items():
        assert figures(done, tmp_path, key) == pytest.approx(expected, rel=1e-4), key


def test_two_processes_resume_what_they_began(single, data, tmp_path):
    launch(TWO, tmp_path, data, keep_checkpoints=9)
    run = tmp_path / FOLDER
    (run / "step_000008" / "MANIFEST.json").unlink()
    done = launch(TWO, tmp_path, data, resume=True)
    assert "going on from" in done.stderr
    assert figures(done, tmp_path, "loss") == pytest.approx(single["loss"], rel=1e-4)


def test_one_process_goes_on_with_what_two_began(single, data, tmp_path):
    launch(TWO, tmp_path, data, keep_checkpoints=9)
    (tmp_path / FOLDER / "step_000008" / "MANIFEST.json").unlink()
    done = launch(ONE, tmp_path, data, resume=True)
    assert figures(done, tmp_path, "loss") == pytest.approx(single["loss"], rel=1e-4)


@pytest.mark.skipif(sys.platform == "win32", reason="DeepSpeed is not built on Windows")
def test_deepspeed_zero2_gives_the_losses_of_one_process_and_resumes(single, data, tmp_path):
    done = launch(DEEPSPEED, tmp_path, data, keep_checkpoints=9)
    assert "2 x cpu in fp32 with DeepSpeed" in done.stderr
    for key in ("loss", "valid_loss"):
        assert figures(done, tmp_path, key) == pytest.approx(single[key], rel=1e-4), key
    (tmp_path / FOLDER / "step_000008" / "MANIFEST.json").unlink()
    resumed = launch(DEEPSPEED, tmp_path, data, resume=True)
    assert "going on from" in resumed.stderr
    assert figures(resumed, tmp_path, "loss") == pytest.approx(single["loss"], rel=1e-4)
    alone = launch(ONE, tmp_path, data, resume=True)
    assert alone.returncode == 2
    assert "saved under DeepSpeed" in alone.stderr


@pytest.mark.parametrize("flags", [["--cpu", "--num_processes", "2"]])
def test_one_process_in_the_place_of_two_is_refused(data, tmp_path, flags):
    done = launch([*ACCELERATE, *flags], tmp_path, data)
    assert done.returncode != 0
    assert "error: accelerate was asked for several processes but started one" in done.stderr
    assert not (tmp_path / FOLDER).exists()


def test_accumulation_in_the_launchers_yaml_is_refused(data, tmp_path):
    yaml = (ROOT / "accelerate.yaml").read_text()
    path = tmp_path / "own.yaml"
    steps = "zero_stage: 2\n  gradient_accumulation_steps: 8"
    path.write_text(yaml.replace("zero_stage: 2", steps))
    launcher = [*ACCELERATE, "--config_file", str(path), "--main_process_port", "0"]
    done = launch(launcher, tmp_path, data)
    assert done.returncode != 0
    assert "sets gradient_accumulation_steps: 8; remove it" in done.stderr
