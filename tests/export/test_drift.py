"""What an export changes is measured, and stops it where it is too much."""

import pytest
import torch

from chatlm.errors import ConfigError
from chatlm.export.drift import Drift, Least, compare, least_of, reference, require
from chatlm.generate import generate
from chatlm.generation_config import GenerationConfig
from chatlm.inference.ct2_files import QUANTIZATIONS

SOURCES = [[5, 9, 30, 1], [40, 41, 1], [7, 1], [12, 13, 14, 15, 16, 1]]


@pytest.fixture
def model(twins, small_config):
    return twins(small_config(), gain=4.0)[0]


def test_the_reference_is_what_each_question_gets_alone(model):
    config = GenerationConfig(max_new_tokens=9)
    alone = []
    for source in SOURCES:
        ids = torch.tensor([source])
        alone += generate(model, ids, torch.ones_like(ids), config)
    assert reference(model, SOURCES, 9) == alone


def test_equal_answers_do_not_drift(model):
    answers = reference(model, SOURCES, 9)
    found = compare(model, SOURCES, answers, answers, 9)
    assert (found.identical, found.agreeing, found.differences) == (1.0, 1.0, [])
    assert found.figures()["largest_gap"] is None


def test_what_comes_before_the_first_difference_counts(model):
    answers = [ids[:5] for ids in reference(model, SOURCES, 6)]
    other = [list(ids) for ids in answers]
    other[1][3] = answers[1][3] % 50 + 3
    other[2] = other[2][:2]  # ends early
    num_tokens = sum(len(ids) + (len(ids) < 5) for ids in answers)
    found = compare(model, SOURCES, answers, other, 5)
    assert found.num_answers == 4
    assert found.num_tokens == num_tokens
    assert [(one.row, one.place) for one in found.differences] == [(1, 3), (2, 2)]
    lost = sum(len(answers[row]) + (len(answers[row]) < 5) for row in (1, 2)) - 3 - 2
    assert found.num_agreeing == num_tokens - lost
    assert found.identical == 0.5


def test_the_gap_is_that_of_the_two_logits(model):
    answers = reference(model, SOURCES[:1], 5)
    other = [[*answers[0][:2], answers[0][2] % 50 + 3, *answers[0][3:]]]
    found = compare(model, SOURCES[:1], answers, other, 5)
    ids = torch.tensor(SOURCES[:1])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        hidden = model.decode(torch.tensor([[0, *answers[0][:2]]]), model.encode(ids, mask), mask)
        logits = model.logits(hidden[0, -1])
    gap = float(logits[answers[0][2]] - logits[other[0][2]])
    assert gap > 0
    assert found.differences[0].gap == pytest.approx(gap)
    assert not found.differences[0].is_near_tie


def test_too_much_is_refused_with_the_figures():
    found = Drift(num_answers=2, num_tokens=10, num_agreeing=9)
    require(found, Least(1.0, 0.9), "int8")
    with pytest.raises(ConfigError, match=r"quantization=int8 .* 90\.0% of tokens .*least 95\.0%"):
        require(found, Least(1.0, 0.95), "int8")


def test_every_quantization_has_its_shares():
    for name in QUANTIZATIONS:
        assert 0 < least_of(name).identical <= least_of(name).agreeing <= 1
    assert least_of("int8_float16") == least_of("int8")
