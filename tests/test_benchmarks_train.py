"""The benchmark of the training step runs, and counts what it says it counts."""

import json

from benchmarks import train_step
from tests import programs

SHAPE = {
    "vocab_size": 400, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": 1,
    "num_decoder_layers": 1,
}  # fmt: skip


def run(capfd, data, *argv):
    named = [f"data={data / 'train.parquet'}", f"tokenizer={data / 'tokenizer'}"]
    return programs.run(train_step.main, [*named, *argv], capfd)


def test_both_sides_take_the_same_pairs(sums, capfd):
    shape = [f"model.{key}={value}" for key, value in SHAPE.items()]
    done = run(capfd, sums, "rounds=2", "batch_size=4", "memory=False", *shape)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert list(figures["sides"]) == ["hf", "ours", "ours_large"]
    for side in figures["sides"].values():
        assert side["tokens_per_second"] > 0
        assert 0 < side["mfu"] < 1
    assert 0 < figures["padding_of_the_peers"] < 1


def test_peak_memory_is_that_of_a_process_of_its_own(sums, capfd):
    shape = [f"model.{key}={value}" for key, value in SHAPE.items()]
    done = run(capfd, sums, "rounds=1", "batch_size=4", "sides=ours", *shape)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert 0.1 < figures["sides"]["ours"]["peak_gib"] < 4


def test_too_few_pairs_and_a_folder_that_is_no_checkout_are_named(sums, tmp_path, capfd):
    done = run(capfd, sums, "rounds=9")
    assert done.returncode == 2
    assert "fewer rounds" in done.stderr
    done = run(capfd, sums, "rounds=1", "batch_size=4", f"nanot5={tmp_path}", "sides=nanot5")
    assert done.returncode == 2
    assert "expected a checkout" in done.stderr
