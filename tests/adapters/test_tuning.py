"""Adapters on models of others, by the one training loop: what moves and what is saved."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from chatlm.adapters import speech
from chatlm.adapters.base import Hold, open_base
from chatlm.adapters.data import is_held_out
from chatlm.adapters.language_model import LanguageModel, flat
from chatlm.adapters.lora import with_adapters
from chatlm.adapters.opened import open_model
from chatlm.config import LoraSettings
from chatlm.errors import CheckpointError, ConfigError, DataError
from chatlm.generation_config import GenerationConfig
from tests import tiny_data
from tests.adapters import small
from tests.adapters.tunings import DEVICE, PAIRS, SETTINGS, adapters, are_equal, losses, tokenized
from tests.trainings import train_with
from utils import tokenize_dataset_rows

CPU = Hold(DEVICE)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Returns a function that trains in tmp_path and returns the run folder."""
    monkeypatch.chdir(tmp_path)

    def go(name, **changes):
        train_with(**SETTINGS | {"out": f"out/{name}"} | changes)
        return tmp_path / "out" / name

    return go


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_the_loss_of_a_flat_batch_is_that_of_its_pairs_by_the_library(bases, kind):
    base = open_base(str(bases[kind]), CPU)
    model = LanguageModel(base, pad_id=0)
    found = model(*flat(PAIRS, DEVICE))
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
    alone = sum(model(*flat([pair], DEVICE)).loss_sum for pair in PAIRS)
    torch.testing.assert_close(found.loss_sum, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_fresh_adapters_change_no_bit(bases, kind):
    base = open_base(str(bases[kind]), CPU)
    before = LanguageModel(base, pad_id=0)(*flat(PAIRS, DEVICE)).loss_sum
    model = LanguageModel(with_adapters(base, LoraSettings(rank=4)), pad_id=0).eval()
    assert torch.equal(model(*flat(PAIRS, DEVICE)).loss_sum, before)
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
    merged_loss = LanguageModel(tuned, pad_id=0)(*flat(PAIRS, DEVICE)).loss_sum
    merged = tuned.merge_and_unload()
    torch.testing.assert_close(
        LanguageModel(merged, pad_id=0)(*flat(PAIRS, DEVICE)).loss_sum,
        merged_loss,
        rtol=1e-5,
        atol=1e-4,
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
    assert are_equal(adapters(whole, 8), adapters(resumed, 8))


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


def test_pairs_are_as_long_as_the_table_of_positions_and_no_longer(bases, run, tmp_path):
    """The GPT-2 has 128 positions, the T5 knows distances."""
    rows = [{"prompt": f"{n}" + "长" * 30, "response": "好" * 40} for n in range(40)]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "long.jsonl").write_text(text, "utf-8")
    for kind in bases:
        for most in (128, 129):
            place = tmp_path / f"{kind}{most}"
            config = tokenize_dataset_rows.TokenizeConfig(
                str(tmp_path / "long.jsonl"), str(place), most, base=str(bases[kind])
            )
            tokenize_dataset_rows.tokenize(config)
    few = {"max_steps": 1, "max_new_tokens": 20, "eval_answers": 0}
    with pytest.raises(ConfigError, match=r"longest pair has 129 tokens, .* positions for 128"):
        run("a", base=bases["causal"], data=tmp_path / "causal129", **few)
    run("b", base=bases["causal"], data=tmp_path / "causal128", **few)
    run("c", base=bases["seq2seq"], data=tmp_path / "seq2seq129", **few)


def test_an_answer_ends_where_the_positions_do(base):
    opened = open_model(base, CPU)
    opened.form.stop_ids = [opened.form.vocab_size]
    config = GenerationConfig(max_new_tokens=20, min_new_tokens=15)
    found = speech.answer(opened.model, [[5, 6] * 60, [7]], config, opened.form)
    assert list(map(len, found)) == [8, 8]
    assert len(speech.answer(opened.model, [[7]], config, opened.form)[0]) == 20


def test_a_prompt_is_held_out_wherever_it_stands():
    held = [i for i in range(5000) if is_held_out([i, 7, 9])]
    assert 20 < len(held) < 90
    assert all(is_held_out(torch.tensor([i, 7, 9]).numpy()) for i in held)
