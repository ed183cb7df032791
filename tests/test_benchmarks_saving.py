"""The benchmark of checkpoints runs on a tiny model, and its figures add up."""

import json

import pytest

from benchmarks import saving
from tests import programs

MODEL = ("d_model=32", "d_kv=8", "d_ff=48", "num_heads=2", "num_layers=1", "num_decoder_layers=1")


@pytest.mark.parametrize(("optimizer", "most"), [("adamw", 3), ("muon", 2.9)])
def test_saves_are_timed_in_the_foreground_and_beside_a_loop(tmp_path, optimizer, most, capfd):
    argv = [f"model.{one}" for one in (*MODEL, "vocab_size=400")]
    argv += ["rounds=2", f"optimizer={optimizer}", f"folder={tmp_path}"]
    done = programs.run(saving.main, argv, capfd)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    weights = 4 * found["weights"]
    assert 2 * weights < found["bytes"] <= most * weights
    assert 0 < found["stall"] < found["background"]
    assert found["stall_share"] == pytest.approx(found["stall"] / found["foreground"])
    assert found["step"] > 0
    assert found["longest_wait_for_python"] > 0
    assert not list(tmp_path.iterdir())
