"""Whole weights and moments in and out of every engine, and steps that are dropped.

The scenes of `tests/engines/scenes.py`, played once. CHATLM_TORTURE=1 adds the rest of them.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file

from tests.engines.scenes import Scene
from tests.launched import ROOT, zero3_config

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, and DeepSpeed")
TORTURE = "CHATLM_TORTURE" in os.environ
SETTINGS = {
    "adamw": {"optimizer": "adamw", "learning_rate": 1e-2},
    # DeepSpeed's Muon does not clip.
    "muon": {"optimizer": "muon", "learning_rate": 1e-2, "clip_norm": 0},
    "bf16": {"optimizer": "adamw", "learning_rate": 1e-2, "precision": "bf16"},
    "muon_bf16": {"optimizer": "muon", "learning_rate": 1e-2, "clip_norm": 0, "precision": "bf16"},
}
FROZEN = {"finetune": True, "init_from": "elsewhere", "freeze": "encoder"}
ENGINES = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
ALONE = [("one", "adamw"), ("one", "muon")]
PLAYED = [*ALONE, ("fsdp2", "muon"), ("zero3", "muon")]
AFTER = [("one", "zero3", "muon"), ("fsdp2", "fsdp2", "muon")]
"""Engine, the engine before it, optimizer."""
if TORTURE:
    PLAYED = [*ALONE, *((e, o) for e in ENGINES for o in ("adamw", "muon"))]
    PLAYED += [("zero1", "bf16"), ("zero2", "bf16"), ("zero3", "bf16"), ("zero3", "muon_bf16")]
    AFTER = [("one", e, o) for e in ENGINES for o in ("adamw", "muon")]
    AFTER += [(e, "one", o) for e in ENGINES for o in ("adamw", "muon")]
    AFTER += [(e, e, o) for e, o in PLAYED if e != "one"]
    AFTER += [("zero3", "zero1", "adamw"), ("zero1", "zero2", "muon"), ("zero2", "fsdp2", "muon")]


def scenes(folder):
    configs = {
        "ddp": str(ROOT / "runs" / "ddp.yaml"),
        "fsdp2": str(ROOT / "runs" / "fsdp2.yaml"),
        "zero1": str(ROOT / "runs" / "zero1.yaml"),
        "zero2": str(ROOT / "accelerate.yaml"),
        "zero3": str(zero3_config(folder)),
        "one": "",
    }

    def scene(name, engine, optimizer, **more):
        settings = SETTINGS[optimizer] | more.pop("settings", {})
        count = 1 if engine == "one" else 2
        return Scene(name, configs[engine], count, settings=settings, **more)

    yield from (scene(f"{e}_{o}", e, o) for e, o in PLAYED)
    yield from (scene(f"{e}_{o}_after_{b}", e, o, after=f"{b}_{o}") for e, b, o in AFTER)
    yield scene("zero2_bf16_frozen", "zero2", "bf16", settings=FROZEN)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    path = folder / "scenes.json"
    path.write_text(json.dumps([asdict(scene) for scene in scenes(folder)]))
    argv = [sys.executable, "-m", "tests.engines.scenes", str(path), str(folder)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def held(played, scene, mark):
    """Returns the weights and moments of a scene at a mark, in one mapping."""
    logs = "".join(path.read_text()[-2000:] for path in (played / scene).glob("*.log"))
    path = played / scene / f"{mark}-weights.safetensors"
    assert path.is_file(), logs
    return load_file(path) | load_file(played / scene / f"{mark}-moments.safetensors")


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def assert_near(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        # As a whole: AdamW divides by numbers that may be next to nothing.
        assert (found[key] - value).norm() <= 1e-5 * value.norm(), key


NAMES = [f"{engine}_{optimizer}" for engine, optimizer in PLAYED] + ["zero2_bf16_frozen"]


@pytest.mark.parametrize("scene", NAMES)
def test_what_is_put_back_is_what_was_there(played, scene):
    assert_same_bits(held(played, scene, "back"), held(played, scene, "third"))


@pytest.mark.parametrize("scene", NAMES)
def test_a_dropped_step_changes_no_bit_of_weights_and_moments(played, scene):
    assert_same_bits(held(played, scene, "discarded"), held(played, scene, "third"))


@pytest.mark.parametrize("scene", NAMES)
def test_after_going_back_and_dropping_steps_the_same_steps_give_the_same_bits(played, scene):
    assert_same_bits(held(played, scene, "again"), held(played, scene, "fifth"))
    changed, before = held(played, scene, "fifth"), held(played, scene, "third")
    assert any(not torch.equal(changed[key], before[key]) for key in before)


@pytest.mark.parametrize(
    ("engine", "optimizer"),
    [pair for pair in PLAYED if pair not in ALONE and "bf16" not in pair[1]],
)
def test_weights_and_moments_are_whole_and_those_of_one_process(played, engine, optimizer):
    for mark in ("third", "fifth"):
        expected = held(played, f"one_{optimizer}", mark)
        assert_near(held(played, f"{engine}_{optimizer}", mark), expected)


@pytest.mark.parametrize(("engine", "before", "optimizer"), AFTER)
def test_any_engine_goes_on_where_another_one_stopped(played, engine, before, optimizer):
    scene = f"{engine}_{optimizer}_after_{before}"
    assert_same_bits(held(played, scene, "start"), held(played, f"{before}_{optimizer}", "third"))
    if engine == before:
        assert_same_bits(
            held(played, scene, "fifth"), held(played, f"{engine}_{optimizer}", "fifth")
        )
    else:
        assert_near(held(played, scene, "fifth"), held(played, f"one_{optimizer}", "fifth"))


def test_processes_agree_on_the_loss_and_the_norm_of_each_step(played):
    for path in played.glob("*/1.jsonl"):
        assert path.read_text() == path.with_name("0.jsonl").read_text(), path


@pytest.mark.parametrize("scene", [name for name in NAMES if "bf16" in name])
def test_weights_are_kept_as_exactly_as_steps_are_added_to_them(played, scene):
    moving = held(played, scene, "third")["decoder.layers.0.attention.q.weight"]
    assert not torch.equal(moving, moving.bfloat16().float())


def test_frozen_weights_keep_every_bit_though_deepspeed_computes_with_rounded_ones(played):
    before, after = (held(played, "zero2_bf16_frozen", mark) for mark in ("third", "fifth"))
    frozen = [key for key in before if key.startswith("encoder.")]
    assert frozen
    for key in frozen:
        assert torch.equal(before[key], after[key]), key
    matrix = before["encoder.layers.0.attention.q.weight"]
    assert not torch.equal(matrix, matrix.bfloat16().float())
