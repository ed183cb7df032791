"""The fixed probe of general chat: what it holds, and the figures that a drifted model gets."""

import re
import tomllib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from chatlm.adapters import probe
from chatlm.adapters.base import Hold, open_base
from chatlm.adapters.forms import open_form
from chatlm.adapters.language_model import LanguageModel, flat
from chatlm.adapters.lora import with_adapters
from chatlm.config import LoraSettings
from tests.adapters import small

ROOT = Path(__file__).parents[2]
CPU = Hold(torch.device("cpu"))
KINDS = ("causal", "seq2seq")


@pytest.fixture(scope="module")
def form(base):
    return open_form(str(base))


def plain_logits(inner, prompt, answer):
    """Returns what the library predicts the answer with, one row alone."""
    if inner.config.is_encoder_decoder:
        given = torch.tensor([[inner.config.decoder_start_token_id, *answer[:-1]]])
        return inner(input_ids=torch.tensor([prompt]), decoder_input_ids=given).logits[0]
    return inner(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]


def test_there_are_24_questions_in_each_language_with_answers_of_some_words():
    pairs = probe.pairs()
    assert [pair.language for pair in pairs] == ["zh"] * 24 + ["en"] * 24
    assert len({pair.question for pair in pairs}) == len({pair.answer for pair in pairs}) == 48
    for pair in pairs:
        is_chinese = bool(re.search("[一-鿿]", pair.question))
        assert is_chinese == (pair.language == "zh")
        of_chinese = re.search("[一-鿿]", pair.answer)
        size = len(pair.answer) if of_chinese else len(pair.answer.split())
        assert 5 <= size <= 60, pair
        assert pair.answer == pair.answer.strip()
        assert not re.search("ChatLM|ChatGLM|GPT|人工智能助手", pair.question + pair.answer)


def test_the_file_is_part_of_what_is_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = settings["tool"]["setuptools"]["package-data"]["chatlm.adapters"]
    assert probe.FILE.name in listed


@pytest.mark.parametrize("kind", KINDS)
def test_the_figures_are_those_of_the_library_row_by_row(bases, form, kind):
    model = small.tuned(bases[kind])
    found = probe.measure(model, form)
    tuned, base = model.inner.eval(), open_base(str(bases[kind]), CPU)
    nats, kl, count = torch.zeros(2, dtype=torch.float64), 0.0, 0
    with torch.no_grad():
        for prompt, answer in probe.rows_of(form, probe.most_positions(model)):
            both = [plain_logits(one, prompt, answer) for one in (tuned, base)]
            target = torch.tensor(answer)
            nats += torch.stack([F.cross_entropy(one, target, reduction="sum") for one in both])
            of_tuned, of_base = (one.log_softmax(-1) for one in both)
            kl += F.kl_div(of_tuned, of_base, reduction="sum", log_target=True).item()
            count += len(answer)
    assert found.num_tokens == count
    assert found.nats_tuned == pytest.approx(nats[0].item() / count, rel=1e-5)
    assert found.nats_base == pytest.approx(nats[1].item() / count, rel=1e-5)
    assert found.kl == pytest.approx(kl / count, rel=1e-4)
    assert found.forgetting == found.nats_tuned - found.nats_base
    assert found.kl > 0.01
    assert abs(found.forgetting) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_two_models_apart_have_the_figures_of_one_with_its_adapters_off(bases, form, kind):
    tuned = small.tuned(bases[kind])
    apart = LanguageModel(open_base(str(bases[kind]), CPU), pad_id=0).eval()
    assert probe.measure(tuned, form, apart) == probe.measure(tuned, form)


def test_ids_that_only_one_model_has_a_place_for_have_no_part_in_the_kl(base, form):
    model, wider = (LanguageModel(open_base(str(base), CPU), pad_id=0).eval() for _ in range(2))
    wider.inner.resize_token_embeddings(model.vocab_size + 5)  # pyright: ignore[reportCallIssue]
    assert wider.logits(*flat([([5], [6])], CPU.device)).shape[1] == model.vocab_size + 5
    found = probe.measure(model, form, wider)
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert found.nats_base != found.nats_tuned


@pytest.mark.parametrize("kind", KINDS)
def test_fresh_adapters_have_forgotten_nothing_to_the_bit(bases, form, kind):
    base = open_base(str(bases[kind]), CPU)
    alone = probe.measure(LanguageModel(base, pad_id=0), form)
    fresh = LanguageModel(with_adapters(base, LoraSettings(rank=4)), pad_id=0)
    found = probe.measure(fresh, form)
    assert found == alone
    assert found.forgetting == found.kl == 0


def test_a_model_in_training_is_left_as_it_was_and_measured_without_dropout(bases, base, form):
    model = small.tuned(base, dropout=0.5)
    moving = [name for name, _ in model.saved()]
    first = probe.measure(model, form)
    assert model.training
    assert model.inner.training
    assert [name for name, _ in model.saved()] == moving
    assert first == probe.measure(model, form) == probe.measure(model.eval(), form)
    assert not model.training


def test_a_row_that_a_model_has_no_positions_for_is_cut_and_gets_no_end(bases, base, form):
    model = small.tuned(base)
    most = probe.most_positions(model)
    assert most == 128
    rows = probe.rows_of(form, most)
    whole = probe.rows_of(form, probe.most_positions(small.tuned(bases["seq2seq"])))
    assert len(whole) == 48
    assert all(answer[-1:] == form.end_ids for _, answer in whole)
    for prompt, answer in rows:
        full = next(long for other, long in whole if other == prompt)
        assert answer == full[: most - len(prompt)]
    assert max(len(prompt) + len(answer) for prompt, answer in rows) == most


def test_it_is_measured_in_half_precision_too(bases, base, form):
    model = small.tuned(base)
    exact = probe.measure(model, form)
    with torch.autocast("cpu", torch.bfloat16):
        found = probe.measure(model, form)
    assert found.nats_tuned == pytest.approx(exact.nats_tuned, rel=1e-2)
    assert found.kl == pytest.approx(exact.kl, rel=5e-2)
