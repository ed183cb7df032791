"""Figures of evaluation are those of their definitions."""

import math

import numpy as np
import pytest
import sacrebleu
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from chatlm import evaluate
from chatlm.corpus import store
from chatlm.corpus.example import Example
from chatlm.dataset import token_store
from chatlm.dataset.token_store import Limits
from chatlm.generation_config import GenerationConfig
from chatlm.model.t5 import T5
from chatlm.tokenizer import Tokenizer
from tests import tiny_data

CHINESE = st.text(alphabet="的一是了我不人在他有这个上们来到时大地为，。", min_size=1, max_size=30)


@given(st.lists(st.tuples(CHINESE, CHINESE), min_size=1, max_size=8))
def test_bleu_is_sacrebleus(pairs):
    examples = [Example("问", reference, "x") for reference, _ in pairs]
    answers = [answer for _, answer in pairs]
    references = [[reference for reference, _ in pairs]]
    expected = sacrebleu.corpus_bleu(answers, references, tokenize="zh").score
    assert evaluate.score(examples, answers).bleu4 == pytest.approx(expected)


def test_an_over_long_answer_is_not_rewarded():
    example = [Example("问", "红绿蓝是三原色。", "x")]
    exact = evaluate.score(example, ["红绿蓝是三原色。"]).bleu4
    longer = evaluate.score(example, ["红绿蓝是三原色。红绿蓝是三原色。"]).bleu4
    assert exact == pytest.approx(100.0)
    assert longer < exact


def test_only_closed_questions_count_as_right_or_wrong():
    examples = [
        Example("q", "a", "starter/x"),
        Example("q", "a", "starter/x"),
        Example("q", "a", "starter_open/x"),
        Example("q", "a", "zhihu_kol"),
    ]
    scores = evaluate.score(examples, ["a", "b", "a", "a"])
    assert scores.exact == {"starter/x": (1, 2)}
    assert scores.exact_share == 0.5
    assert evaluate.score(examples[2:], ["a", "a"]).exact_share is None


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Returns a tokenizer and a token store of sums."""
    folder = tmp_path_factory.mktemp("evaluate")
    examples = tiny_data.examples(12)
    tokenizer = Tokenizer.train([t for e in examples for t in (e.prompt, e.response)], 400)
    pairs = [(example.prompt, example.response) for example in examples]
    token_store.write(pairs, tokenizer, Limits(32, 32), folder / "store", "x")
    return tokenizer, token_store.open_store(folder / "store")


def test_the_loss_is_a_mean_over_tokens_however_it_is_cut(parts, small_config):
    tokenizer, rows_on_disk = parts
    torch.manual_seed(0)
    model = T5(small_config(vocab_size=tokenizer.vocab_size))
    accelerator = Accelerator(cpu=True)
    rows = np.arange(12)
    whole = evaluate.loss(model, rows_on_disk, rows, 10**6, accelerator)
    cut = evaluate.loss(model, rows_on_disk, rows, 64, accelerator)
    assert cut.nats_per_token == pytest.approx(whole.nats_per_token, rel=1e-5)
    assert whole.num_tokens == rows_on_disk.targets.offsets[-1]
    chars = sum(len(example.response) for example in tiny_data.examples(12))
    nats = whole.nats_per_token * whole.num_tokens
    assert whole.bits_per_char == pytest.approx(nats / math.log(2) / chars)
    assert model.training


def test_answers_come_back_in_the_order_of_the_questions(parts, small_config):
    tokenizer, _ = parts
    torch.manual_seed(0)
    model = T5(small_config(vocab_size=tokenizer.vocab_size)).eval()
    prompts = [example.prompt for example in tiny_data.examples(12)]
    settings = GenerationConfig(max_new_tokens=5)

    def ask(some):
        return evaluate.answers(model, evaluate.t5_speech(tokenizer, 32), some, settings)

    assert ask(prompts) == [ask([prompt])[0] for prompt in prompts]


def test_the_first_pairs_of_a_file_are_the_sample(tmp_path):
    with store.PairWriter(tmp_path / "a.parquet") as writer:
        writer.write(tiny_data.examples(9))
    path = tmp_path / "a.parquet"
    assert evaluate.read_examples(path, 4) == tiny_data.examples(9)[:4]
    assert evaluate.read_examples(path, 0) == tiny_data.examples(9)
