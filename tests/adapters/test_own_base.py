"""A checkpoint of ours as the base of adapters: asked as its own training asked it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from chatlm.adapters.base import Hold, open_base
from chatlm.adapters.forms import Asked, open_form
from chatlm.adapters.language_model import LanguageModel
from chatlm.adapters.lora import with_adapters
from chatlm.adapters.opened import Opened
from chatlm.chat.session import ChatSession
from chatlm.chat.settings import ChatSettings
from chatlm.checkpoint.paths import resolve_model
from chatlm.config import LoraSettings
from chatlm.corpus.conversation import prompt_for
from chatlm.errors import ConfigError
from chatlm.inference.language_engine import LanguageEngine
from chatlm.inference.open import open_engine, read_limits
from chatlm.model.config import ModelConfig
from chatlm.model.hf import save_pretrained
from chatlm.model.t5 import T5
from chatlm.tokenizer import Tokenizer
from tests.adapters import small
from tests.adapters.tunings import SETTINGS, pairs_file
from tests.tiny_checkpoint import make_checkpoint
from tests.trainings import train_with

CPU = Hold(torch.device("cpu"))
QUESTIONS = ["今天天气很好", "你好！", "公园", "</s><pad>", " \u200b我 们"]
LIMITS = {"max_source_tokens": 48, "max_new_tokens": 16, "history_turns": 3}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose answers vary."""
    folder = make_checkpoint(tmp_path_factory.mktemp("own") / "step_000500")
    (folder / "chat.json").write_text(json.dumps(LIMITS))
    tokenizer = Tokenizer.load(folder)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size + 7,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=2,
    )
    torch.manual_seed(8)
    model = T5(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name and name != "embedding.weight":
                weight.mul_(3.0)
    save_pretrained(model, config, folder)
    return folder


def test_its_prompts_are_those_of_its_own_training(base: Path) -> None:
    form, own = open_form(str(base)), Tokenizer.load(base)
    assert form.name == "own"
    turns = (("你好\u200b", "您好！"), ("用户：一\n用户：二", "三"))
    for asked in (*map(Asked, QUESTIONS), Asked("再说一遍", turns)):
        text = prompt_for(asked.turns, asked.question)
        assert form.prompt_ids([asked]) == [[*own.encode(text), own.eos_id]]
    assert form.answer_ids(["好"]) == [own.encode("好")]
    assert form.end_ids == form.stop_ids == [own.eos_id]
    assert form.pad_id == own.pad_id
    assert form.prompt_ids([Asked("a b", is_whole=True)]) == [[*own.encode("a b"), own.eos_id]]


def test_others_with_a_tokenizer_of_ours_keep_the_plain_form(
    base: Path, tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    tokenizer = open_form(str(base)).tokenizer
    decoder = open_form(str(small.causal(tmp_path / "gpt2", tokenizer)))
    assert decoder.name == "plain"
    assert decoder.fingerprint != open_form(str(base)).fingerprint
    theirs = small.seq2seq(tmp_path / "t5", make_tokenizer(template=None))
    assert open_form(str(theirs)).name == "plain"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert open_form(str(tmp_path / "tokenizer")).name == "plain"


def test_fresh_adapters_answer_as_our_own_engine_does(base: Path) -> None:
    inner = with_adapters(open_base(str(base), CPU), LoraSettings(rank=4))
    form = open_form(str(base))
    model = LanguageModel(inner, pad_id=form.pad_id).eval().requires_grad_(False)
    opened = Opened(model, form, str(base), has_adapters=True)
    ours = open_engine(base, "cpu", threads=1)
    theirs = LanguageEngine(opened, name="theirs", limits=read_limits(base))
    said = []
    for settings in (
        ChatSettings(),
        ChatSettings(min_new_tokens=9, repetition_penalty=1.4, no_repeat_ngram_size=2),
        ChatSettings(temperature=1.1, seed=4, top_k=20, top_p=0.9),
    ):
        chats = [ChatSession(engine, settings) for engine in (ours, theirs)]
        for question in QUESTIONS:
            one, other = ("".join(chat.ask(question)) for chat in chats)
            assert one == other
            assert chats[0].prompt == chats[1].prompt
            assert chats[0].reason == chats[1].reason
            said.append(one)
        for question in ("长" * 100, "短"):  # one that is cut, and then with less history
            one, other = ("".join(chat.ask(question)) for chat in chats)
            assert one == other
            assert chats[0].prompt == chats[1].prompt
    assert len(set(said)) > len(QUESTIONS)
    ours.close()
    theirs.close()


def test_it_can_be_tuned_and_talked_with(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = {"learning_rate": 3e-2, "eval_answers": 2, "max_steps": 4}
    train_with(**SETTINGS | few, base=base, data=pairs_file(tmp_path, 40), out="out/tuned")
    folder = resolve_model(tmp_path / "out" / "tuned")
    weights = load_file(folder / "adapter_model.safetensors")
    assert any(name.endswith("lora_B.weight") and w.abs().max() > 0 for name, w in weights.items())
    engine = open_engine(folder, "cpu", threads=1)
    assert engine.limits.base == str(base)
    assert engine.limits.max_source_tokens == 64
    assert open_form(str(folder)).name == "own", "told by the base"
    ours = open_engine(base, "cpu", threads=1)
    chat, plain = ChatSession(engine), ChatSession(ours, ChatSettings(max_new_tokens=12))
    answers = ["".join(chat.ask(question)) for question in QUESTIONS]
    chat.hear_base(True)
    chat.is_alone = plain.is_alone = True
    bare = ["".join(chat.ask(question)) for question in QUESTIONS]
    assert bare == ["".join(plain.ask(question)) for question in QUESTIONS]
    assert answers != bare
    engine.close()
    ours.close()


def test_one_with_rotary_positions_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path)
    config = ModelConfig(
        vocab_size=400, d_model=16, d_kv=4, d_ff=16, num_heads=2, num_layers=1, position="rope"
    )
    save_pretrained(T5(config), config, folder)
    with pytest.raises(ConfigError, match="position=rope, which transformers does not have") as one:
        open_base(str(folder), CPU)
    assert "\n" not in str(one.value)
