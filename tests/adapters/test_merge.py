"""Base and adapters become one plain folder that answers as they do, or nothing does."""

import json
import shutil
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny_export import make_lively
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from chatlm.adapters.base import Hold, open_base
from chatlm.adapters.opened import open_model
from chatlm.checkpoint import manifest, storage
from chatlm.checkpoint.kinds import kind_of
from chatlm.checkpoint.manifest import Manifest
from chatlm.checkpoint.paths import resolve_model
from chatlm.checkpoint.weights import load_model
from chatlm.errors import CheckpointError, ConfigError, StorageError
from chatlm.export import merge, plain, precision, probes
from chatlm.tokenizer import Tokenizer
from tests.adapters import small
from utils.export_model import main

CPU = Hold(torch.device("cpu"))
KINDS = ("causal", "seq2seq", "chatglm")
TARGETS = {"causal": ["c_attn", "c_proj"], "seq2seq": ["q", "v", "wo"], "chatglm": "all-linear"}
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def bases(tmp_path_factory, make_tokenizer):
    """Return a base of each kind, with a licence, a README and a program."""
    tokenizer = make_tokenizer(texts=small.TEXTS)
    made = small.bases(tmp_path_factory.mktemp("bases"), tokenizer)
    for base in made.values():
        (base / "LICENSE").write_text("take it")
        (base / "README.md").write_text("a model")
        (base / "modeling_it.py").write_text("raise SystemExit('was run')")
    return made


@pytest.fixture
def tuned(bases, tmp_path):
    """Return a function that writes adapters as a run keeps them."""

    def make(kind="causal", **settings):
        step = tmp_path / "zh" / "step_000003"
        targets = {"target_modules": TARGETS[kind]}
        folder = small.adapters(step, bases[kind], **{**targets, **settings})
        open_model(folder, CPU).form.tokenizer.save_pretrained(folder)
        (folder / "chat.json").write_text('{"max_source_tokens": 60, "max_new_tokens": 20}')
        entries = {path.name: manifest.entry_of(path) for path in folder.iterdir()}
        manifest.write(folder, Manifest(3, entries))
        return folder

    return make


@pytest.fixture
def export(tmp_path, capsys):
    """Return a function that exports to tmp_path/out and returns what is reported."""

    def go(folder, *settings):
        capsys.readouterr()
        assert main([f"model={folder}", f"out={tmp_path / 'out'}", *settings]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return go


def logits(model, ids=((5, 6, 7, 8, 9),)):
    ids = torch.tensor(ids)
    more = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **more).logits


def reopened(folder, kind):
    """The folder as anybody opens it, with nothing left to chance."""
    auto = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForCausalLM
    opened: Any = auto.from_pretrained(folder, output_loading_info=True)
    model, info = opened
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_folder_answers_as_base_and_adapters_do(bases, tuned, export, tmp_path, kind):
    folder = tuned(kind)
    report = export(folder.parent, "format=hf", "num_probes=3", "probe_tokens=8")
    assert report["logit_difference"] <= 1e-5 * report["largest_logit"] + 1e-7
    assert report["logit_difference"] <= report["allowed_difference"]
    assert report["difference_of_base"] > 0.1
    assert (report["identical"], report["dtype"], report["merged"]) == (1.0, "fp32", True)
    out = resolve_model(tmp_path / "out")
    assert kind_of(out) == "other"
    ids = [[5, 6, 7, 8, 9]]
    if kind == "chatglm":
        ids = AutoTokenizer.from_pretrained(out)(["红绿蓝"])["input_ids"]
    model = reopened(out, kind)
    before = PeftModel.from_pretrained(open_base(str(bases[kind]), CPU), folder).eval()
    expected = logits(before, ids)
    torch.testing.assert_close(logits(model, ids), expected, rtol=1e-5, atol=1e-4)
    with before.disable_adapter():
        assert (logits(before, ids) - expected).abs().max() > 0.1
    assert len(AutoTokenizer.from_pretrained(out)) == len(open_model(folder, CPU).form.tokenizer)


def test_the_folder_holds_what_belongs_to_a_model_and_says_of_what_it_was_made(
    bases, tuned, export, tmp_path
):
    folder = tuned()
    export(folder)
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "generation_config.json", WEIGHTS, "tokenizer.json"),
        *("tokenizer_config.json", "chat_template.jinja", "chat.json", "LICENSE", "README.md"),
        *("merge.json", "MANIFEST.json"),
    }
    assert (out / "LICENSE").read_text() == "take it"
    told = json.loads((out / "merge.json").read_text())
    assert told["base"] == str(bases["causal"])
    assert told["adapters"] == str(folder)
    sha256 = manifest.entry_of(folder / "adapter_model.safetensors").sha256
    assert (told["adapter_sha256"], told["step"], told["dtype"]) == (sha256, 3, "fp32")
    assert told["check"]["identical"] == 1.0
    made = manifest.read(out)
    assert made.step == 3
    assert all(manifest.entry_of(out / name) == entry for name, entry in made.files.items())
    assert open_model(out, CPU).form.name == "template"


def test_every_variant_of_peft_is_merged(bases, tuned, export, tmp_path):
    folder = tuned(
        rank_pattern={"c_attn": 2},
        alpha_pattern={"c_attn": 16},
        use_rslora=True,
        use_dora=True,
        modules_to_save=["ln_f"],
        bias="all",
    )
    report = export(folder, "num_probes=3", "probe_tokens=8")
    assert report["logit_difference"] <= 1e-5 * report["largest_logit"]
    before = PeftModel.from_pretrained(open_base(str(bases["causal"]), CPU), folder).eval()
    model = reopened(tmp_path / "out", "causal")
    torch.testing.assert_close(logits(model), logits(before), rtol=1e-5, atol=1e-4)


def test_a_head_with_adapters_gets_weights_of_its_own(bases, tuned, export, tmp_path):
    folder = tuned(target_modules=["lm_head", "c_attn"])
    export(folder, "num_probes=3", "probe_tokens=8")
    model = reopened(tmp_path / "out", "causal")
    before = PeftModel.from_pretrained(open_base(str(bases["causal"]), CPU), folder).eval()
    torch.testing.assert_close(logits(model), logits(before), rtol=1e-5, atol=1e-4)
    assert model.config.tie_word_embeddings is False
    own, table = model.lm_head.weight, model.transformer.wte.weight
    assert not torch.equal(own, table)
    plain_base: Any = AutoModelForCausalLM.from_pretrained(bases["causal"])
    assert torch.equal(table, plain_base.transformer.wte.weight)


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_files_keep_the_precision_of_the_base_and_are_rounded_once(
    bases, tuned, export, tmp_path, name, dtype
):
    folder = tuned()
    exact = merge.merged(open_model(folder, CPU).model.inner, None).state_dict()
    half = tmp_path / "half"
    shutil.copytree(bases["causal"], half)
    state = {key: value.to(dtype) for key, value in load_file(half / WEIGHTS).items()}
    save_file(state, half / WEIGHTS, {"format": "pt"})
    of_half = tmp_path / "adapters"
    shutil.copytree(folder, of_half)
    (of_half / "MANIFEST.json").unlink()
    fields = json.loads((of_half / "adapter_config.json").read_text())
    fields["base_model_name_or_path"] = str(half)
    (of_half / "adapter_config.json").write_text(json.dumps(fields))
    report = export(of_half, "num_probes=3", "probe_tokens=4")
    assert report["dtype"] == name
    assert 0 < report["logit_difference"] <= report["allowed_difference"]
    assert report["allowed_difference"] <= report["difference_of_base"] / 2
    found = load_file(tmp_path / "out" / WEIGHTS)
    assert {value.dtype for value in found.values()} == {dtype}
    wide = open_model(of_half, CPU).model.inner  # the same numbers, held in fp32
    for key, value in merge.merged(wide, None).state_dict().items():
        if key in found:
            assert torch.equal(found[key], value.to(dtype)), key
    key = "transformer.h.0.attn.c_attn.weight"
    assert not torch.equal(found[key], state[key])
    assert not torch.equal(found[key].float(), exact[key])


def test_another_precision_is_written_if_asked_for(tuned, export, tmp_path):
    assert export(tuned(), "dtype=bf16", "num_probes=2")["dtype"] == "bf16"
    assert precision.of_files(tmp_path / "out") == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_numbers_that_do_not_fit_are_refused(tuned, export, tmp_path):
    folder = tuned(scale=1e4)
    with pytest.raises(ConfigError, match=r"has numbers that fp16 cannot hold: take dtype=bf16"):
        export(folder, "dtype=fp16", "num_probes=1", "probe_tokens=1")
    assert [path.name for path in tmp_path.iterdir()] == ["zh"]


def test_the_base_may_be_a_model_of_ours(tmp_path, export):
    base = make_lively(tmp_path / "base")
    folder = small.adapters(tmp_path / "step", base, target_modules=["q", "v"])
    report = export(folder, "num_probes=2", "probe_tokens=8")
    assert report["identical"] == 1.0
    out = tmp_path / "out"
    assert kind_of(out) == "own"
    assert Tokenizer.load(out).fingerprint == Tokenizer.load(base).fingerprint
    model = load_model(out)  # our own T5, whose logits are those of base and adapters
    before = PeftModel.from_pretrained(open_base(str(base), CPU), folder).eval()
    ids, mask = torch.tensor([[5, 6, 7, 8, 1]]), torch.ones(1, 5, dtype=torch.long)
    with torch.no_grad():
        found = model.logits(model.decode(ids, model.encode(ids, mask), mask))
    torch.testing.assert_close(found, logits(before, ids), rtol=1e-3, atol=1e-3)


def test_shards_are_no_larger_than_asked_for(tuned, tmp_path, monkeypatch, capsys):
    folder, out = tuned(), tmp_path / "out"
    opened = open_model(folder, CPU)
    whole = merge.merged(opened.model.inner, None)
    plain.save(whole, opened.form.tokenizer, out, "50KB")
    files = precision.weight_files(out)
    assert len(files) > 1
    assert max(path.stat().st_size for path in files) < 60_000
    torch.testing.assert_close(logits(reopened(out, "causal")), logits(whole))
    assert precision.of_files(out) == torch.float32


def test_a_model_that_answers_otherwise_is_not_written(tuned, export, tmp_path, monkeypatch):
    folder = tuned()
    monkeypatch.setattr(merge, "_write", _forgetful(merge._write))
    with pytest.raises(ConfigError, match="the merged model is another one, nothing was written"):
        export(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["zh"]


def _forgetful(write):
    """The step that writes, with one matrix of the adapters lost."""

    def go(part, plan, opened, base, dtype):
        layer = opened.model.inner.base_model.model.transformer.h[1].attn.c_attn
        layer.lora_B["default"].weight.data.zero_()
        write(part, plan, opened, base, dtype)

    return go


def test_a_disk_that_is_too_small_is_found_before_anything_is_written(
    tuned, export, tmp_path, monkeypatch
):
    folder = tuned()
    monkeypatch.setattr(storage, "free_bytes", lambda path: 1000)
    with pytest.raises(StorageError, match=r"out needs [0-9]+ bytes, 1000 are free: free some"):
        export(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["zh"]


def test_damage_is_refused_and_leaves_nothing(tuned, export, tmp_path):
    folder = tuned()
    content = bytearray((folder / "adapter_model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is damaged"):
        export(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["zh"]


def test_a_quantised_base_takes_no_adapters(bases, tuned, export, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(bases["causal"], base)
    folder = small.adapters(tmp_path / "step", base)
    fields = json.loads((base / "config.json").read_text())
    fields["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ConfigError, match="holds quantised weights, into which nothing can be"):
        export(folder)


def test_a_model_of_others_is_copied_bit_for_bit_without_its_programs(bases, export, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(bases["causal"], base)
    fields = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**fields, "auto_map": {"AutoModel": "x.Y"}}))
    assert export(base)["dtype"] == "fp32"
    out = tmp_path / "out"
    assert (out / WEIGHTS).read_bytes() == (base / WEIGHTS).read_bytes()
    left_out = {path.name for path in base.iterdir()} - {path.name for path in out.iterdir()}
    assert left_out == {"modeling_it.py"}
    assert "auto_map" not in json.loads((out / "config.json").read_text())
    torch.testing.assert_close(
        logits(reopened(out, "causal")), logits(reopened(base, "causal")), rtol=0, atol=0
    )


def test_a_damaged_checkpoint_is_not_passed_on(bases, export, tmp_path):
    base = tmp_path / "step_000003"
    shutil.copytree(bases["causal"], base)
    entries = {path.name: manifest.entry_of(path) for path in base.iterdir()}
    manifest.write(base, Manifest(3, entries))
    content = bytearray((base / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (base / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        export(base)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000003"]


def test_a_model_of_others_in_another_precision(bases, export, tmp_path):
    assert export(bases["chatglm"], "dtype=bf16")["dtype"] == "bf16"
    model = reopened(tmp_path / "out", "chatglm")
    assert model.lm_head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["format=ct2"], r"format=ct2 is for ChatLM's own T5, .*: leave out format="),
        (["quantization=float32"], r"quantization= has no effect with format=hf"),
        (["min_agreeing=0.5"], r"min_agreeing= has no effect"),
        (["dtype=int8"], r"dtype=int8: expected auto, fp32, bf16, fp16"),
        (["max_shard_size=4"], r"max_shard_size=4: expected 4GB"),
        (["format=ct2", "dtype=fp32"], r"dtype= has no effect with format=ct2"),
    ],
)
def test_what_has_no_effect_is_refused(tuned, export, settings, message):
    with pytest.raises(ConfigError, match=message):
        export(tuned(), *settings)


def test_a_copy_asks_nothing(bases, export):
    with pytest.raises(ConfigError, match="num_probes= has no effect with format=hf and a model"):
        export(bases["causal"], "num_probes=3")


def test_questions_are_of_both_languages_or_the_file(tmp_path):
    questions = probes.of_chat("", 8)
    assert len(questions) == 8
    assert {text.isascii() for text in questions} == {True, False}
    (tmp_path / "mine.txt").write_text("one\ntwo\n")
    assert probes.of_chat(str(tmp_path / "mine.txt"), 1) == ["one"]
