"""A base that moves as a whole (lora.rank=0): what moves, what is kept, and what others read."""

import json
import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from chatlm import evaluate, run_folder
from chatlm.adapters.base import Hold, open_base
from chatlm.adapters.data import parted
from chatlm.adapters.forms import open_form
from chatlm.adapters.language_model import LanguageModel
from chatlm.adapters.opened import open_model
from chatlm.adapters.sequences import open_sequences
from chatlm.checkpoint.kinds import kind_of
from chatlm.checkpoint.paths import resolve_model
from chatlm.errors import CheckpointError, ConfigError
from tests.adapters import small
from tests.adapters.tunings import SETTINGS, losses, tokenized
from tests.trainings import train_with
from utils import export_model

CPU = Hold(torch.device("cpu"))
AUTO = {"causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}
TIED = {"causal": ("transformer.wte.weight", "lm_head.weight"), "seq2seq": ("shared.weight",) * 2}


@pytest.fixture(scope="module")
def bases(tmp_path_factory, make_tokenizer):
    return small.bases(tmp_path_factory.mktemp("bases"), make_tokenizer(texts=small.TEXTS))


@pytest.fixture(scope="module")
def data(bases, tmp_path_factory):
    """Return a function that gives the token folder of a base, made once."""
    made = {}

    def of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(f"data-{kind}")
            made[kind] = tokenized(folder, bases[kind])
        return made[kind]

    return of


@pytest.fixture
def run(bases, data, tmp_path, monkeypatch):
    """Return a function that trains a base in tmp_path and returns the run folder."""
    monkeypatch.chdir(tmp_path)

    def go(name, kind="causal", **changes):
        given = {"base": bases[kind], "data": data(kind), "lora.rank": 0, "learning_rate": 1e-3}
        train_with(**SETTINGS | {"out": f"out/{name}"} | given | changes)
        return tmp_path / "out" / name

    return go


def weights(folder, step=8):
    return load_file(folder / f"step_{step:06d}" / "model.safetensors")


def valid_loss(folder, model, form):
    """The loss on the held-out part of a token folder, as a run computes it."""
    _, valid = parted(open_sequences(folder, form.fingerprint))
    assert valid
    rows = np.arange(len(valid))
    trainee = LanguageModel(model, pad_id=form.pad_id)
    return evaluate.loss(trainee, valid, rows, 2048, Accelerator(cpu=True)).nats_per_token


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_every_weight_moves_and_others_read_the_folder(bases, data, run, kind):
    before = {path.name: path.read_bytes() for path in bases[kind].iterdir()}
    folder = run("a", kind)
    assert losses(folder)[-1] < losses(folder)[0]
    assert before == {path.name: path.read_bytes() for path in bases[kind].iterdir()}
    old, new = load_file(bases[kind] / "model.safetensors"), weights(folder)
    assert old.keys() == new.keys()
    stayed = [name for name in new if new[name].is_floating_point() and old[name].equal(new[name])]
    assert stayed == []
    step = folder / "step_000008"
    model, info = AUTO[kind].from_pretrained(step, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.dtype == torch.float32
    assert len(AutoTokenizer.from_pretrained(step)) == len(open_form(str(bases[kind])).tokenizer)
    # The loss that the run wrote down is that of the folder as anybody opens it.
    told = [one["valid_loss"] for one in run_folder.metrics(folder) if "valid_loss" in one][-1]
    form = open_form(str(step))
    assert valid_loss(data(kind), model.eval(), form) == pytest.approx(told, rel=1e-6)
    # A T5 of others is no T5 of ours: it goes on being asked as it was tuned.
    assert kind_of(step) == "other"
    assert form.name == open_form(str(bases[kind])).name != "own"


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_tied_weights_stay_tied_and_lie_in_the_file_once(run, kind):
    folder = run("a", kind, max_steps=4)
    names = set(weights(folder, 4))
    table, head = TIED[kind]
    assert table in names
    assert not [name for name in names if name.startswith(("lm_head", "encoder.embed"))]
    model = AUTO[kind].from_pretrained(folder / "step_000004")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.get_input_embeddings().weight.equal(weights(folder, 4)[table])
    assert head not in names - {table}


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "chatglm"])
def test_resumed_is_uninterrupted_to_the_bit(run, kind):
    whole = run("whole", kind)
    part = run("part", kind)
    shutil.rmtree(part / "step_000008")
    (part / "best").unlink()
    resumed = run("part", kind, resume=True)
    assert losses(resumed) == losses(whole)
    one, other = weights(whole), weights(resumed)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_bf16_keeps_weights_in_fp32(bases, run):
    folder = run("a", precision="bf16", learning_rate=1e-5)
    exact = run("b", precision="fp32", learning_rate=1e-5)
    assert losses(folder) != losses(exact)  # it does compute in bf16
    old, new = load_file(bases["causal"] / "model.safetensors"), weights(folder)
    moved = 0
    for name, tensor in new.items():
        assert tensor.dtype == torch.float32
        # Steps that bf16 weights would have lost.
        lost = tensor.bfloat16().equal(old[name].bfloat16()) and not tensor.equal(old[name])
        moved += lost
    assert moved > 0
    assert json.loads((folder / "step_000008" / "config.json").read_text())["dtype"] == "float32"


def test_the_run_is_a_model_of_others_and_is_passed_on_as_one(run, tmp_path, caplog, capsys):
    folder = run("a", max_steps=4)
    assert "talk with it: python cli_demo.py chat model=out/a" in caplog.text
    assert "cli_demo.py compare" not in caplog.text
    step = resolve_model(folder)
    assert (step.name, kind_of(step)) == ("step_000004", "other")
    assert not open_model(step, CPU).has_adapters
    capsys.readouterr()
    assert export_model.main([f"model={folder}", f"out={tmp_path / 'plain'}"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["dtype"] == "fp32"
    names = {path.name for path in (tmp_path / "plain").iterdir()}
    assert not names & {"optimizer.safetensors", "state.json"}
    assert {"chat.json", "model.safetensors", "tokenizer.json", "config.json"} <= names
    assert load_file(tmp_path / "plain" / "model.safetensors").keys() == weights(folder, 4).keys()


def test_another_base_does_not_go_on(bases, run, make_tokenizer, tmp_path):
    run("a", max_steps=4)
    other = shutil.copytree(bases["seq2seq"], tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"holds the weights of another model|base"):
        run("a", resume=True, base=other, accept_changes=True)


def test_packed_weights_cannot_move(run):
    with pytest.raises(ConfigError, match=r"quantize= needs adapters \(lora.rank above 0\)"):
        run("a", quantize="nf4")


def test_programs_are_not_named_in_the_config_of_a_checkpoint(bases, tmp_path):
    from chatlm.adapters.whole import WholeLayout, moving

    base = shutil.copytree(bases["chatglm"], tmp_path / "base")
    fields = json.loads((base / "config.json").read_text())
    fields["auto_map"] = {"AutoModel": "modeling_chatglm.X"}
    (base / "config.json").write_text(json.dumps(fields))
    model = moving(open_base(str(base), CPU))
    texts = WholeLayout(model, "").texts(dict(model.named_parameters()))
    assert "modeling_chatglm" not in texts["config.json"]
