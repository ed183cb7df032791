"""Folders with adapters, of a run or of others: what opens, and what is refused in one line."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatlm.adapters.base import Hold, open_base
from chatlm.adapters.opened import open_model
from chatlm.checkpoint.kinds import base_of, kind_of
from chatlm.checkpoint.paths import resolve_model
from chatlm.errors import CheckpointError, ConfigError
from tests.adapters import small
from utils import import_weights

CPU = Hold(torch.device("cpu"))
IDS = torch.tensor([[5, 6, 7, 8, 9]])
FILE = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory, make_tokenizer):
    folder = tmp_path_factory.mktemp("base") / "causal"
    return small.causal(folder, make_tokenizer(texts=small.TEXTS))


@pytest.fixture
def adapters(base, tmp_path):
    return small.adapters(tmp_path / "theirs", base)


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def changed(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_adapters_are_opened_on_their_base_and_switched_off(base, adapters):
    assert (kind_of(adapters), base_of(adapters)) == ("adapter", str(base))
    opened = open_model(resolve_model(adapters), CPU)
    assert (opened.has_adapters, opened.base, opened.form.name) == (True, str(base), "template")
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    inner = opened.model.inner
    assert not torch.allclose(logits(inner), logits(plain), atol=0.1)
    with opened.without_adapters():
        assert torch.equal(logits(inner), logits(plain))
    assert not torch.allclose(logits(inner), logits(plain), atol=0.1)
    assert not any(parameter.requires_grad for parameter in opened.model.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"rank_pattern": {"h.0.attn.c_attn": 2}, "target_modules": ["c_attn", "c_proj"]},
        {"modules_to_save": ["ln_f"]},
        {"bias": "all"},
        {"use_dora": True},
        {"target_modules": ["wte"]},
    ],
)
def test_what_others_publish_is_opened_as_peft_opens_it(base, tmp_path, settings, caplog):
    folder = small.adapters(tmp_path / "theirs", base, **settings)
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    before = logits(plain)
    expected = logits(PeftModel.from_pretrained(plain, folder).eval())
    opened = open_model(folder, CPU)
    assert torch.equal(logits(opened.model.inner), expected)
    assert not torch.allclose(expected, before, atol=0.01)
    assert ("biases were trained" in caplog.text) == ("bias" in settings)


def test_a_run_gives_its_best_step_else_its_newest(base, tmp_path):
    run = tmp_path / "out" / "zh"
    for step in (4, 8):
        folder = small.adapters(run / f"step_{step:06d}", base)
        (folder / "MANIFEST.json").write_text("{}")
    assert resolve_model(run) == run / "step_000008"
    (run / "best").write_text("step_000004\n")
    assert resolve_model(run) == run / "step_000004"
    assert resolve_model(None, tmp_path / "out") == run / "step_000004"
    (run / "step_000004" / FILE).unlink()
    assert resolve_model(run) == run / "step_000008"


def test_the_newest_run_is_found_among_runs_of_both_kinds(base, tmp_path):
    ours = tmp_path / "out" / "train-001" / "step_000001"
    shutil.copytree(base, ours)
    (ours / "MANIFEST.json").write_text("{}")
    theirs = small.adapters(tmp_path / "out" / "zh" / "step_000001", base)
    (theirs / "MANIFEST.json").write_text("{}")
    assert resolve_model(None, tmp_path / "out") == theirs


def test_a_pickle_is_refused_and_converted_once(base, adapters, tmp_path):
    state = load_file(adapters / FILE)
    torch.save(state, adapters / "adapter_model.bin")
    (adapters / FILE).unlink()
    with pytest.raises(CheckpointError, match=rf"no {FILE}; adapter_model.bin is a pickle.*import"):
        resolve_model(adapters)
    out = tmp_path / "converted"
    assert import_weights.main([f"source={adapters}", f"out={out}"]) == 0
    found = load_file(out / FILE)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert open_model(resolve_model(out), CPU).has_adapters


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base_model_name_or_path": None}, "does not name the base"),
        ({"base_model_name_or_path": "/nowhere/at/all"}, "nowhere/at/all', is neither a folder"),
        ({"peft_type": "MAGIC"}, "its adapters do not fit the base"),
        ({"target_modules": ["q_proj"]}, "its adapters do not fit the base"),
        ({"target_modules": ["c_attn", "c_proj"]}, "holds other adapters than adapter_config.json"),
        ({"target_modules": ["c_proj"]}, "holds other adapters than adapter_config.json"),
        ({"r": 8}, "its adapters do not fit the base"),
        ({"megatron_config": {"a": 1}}, "name a module that is imported"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(adapters, fields, message):
    changed(adapters, **fields)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_model(adapters, CPU)
    assert "\n" not in str(caught.value)


def test_damage_is_one_clear_line(adapters, tmp_path):
    (adapters / "adapter_config.json").write_text('{"peft_type": "LORA"')
    with pytest.raises(CheckpointError, match=r"adapter_config\.json cannot be used"):
        open_model(adapters, CPU)
    shutil.rmtree(adapters)


def test_a_file_that_was_cut_is_one_clear_line(adapters):
    (adapters / FILE).write_bytes((adapters / FILE).read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="its adapters do not fit the base"):
        open_model(adapters, CPU)
    (adapters / FILE).unlink()
    with pytest.raises(CheckpointError, match=rf"has adapter_config.json but no {FILE}"):
        resolve_model(adapters)


def test_a_file_that_lacks_a_tensor_is_refused(adapters):
    state = load_file(adapters / FILE)
    state.pop(sorted(state)[0])
    save_file(state, adapters / FILE)
    with pytest.raises(CheckpointError, match=f"{FILE} holds other adapters than"):
        open_model(adapters, CPU)


def test_a_tokenizer_that_is_damaged_is_not_taken_for_a_missing_base(base, adapters, tmp_path):
    AutoTokenizer.from_pretrained(base).save_pretrained(adapters)
    (adapters / "tokenizer.json").write_text("{")
    changed(adapters, base_model_name_or_path=str(tmp_path / "moved"))
    with pytest.raises(CheckpointError, match=f"base={adapters}: its tokenizer cannot be loaded"):
        open_model(adapters, CPU)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda weights: weights[: len(weights) // 2], CheckpointError, "weights are damaged"),
        (lambda _: b"junk" * 9, CheckpointError, "its weights are damaged .*: copy them anew"),
        ({"n_embd": 64}, CheckpointError, r"in other shapes \(transformer.h.0.attn.c_attn.bias, "),
        ({"n_head": 0}, ConfigError, "cannot be opened: integer division or modulo by zero"),
        ({"n_layer": "two"}, ConfigError, "cannot be opened: Validation error for field 'n_layer'"),
        ({"model_type": "vit"}, ConfigError, "cannot be opened"),
    ],
)
def test_a_base_that_is_no_model_is_one_line(base, tmp_path, spoil, error, message):
    own = shutil.copytree(base, tmp_path / "own")
    weights, config = own / "model.safetensors", own / "config.json"
    if isinstance(spoil, dict):
        config.write_text(json.dumps(json.loads(config.read_text()) | spoil))
    else:
        weights.write_bytes(spoil(weights.read_bytes()))
    with pytest.raises(error, match=message) as found:
        open_base(str(own), CPU)
    assert "\n" not in str(found.value)


def test_a_base_that_moved_is_told_from_one_that_is_damaged(base, tmp_path):
    own = tmp_path / "base"
    shutil.copytree(base, own)
    folder = small.adapters(tmp_path / "theirs", own)
    (own / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be opened"):
        open_model(folder, CPU)
    own.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="bring it back, or write where it is now into"):
        open_model(folder, CPU)
    changed(folder, base_model_name_or_path=str(tmp_path / "moved"))
    with pytest.raises(CheckpointError, match="cannot be opened"):
        open_model(folder, CPU)
