"""Adapters on models of others, by the one training loop: what moves and what is saved."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

import train
from chatlm import run_folder
from chatlm.adapters.base import Hold, open_base
from chatlm.adapters.data import is_held_out
from chatlm.adapters.language_model import LanguageModel
from chatlm.adapters.lora import with_adapters
from chatlm.config import LoraSettings
from chatlm.errors import CheckpointError, ConfigError, DataError
from tests import tiny_data
from tests.adapters import small
from utils import tokenize_dataset_rows

CPU = Hold(torch.device("cpu"))
SETTINGS = {
    "finetune": True,
    "lora.rank": 4,
    "learning_rate": 1e-2,
    "batch_size": 8,
    "microbatch_tokens": 2048,
    "max_source_tokens": 64,
    "max_target_tokens": 64,
    "max_new_tokens": 12,
    "eval_answers": 4,
    "eval_every_steps": 4,
    "save_every_steps": 4,
    "log_every_steps": 1,
    "max_steps": 8,
    "device": "cpu",
    "threads": 1,
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory, make_tokenizer):
    folder = tmp_path_factory.mktemp("bases")
    tokenizer = make_tokenizer(template=None, texts=small.TEXTS)
    return {
        "causal": small.causal(folder / "causal", tokenizer),
        "seq2seq": small.seq2seq(folder / "seq2seq", tokenizer),
    }


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Returns a function that trains in tmp_path and returns the run folder."""
    monkeypatch.chdir(tmp_path)

    def go(name, **changes):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        given = {key.replace("__", "."): value for key, value in changes.items()}
        settings = SETTINGS | {"out": f"out/{name}"} | given
        assert train.main([f"{key}={value}" for key, value in settings.items()]) == 0
        return tmp_path / "out" / name

    return go


def pairs_file(folder: Path, count: int = 60) -> Path:
    path = folder / "sums.jsonl"
    rows = [{"prompt": one.prompt, "response": one.response} for one in tiny_data.examples(count)]
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), "utf-8")
    return path


def tokenized(folder: Path, base: Path, **changes) -> Path:
    settings = {"jsonl_path": pairs_file(folder), "save_path": folder / "ids", "base": base}
    config = tokenize_dataset_rows.TokenizeConfig(
        **{key: str(value) for key, value in settings.items()}, **changes
    )
    tokenize_dataset_rows.tokenize(config)
    return folder / "ids"


def losses(folder):
    return [record["loss"] for record in run_folder.metrics(folder) if "loss" in record]


def adapters(folder, step):
    return load_file(folder / f"step_{step:06d}" / "adapter_model.safetensors")


def flat(pairs):
    sources, targets = zip(*pairs, strict=True)
    ends = [
        torch.tensor([0, *torch.tensor([len(row) for row in side]).cumsum(0).tolist()])
        for side in (sources, targets)
    ]
    ids = [torch.tensor([token for row in side for token in row]) for side in (sources, targets)]
    return ids[0], ids[1], *ends


PAIRS = [([5, 6, 7], [8, 9, 3]), ([11], [12, 13, 14, 15, 3]), ([4, 4, 9, 20, 21], [30])]


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_the_loss_of_a_flat_batch_is_that_of_its_pairs_by_the_library(bases, kind):
    base = open_base(str(bases[kind]), CPU)
    model = LanguageModel(base, pad_id=0)
    found = model(*flat(PAIRS))
    expected = torch.zeros(())
    for source, target in PAIRS:
        if kind == "causal":
            labels = torch.tensor([[-100] * len(source) + target])
            output = base(input_ids=torch.tensor([source + target]), labels=labels)
        else:
            output = base(input_ids=torch.tensor([source]), labels=torch.tensor([target]))
        expected = expected + output.loss * len(target)
    torch.testing.assert_close(found.loss_sum, expected, rtol=1e-5, atol=1e-5)
    assert found.num_tokens == sum(len(target) for _, target in PAIRS)
    alone = sum(model(*flat([pair])).loss_sum for pair in PAIRS)
    torch.testing.assert_close(found.loss_sum, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_fresh_adapters_change_no_bit(bases, kind):
    base = open_base(str(bases[kind]), CPU)
    before = LanguageModel(base, pad_id=0)(*flat(PAIRS)).loss_sum
    model = LanguageModel(with_adapters(base, LoraSettings(rank=4)), pad_id=0).eval()
    assert torch.equal(model(*flat(PAIRS)).loss_sum, before)
    moving = [name for name, _ in model.saved()]
    assert moving
    assert all("lora_" in name for name in moving)


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_a_run_learns_saves_what_peft_reads_and_leaves_the_base_alone(bases, run, tmp_path, kind):
    before = {path.name: path.read_bytes() for path in bases[kind].iterdir()}
    data = tiny_data.make(tmp_path / "data")
    folder = run("a", base=bases[kind], data=data, max_steps=24, learning_rate=0.1)
    assert sum(losses(folder)[-4:]) < 0.95 * sum(losses(folder)[:4])
    assert before == {path.name: path.read_bytes() for path in bases[kind].iterdir()}
    step = folder / "step_000024"
    kinds = {"causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}
    plain = kinds[kind].from_pretrained(bases[kind]).eval()
    tuned = PeftModel.from_pretrained(plain, step).eval()
    saved = adapters(folder, 24)
    assert all(tensor.abs().max() > 0 for name, tensor in saved.items() if "lora_B" in name)
    merged_loss = LanguageModel(tuned, pad_id=0)(*flat(PAIRS)).loss_sum
    merged = tuned.merge_and_unload()
    torch.testing.assert_close(
        LanguageModel(merged, pad_id=0)(*flat(PAIRS)).loss_sum, merged_loss, rtol=1e-5, atol=1e-4
    )
    assert (step / "tokenizer.json").is_file()
    assert json.loads((step / "adapter_config.json").read_text())["r"] == 4


def test_ids_from_the_workbench_are_trained_on_and_resumed_to_the_bit(bases, run, tmp_path):
    data = tokenized(tmp_path, bases["causal"])
    settings = {"base": bases["causal"], "data": data}
    whole = run("whole", **settings, max_steps=8)
    part = run("part", **settings, max_steps=8)
    for name in ("step_000008", "best"):
        target = part / name
        target.unlink() if target.is_symlink() else shutil.rmtree(target, ignore_errors=True)
    resumed = run("part", resume=True)
    assert losses(resumed) == losses(whole)
    one, other = adapters(whole, 8), adapters(resumed, 8)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_does_not_fit_together_is_refused(bases, run, tmp_path, make_tokenizer):
    data = tokenized(tmp_path, bases["causal"])
    with pytest.raises(ConfigError, match="ids for a model of others"):
        run("a", data=data, finetune=False)
    other = small.causal(tmp_path / "other", make_tokenizer(template=None, texts=["abc abd"]))
    with pytest.raises(DataError, match="made with the tokenizer of"):
        run("b", data=data, base=other)
    with pytest.raises(ConfigError, match=r"lora.targets=nothing are no modules"):
        run("c", data=data, base=bases["causal"], lora__targets="nothing")
    with pytest.raises(CheckpointError, match="base=nowhere"):
        run("d", data=data, base="nowhere")
    with pytest.raises(ConfigError, match="needs a CUDA GPU"):
        run("e", data=data, base=bases["causal"], quantize="nf4")
    with pytest.raises(ConfigError, match="base= needs finetune=True"):
        run("f", data=data, base=bases["causal"], finetune=False)


def test_a_prompt_is_held_out_wherever_it_stands():
    held = [i for i in range(5000) if is_held_out([i, 7, 9])]
    assert 20 < len(held) < 90
    assert all(is_held_out(torch.tensor([i, 7, 9]).numpy()) for i in held)
