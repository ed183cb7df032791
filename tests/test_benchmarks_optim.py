"""The optimizers' benchmarks run on tiny sizes, and their figures add up."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import optimizer_step, optimizers
from tests import programs

SMALL_MODEL = ("d_model=32", "d_kv=8", "d_ff=48", "num_heads=2", "num_layers=1")


def run(script, capfd, *argv):
    done = programs.run(script.main, argv, capfd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_steps_of_all_optimizers_are_timed(capfd):
    model = (f"model.{one}" for one in (*SMALL_MODEL, "num_decoder_layers=1", "vocab_size=100"))
    found = run(optimizer_step, capfd, "rounds=1", *model)
    names = list(found["optimizers"])
    assert [name for name in names if name.startswith("ours")] == [
        "ours: optimizer=adamw, RMS-scaled",
        "ours: optimizer=muon",
    ]
    assert "torch.optim.Muon + AdamW" in names
    assert all(one["seconds"] > 0 for one in found["optimizers"].values())
    ours = found["newton_schulz"]["5 of Jordan's by blocks: ours"]
    assert 0.67 < ours["smallest"] <= ours["largest"] < 1.21


def test_the_runs_of_a_file_are_trained_and_judged_each_once(tmp_path, capfd):
    data = tmp_path / "pairs.parquet"
    prompts = [f"第{i}号花园里，春天种什么花？" for i in range(200)]
    answers = [f"第{i}号花园种月季，土要松{i}天。" for i in range(200)]
    pq.write_table(pa.table({"prompt": prompts, "response": answers}), data)
    names = ["adafactor", "adamw", "muon", "muon"]
    lines = "".join(f"optimizer={one} tokens=1500\n" for one in names)
    (tmp_path / "runs.txt").write_text(lines)
    found = run(
        optimizers,
        capfd,
        *(f"data={data}", f"out={tmp_path / 'out'}", f"runs={tmp_path / 'runs.txt'}"),
        *("held_out=20", "vocab_size=400", "jobs=1"),
    )["runs"]
    assert [one["optimizer"] for one in found] == names
    assert found[2] == found[3]
    for one in found:
        assert one["steps"] >= 2
        assert 0 < one["valid_loss"] < 7
        assert [tokens for tokens, _ in one["curve"]][-1] == one["target_tokens"]
    assert len({one["valid_loss"] for one in found}) == 3
    assert len(list((tmp_path / "out" / "results").iterdir())) == 3
