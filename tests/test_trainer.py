"""The loop's laws: what may not change a result, what must, and what a run leaves behind."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import train
from chatlm import run_folder
from chatlm.corpus import store
from chatlm.errors import CheckpointError, ConfigError, DataError
from tests import tiny_data

ROOT = Path(__file__).parents[1]


@pytest.fixture
def run(run_on_sums):
    return run_on_sums


def losses(folder):
    return [record["loss"] for record in run_folder.metrics(folder) if "loss" in record]


def weights(folder, step):
    return load_file(folder / f"step_{step:06d}" / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_loss_falls(run):
    found = losses(run("a", max_steps=40, learning_rate=5e-2))
    assert found[-1] < 0.6 * found[0]


def test_thirty_steps_are_those_on_record(run):
    # On record since batches were padded: neither packing nor cutting may change a result.
    golden = json.loads((ROOT / "tests" / "golden" / "loss_curves.json").read_text())
    settings = {"optimizer": "adamw", "learning_rate": 2e-2, "max_steps": 30}
    folder = run("a", eval_every_steps=30, save_every_steps=30, microbatch_tokens=512, **settings)
    assert losses(folder) == pytest.approx(golden["trainer"], rel=1e-4)
    norms = [record["grad_norm"] for record in run_folder.metrics(folder) if "loss" in record]
    assert norms == pytest.approx(golden["trainer_grad_norm"], rel=1e-3)


def test_a_run_is_reproducible_to_the_bit(run):
    assert same(weights(run("a"), 8), weights(run("b"), 8))


def test_three_resumes_equal_an_uninterrupted_run(run):
    whole = run("whole", save_every_steps=2, max_steps=8, keep_checkpoints=9)
    # The schedule is a function of the whole run, so a stopped run must know its length.
    parts = whole.parent / "parts"
    shutil.copytree(whole, parts)
    for keep in (2, 4, 6):
        for folder in parts.glob("step_*"):
            if int(folder.name.removeprefix("step_")) > keep:
                shutil.rmtree(folder)
        run("parts", resume=True, save_every_steps=2, max_steps=8, keep_checkpoints=9)
        assert losses(parts) == losses(whole)
        assert same(weights(parts, 8), weights(whole, 8))


def test_cutting_a_step_into_more_microbatches_changes_nothing_but_rounding(run):
    whole, cut = losses(run("a", microbatch_tokens=4096)), losses(run("b", microbatch_tokens=64))
    assert cut == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_adding_up_shares_in_a_tree_changes_nothing_but_rounding(run, optimizer):
    whole, shared = (run(f"{n}", gradient_shares=n, optimizer=optimizer) for n in (1, 4))
    assert losses(shared) == pytest.approx(losses(whole), rel=1e-5)
    assert not same(weights(shared, 8), weights(whole, 8))


def test_another_learning_rate_gives_another_model(run):
    one, other = run("a", learning_rate=1e-3), run("b", learning_rate=1e-1)
    assert not same(weights(one, 8), weights(other, 8))


def test_dropout_is_resumed_exactly(run):
    whole = run("a", model__dropout_rate=0.2, keep_checkpoints=9)
    resumed = whole.parent / "b"
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "step_000008")
    run("b", resume=True)
    assert losses(resumed) == losses(whole)
    assert same(weights(resumed, 8), weights(whole, 8))


def test_what_a_run_leaves_behind(run):
    folder = run("a")
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "samples.jsonl", "loss.png", "best"} <= names
    assert {"step_000004", "step_000008"} <= names
    assert [name for name in names if name.startswith(".")] == [".lock"]
    records = run_folder.metrics(folder)
    keys = {key for record in records for key in record}
    assert {"loss", "learning_rate", "tokens_per_second", "grad_norm", "valid_loss"} <= keys
    assert {"valid_bits_per_char", "bleu4", "test_bleu4", "peak_gib"} <= keys
    sample = json.loads((folder / "samples.jsonl").read_text().splitlines()[0])
    assert sample.keys() == {"step", "prompt", "response", "source", "answer"}
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_every_checkpoint_opens_in_hugging_face(run):
    for folder in sorted(run("a").glob("step_*")):
        model = AutoModelForSeq2SeqLM.from_pretrained(folder)
        ids = AutoTokenizer.from_pretrained(folder)("1加1等于多少？", return_tensors="pt")
        assert math.isfinite(model.generate(**ids, max_new_tokens=4).float().sum())


def test_only_the_newest_and_the_best_checkpoints_are_kept(run):
    folder = run("a", max_steps=12, save_every_steps=2, eval_every_steps=2, keep_checkpoints=2)
    kept = {path.name for path in folder.glob("step_*")}
    assert kept == {"step_000010", "step_000012", (folder / "best").read_text().strip()}


def test_finetuning_moves_only_what_it_says(run, capfd):
    start = run("a")
    tuned = run("b", finetune=True, init_from=start, epochs=1)
    before, after = weights(start, 8), weights(tuned, 8)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved
    assert all(key.startswith("decoder.") for key in moved)
    assert "the output head too" in capfd.readouterr().err
    freed = weights(run("c", finetune=True, init_from=start, freeze="none"), 8)
    assert not torch.equal(before["shared.weight"], freed["shared.weight"])


def test_finetuning_starts_from_the_newest_run_by_itself(run, sums, tmp_path, capfd):
    run("train-001")
    run("train-002")
    assert train.main(["finetune=True", *tiny_data.argv(data=sums, max_steps=2)]) == 0
    assert (tmp_path / "out" / "finetune-001" / "best").exists()
    assert "train-002" in capfd.readouterr().err


def test_a_file_of_pairs_is_split_and_trained(run, sums, tmp_path):
    lines = [
        json.dumps({"prompt": e.prompt, "response": e.response}, ensure_ascii=False)
        for e in tiny_data.examples(300)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    folder = run("a", data=path, tokenizer=sums / "tokenizer", max_steps=2)
    assert losses(folder)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": "nowhere"}, DataError, "data=nowhere does not exist"),
        ({"tokenizer": "nowhere"}, CheckpointError, "utils.train_tokenizer"),
        ({"device": "cuda"}, ConfigError, "PyTorch sees no GPU"),
        ({"resume": True}, CheckpointError, "no checkpoint"),
        ({"finetune": True, "init_from": "nowhere"}, CheckpointError, "does not exist"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(run, tmp_path, changes, error, message):
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(error) as caught:
        run("a", **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "a").exists()


def damage(kind, folder):
    """Writes a broken file of pairs."""
    path = folder / {"empty": "a.jsonl", "not parquet": "a.parquet"}.get(kind, "a.jsonl")
    with store.PairWriter(folder / "whole.parquet") as writer:
        writer.write(tiny_data.examples(50))
    whole = (folder / "whole.parquet").read_bytes()
    content = {
        "empty": b"",
        "not parquet": b"prompt,response",
        "other columns": b'{"a": "1", "b": "2"}\n' * 9,
        "not json": b"[prompt\n" * 9,
        "wrong encoding": '{"prompt": "问", "response": "答"}\n'.encode("utf-16"),
    }
    if kind == "truncated":
        path = folder / "cut.parquet"
        content[kind] = whole[: len(whole) // 2]
    path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize(
    "kind",
    ["empty", "not parquet", "other columns", "not json", "wrong encoding", "truncated"],
)
def test_a_broken_file_of_pairs_is_one_clear_line(run, sums, tmp_path, kind):
    path = damage(kind, tmp_path)
    with pytest.raises(DataError) as caught:
        run("a", data=path, tokenizer=sums / "tokenizer")
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "a").exists()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("what", ["missing", "foreign"])
def test_a_checkpoint_with_a_missing_or_foreign_file_is_refused(run, tmp_path, file, what):
    start = run("start") / "step_000008"
    (start / file).unlink()
    if what == "foreign":
        (start / file).write_text('{"architectures": ["BertModel"], "model_type": "bert"}')
    with pytest.raises(CheckpointError) as caught:
        run("b", finetune=True, init_from=start)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "b").exists()


def test_an_existing_run_is_not_overwritten(run):
    before = weights(run("a"), 8)
    with pytest.raises(ConfigError, match="already holds a run"):
        run("a")
    assert same(weights(run_folder.OUT_ROOT / "a", 8), before)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(run, capfd):
    folder = run("a", keep_checkpoints=9)
    expected = weights(folder, 8)
    path = folder / "step_000008" / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    run("a", resume=True)
    assert "optimizer.safetensors is damaged" in capfd.readouterr().err
    assert (folder / ".corrupt-step_000008").is_dir()
    assert same(weights(folder, 8), expected)


def test_no_whole_checkpoint_refuses_to_start_at_zero(run):
    folder = run("a")
    for state in folder.glob("step_*/state.json"):
        state.unlink()
    with pytest.raises(CheckpointError, match=r"state\.json is missing"):
        run("a", resume=True)
