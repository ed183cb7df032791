"""Generation: the ids of transformers where it has them, and the laws of streaming and sampling."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from chatlm.errors import ConfigError
from chatlm.generate import generate, sampling_probabilities, stream
from chatlm.generation_config import GenerationConfig
from chatlm.model.config import FEED_FORWARDS

IDS = torch.tensor([[5, 6, 7, 8, 9, 1], [11, 3, 1, 0, 0, 0], [20, 31, 42, 53, 1, 0]])
MASK = (IDS != 0).long()
SEEDS = range(4)
CONTROLS = [0, 2]


def their_answers(model, **settings):
    """Return the ids of transformers' generate, cut at EOS and freed of start and padding."""
    with torch.no_grad():
        rows = model.generate(
            input_ids=IDS,
            attention_mask=MASK,
            do_sample=False,
            suppress_tokens=CONTROLS,
            **settings,
        ).tolist()
    return [[*row[1:], 1][: [*row[1:], 1].index(1)] for row in rows]


@pytest.fixture
def lively(twins, small_config):
    """Return the twins of a seed, with weights that make answers vary and end."""

    def make(seed, **overrides):
        return twins(small_config(**overrides), seed, gain=3.0)

    return make


GREEDY_CASES = [
    {},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3, "repetition_penalty": 1.2},
    {"min_new_tokens": 9},
]


@pytest.mark.parametrize("settings", GREEDY_CASES)
def test_greedy_ids_are_those_of_transformers(lively, settings):
    for seed in SEEDS:
        # The choice of ids does not depend on the feed-forward, so the seeds share both forms.
        feed_forward_proj = FEED_FORWARDS[seed % 2]
        ours, theirs = lively(seed, feed_forward_proj=feed_forward_proj)
        answers = generate(ours, IDS, MASK, GenerationConfig(max_new_tokens=24, **settings))
        assert answers == their_answers(theirs, max_new_tokens=24, **settings)


BEAM_CASES = [
    {"num_beams": 3},
    {"num_beams": 3, "length_penalty": 2.0},
    {"num_beams": 3, "length_penalty": 0.0},
    {"num_beams": 3, "length_penalty": -1.5},
    {"num_beams": 2, "max_new_tokens": 1},
    {"num_beams": 4, "max_new_tokens": 3},
    {"num_beams": 3, "repetition_penalty": 1.5},
    {"num_beams": 3, "no_repeat_ngram_size": 2},
    {"num_beams": 3, "min_new_tokens": 7},
]


@pytest.mark.parametrize("settings", BEAM_CASES)
def test_beam_ids_are_those_of_transformers(lively, settings):
    settings = {"max_new_tokens": 20, **settings}
    for seed in SEEDS:
        ours, theirs = lively(seed)
        answers = generate(ours, IDS, MASK, GenerationConfig(**settings))
        assert answers == their_answers(theirs, **settings)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_cases_above_hold_early_ends_and_cut_answers(lively, num_beams):
    lengths = []
    for seed in SEEDS:
        config = GenerationConfig(max_new_tokens=20, num_beams=num_beams)
        lengths += [len(answer) for answer in generate(lively(seed)[0], IDS, MASK, config)]
    assert min(lengths) < 20
    assert max(lengths) == 20


@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 3}, {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}]
)
def test_a_batch_answers_like_its_rows_alone(lively, settings):
    model, _ = lively(1)
    config = GenerationConfig(max_new_tokens=20, **settings)
    alone = []
    for ids, mask in zip(IDS, MASK, strict=True):
        ids = ids[mask == 1][None]
        alone += generate(model, ids, torch.ones_like(ids), config)
    assert generate(model, IDS, MASK, config) == alone
    assert generate(model, IDS, MASK.bool(), config) == alone


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.9, "seed": 3, "top_p": 0.8}])
def test_streaming_gives_what_generating_gives(lively, settings):
    for seed in SEEDS:
        model, _ = lively(seed)
        config = GenerationConfig(max_new_tokens=20, **settings)
        row = IDS[:1]
        assert [list(stream(model, row, config))] == generate(model, row, MASK[:1], config)


def test_closing_a_stream_stops_the_work(lively):
    model, _ = lively(0)
    steps = []
    model.decoder.register_forward_hook(lambda *_: steps.append(1))
    model.train()
    tokens = stream(model, IDS[:1], GenerationConfig(max_new_tokens=50, min_new_tokens=50))
    assert steps == []
    next(tokens)
    next(tokens)
    assert len(steps) == 2
    assert not model.training
    tokens.close()
    assert model.training
    assert len(steps) == 2
    with pytest.raises(StopIteration):
        next(tokens)


def test_a_stream_leaves_autograd_to_its_reader(lively):
    model, _ = lively(0)
    for _ in stream(model, IDS[:1], GenerationConfig(max_new_tokens=3, min_new_tokens=3)):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_streaming_beams_is_refused_at_once(lively):
    model, _ = lively(0)
    with pytest.raises(ConfigError, match="num_beams=2: an answer can be streamed with"):
        stream(model, IDS[:1], GenerationConfig(num_beams=2))


def test_generation_is_in_eval_mode_and_puts_the_mode_back(lively):
    model, _ = lively(0, dropout_rate=0.5)
    config = GenerationConfig(max_new_tokens=10)
    expected = generate(model, IDS, MASK, config)
    model.train()
    assert generate(model, IDS, MASK, config) == expected
    assert model.training


def sampled(model, **settings):
    return generate(
        model, IDS, MASK, GenerationConfig(max_new_tokens=20, temperature=1.3, **settings)
    )


def test_a_seed_makes_sampling_reproducible(lively):
    model, _ = lively(0)
    assert sampled(model, seed=5) == sampled(model, seed=5)
    assert sampled(model, seed=5) != sampled(model, seed=6)
    assert sampled(model) != sampled(model)


def test_sampling_neither_reads_nor_moves_the_global_generator(lively):
    model, _ = lively(0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = sampled(model, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert sampled(model, seed=5) == first


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-6}])
def test_sampling_among_one_token_is_greedy(lively, settings):
    model, _ = lively(0)
    greedy = generate(model, IDS, MASK, GenerationConfig(max_new_tokens=20))
    assert sampled(model, **settings) == greedy


@pytest.mark.parametrize("settings", [{"temperature": 5.0, "seed": 0}, {"num_beams": 4}, {}])
def test_controls_are_never_generated(lively, settings):
    model, _ = lively(0)
    with torch.no_grad():
        # A table that loves its controls would choose them at every step if it could.
        model.embedding.weight[CONTROLS] *= 20
    config = GenerationConfig(max_new_tokens=60, min_new_tokens=60, **settings)
    answers = generate(model, IDS, MASK, config)
    assert [len(answer) for answer in answers] == [60] * 3
    assert not {0, 1, 2} & {token for answer in answers for token in answer}


@given(
    st.integers(0, 1000),
    st.floats(0.1, 3.0),
    st.integers(0, 12),
    st.one_of(st.just(1.0), st.floats(0.05, 0.99)),
)
def test_the_sampled_distribution_is_that_of_transformers(seed, temperature, top_k, top_p):
    scores = torch.randn(3, 10, generator=torch.Generator().manual_seed(seed))
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        warpers.append(TopPLogitsWarper(top_p))
    expected = warpers(torch.LongTensor(3, 0), torch.FloatTensor(scores)).softmax(-1)
    config = GenerationConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    ours = sampling_probabilities(scores, config)
    torch.testing.assert_close(ours / ours.sum(-1, keepdim=True), expected)


def test_an_empty_batch_has_no_answers(lively):
    model, _ = lively(0)
    assert generate(model, IDS[:0], MASK[:0], GenerationConfig()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0: expected 1 or more"),
        (
            {"min_new_tokens": 9, "max_new_tokens": 8},
            "min_new_tokens=9: expected 0 to max_new_tokens=8",
        ),
        ({"temperature": -0.1}, "temperature=-0.1: expected 0 (greedy) or more"),
        ({"temperature": float("nan")}, "temperature=nan: expected 0 (greedy) or more"),
        ({"top_k": -1}, "top_k=-1: expected 0 (all tokens) or more"),
        ({"top_p": 0.0}, "top_p=0.0: expected above 0, at most 1"),
        ({"top_p": 1.1}, "top_p=1.1: expected above 0, at most 1"),
        ({"num_beams": 0}, "num_beams=0: expected 1 or more"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0: expected above 0 (1 = none)"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size=-1: expected 0 (off) or more"),
        ({"seed": -1}, "seed=-1: expected none, or 0 to 2**63 - 1"),
        (
            {"num_beams": 2, "temperature": 0.7},
            "num_beams=2 with temperature=0.7: beam search does not sample; "
            "set temperature=0, or num_beams=1",
        ),
        (
            {"length_penalty": 2.0},
            "length_penalty=2.0 has no effect with num_beams=1; "
            "set num_beams above 1, or leave it at 1",
        ),
    ],
)
def test_settings_that_cannot_hold_are_refused(settings, message):
    with pytest.raises(ConfigError) as caught:
        GenerationConfig(**settings)
    assert str(caught.value) == message
