"""Real launchers start what they say: one machine or two, or an error.

Every test starts Python several times; what the engines compute is in `tests/test_distributed.py`.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from chatlm import run_folder
from tests import tiny_data
from tests.launched import ROOT

ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
FOLDER = "out/a"
TORTURE = pytest.mark.skipif("CHATLM_TORTURE" not in os.environ, reason="CHATLM_TORTURE=1 runs it")
SETTINGS = {"optimizer": "adamw", "learning_rate": 2e-2, "eval_answers": 0, "max_steps": 4}


def begin(command, cwd, data, **env):
    """Starts a command, to which the settings of the training are added."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("RANK", "NODE")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{inherited['PATH']}"
    settings = tiny_data.argv(**SETTINGS, data=data, out=cwd / FOLDER)
    return subprocess.Popen(
        [*command, *settings],
        cwd=cwd,
        env=inherited | {"OMP_NUM_THREADS": "1", "PATH": path} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    """Returns what the command printed, and its exit code."""
    return process.communicate(timeout=600)[0], process.returncode


def losses(run):
    return [record["loss"] for record in run_folder.metrics(run) if "loss" in record]


@pytest.fixture
def alone(run_on_sums):
    """Returns the losses of one process."""
    return losses(run_on_sums("alone", **SETTINGS))


@pytest.mark.parametrize(
    ("config", "engine"),
    [
        ("runs/fsdp2.yaml", " with FSDP2"),
        pytest.param("runs/ddp.yaml", "", marks=TORTURE),
        pytest.param("accelerate.yaml", " with DeepSpeed ZeRO-2", marks=TORTURE),
        pytest.param("runs/zero1.yaml", " with DeepSpeed ZeRO-1", marks=TORTURE),
        pytest.param("runs/zero3.yaml", " with DeepSpeed ZeRO-3", marks=TORTURE),
    ],
)
def test_accelerate_starts_what_a_configuration_says(alone, sums, tmp_path, config, engine):
    line = [*ACCELERATE, "--config_file", str(ROOT / config), "--main_process_port", "0"]
    printed, code = finish(begin([*line, str(ROOT / "train.py"), "train"], tmp_path, sums))
    assert code == 0, printed[-3000:]
    assert f"on 2 x cpu in fp32{engine};" in printed
    assert losses(tmp_path / FOLDER) == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize(
    "env",
    [
        {"LAUNCHER": "torchrun"},
        pytest.param({"LAUNCHER": "accelerate"}, marks=TORTURE),
        pytest.param({"CONFIG": "./runs/fsdp2.yaml"}, marks=TORTURE),
        pytest.param({"CONFIG": "./accelerate.yaml"}, marks=TORTURE),
    ],
    ids=["torchrun", "accelerate", "fsdp2", "zero2"],
)
def test_two_machines_give_the_losses_of_one(alone, sums, tmp_path, env):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"NODES": "2", "PER_NODE": "1", "MAIN": f"127.0.0.1:{port}"} | env
    script = ["bash", str(ROOT / "runs" / "multi_node.sh")]
    nodes = [begin(script, tmp_path, sums, NODE=str(node), **shared) for node in range(2)]
    for printed, code in [finish(node) for node in nodes]:
        assert code == 0, printed[-3000:]
    assert losses(tmp_path / FOLDER) == pytest.approx(alone, rel=1e-4)


def test_one_process_in_the_place_of_two_is_refused(sums, tmp_path):
    line = [*ACCELERATE, "--cpu", "--num_processes", "2", str(ROOT / "train.py"), "train"]
    printed, code = finish(begin(line, tmp_path, sums))
    assert code != 0
    assert "error: accelerate was asked for several processes but started one" in printed
    assert not (tmp_path / FOLDER).exists()
