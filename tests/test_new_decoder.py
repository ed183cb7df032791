"""A decoder of random weights: its shape, its size, what opens it, and what is refused."""

import json
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatlm.adapters.forms import Asked, open_form
from chatlm.checkpoint.kinds import kind_of
from chatlm.checkpoint.paths import resolve_model
from chatlm.errors import CheckpointError, ConfigError
from chatlm.tokenizer import Tokenizer
from utils.new_decoder import DecoderConfig, main

SHAPE = ["hidden_size=32", "num_layers=2", "num_heads=4", "max_tokens=96"]
TEXTS = ["红、绿、蓝。", "你好，请问有什么可以帮您？", "hello world"] * 9


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.train(TEXTS, 400).save(folder)
    return folder


def made(tokenizer, out, *settings):
    return main([f"tokenizer={tokenizer}", f"out={out}", *SHAPE, *settings])


def test_it_has_the_shape_asked_for_and_opens_anywhere(tokenizer, tmp_path, capsys):
    out = tmp_path / "decoder"
    assert made(tokenizer, out) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    form = open_form(str(tokenizer))
    size, width, inner = form.vocab_size, 32, 96
    # The table, once for both ends; attention, gated feed-forward and two norms a layer; a norm.
    expected = size * width + 2 * (4 * width**2 + 3 * width * inner + 2 * width) + width
    assert (told["weights"], told["vocab_size"], told["saved"]) == (expected, size, str(out))
    assert (
        sum(tensor.numel() for tensor in load_file(out / "model.safetensors").values()) == expected
    )
    opened: Any = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    model, info = opened
    assert not info["missing_keys"]
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 2, 4)
    assert (config.max_position_embeddings, config.intermediate_size) == (96, inner)
    assert (config.pad_token_id, config.eos_token_id) == (form.pad_id, form.end_ids[-1])
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert kind_of(resolve_model(out)) == "other"
    # Untrained: every id is about as likely as any other.
    ids = torch.arange(20)[None]
    loss = model(input_ids=ids, labels=ids).loss.item()
    assert loss == pytest.approx(torch.tensor(float(size)).log().item(), rel=0.1)


def test_the_tokenizer_goes_with_it(tokenizer, tmp_path):
    made(tokenizer, tmp_path / "out")
    before, after = open_form(str(tokenizer)), open_form(str(tmp_path / "out"))
    assert before.fingerprint == after.fingerprint
    asked = [Asked("你好 hello")]
    assert before.prompt_ids(asked) == after.prompt_ids(asked)
    own, copied = (
        AutoTokenizer.from_pretrained(tokenizer),
        AutoTokenizer.from_pretrained(tmp_path / "out"),
    )
    assert own.get_vocab() == copied.get_vocab()


def test_weights_follow_from_the_seed(tokenizer, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        made(tokenizer, tmp_path / name, f"seed={seed}")
    one, same, other = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 30, "num_heads": 4}, "hidden_size=30 must be an even multiple of num_hea"),
        ({"hidden_size": 12, "num_heads": 4}, "hidden_size=12 must be an even multiple of num_hea"),
        ({"num_layers": 0}, "start at 1"),
        ({"max_tokens": 0}, "start at 1"),
        ({"intermediate_size": -1}, "start at 1"),
    ],
)
def test_shapes_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DecoderConfig(**settings)


def test_nothing_is_written_over_and_a_tokenizer_is_needed(tokenizer, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(ConfigError, match="taken exists: name another out="):
        made(tokenizer, tmp_path / "taken")
    with pytest.raises(CheckpointError, match="its tokenizer cannot be loaded"):
        made(tmp_path / "nowhere", tmp_path / "out")
    damaged = shutil.copytree(tokenizer, tmp_path / "damaged")
    (damaged / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="its tokenizer cannot be loaded"):
        made(damaged, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "taken"]


def test_help_names_every_setting(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "python -m utils.new_decoder" in text
    assert all(f"{name}=" in text for name in DecoderConfig.__dataclass_fields__)
