"""A flat batch of any model is computed as its rows would be alone, whatever the padding is."""

import random

import pytest
import torch

from chatlm.adapters.base import Hold, open_base
from chatlm.adapters.forms import open_form
from chatlm.adapters.language_model import LEAST_SHARE, LEAST_TOKENS, LanguageModel, alike, flat
from chatlm.model.trainee import IGNORE_INDEX
from tests.adapters import small

CPU = torch.device("cpu")
KINDS = ("causal", "seq2seq", "llama", "chatglm")
LENGTHS = [
    (3, 4),
    (90, 20),
    (1, 1),
    (40, 2),
    (2, 60),
    (7, 7),
    (80, 40),
    (80, 39),
    (1, 30),
    (5, 100),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_tokenizer):
    return small.bases(tmp_path_factory.mktemp("bases"), make_tokenizer(), KINDS)


@pytest.fixture(scope="module")
def pairs(folders):
    """Return a function that makes pairs of very different lengths for a model."""

    def make(kind):
        draw = random.Random(5)
        tail = []
        if kind == "chatglm":
            tokenizer = open_form(str(folders[kind])).tokenizer
            tail = [tokenizer.gmask_token_id, tokenizer.bos_token_id]
        rows = [
            ([draw.randrange(10, 80) for _ in range(source)] + tail, target)
            for source, target in LENGTHS
        ]
        return [(s, [draw.randrange(10, 80) for _ in range(n)]) for s, n in rows]

    return make


def model_of(folders, kind, pad_id=3):
    return LanguageModel(open_base(str(folders[kind]), Hold(CPU)), pad_id=pad_id)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_of_a_batch_is_the_sum_of_its_rows(folders, pairs, kind):
    model, rows = model_of(folders, kind), pairs(kind)
    lengths = [len(source) + len(target) for source, target in rows]
    groups = alike(lengths)
    assert len(groups) > 1
    assert any(len({lengths[row] for row in group}) > 1 for group in groups)
    with torch.no_grad():
        found = model(*flat(rows, CPU))
        alone = [model(*flat([row], CPU)) for row in rows]
    expected = sum(one.loss_sum.double() for one in alone)
    torch.testing.assert_close(found.loss_sum.double(), expected, rtol=1e-5, atol=0)
    assert found.num_tokens == sum(len(target) for _, target in rows)
    losses = torch.stack([one.loss_sum / one.num_tokens for one in alone])
    assert losses.std() > 0.01  # rows that were mixed up would be seen


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_batch_are_those_of_its_rows(folders, pairs, kind):
    rows = pairs(kind)
    found, alone = [], []
    for batches, grads in (([rows], found), ([[row] for row in rows], alone)):
        model = model_of(folders, kind).requires_grad_(True)
        for batch in batches:
            model(*flat(batch, CPU)).loss_sum.backward()
        grads += [parameter.grad for parameter in model.parameters()]
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_in_the_padding_changes_nothing(folders, pairs, kind):
    # An encoder-decoder model starts its targets with another id, which is not the padding.
    rows = pairs(kind)
    with torch.no_grad():
        losses = []
        # 86 and 89 are [gMASK] and <sop> of the small ChatGLM.
        for pad_id in (3, 86, 89):
            model = model_of(folders, kind, pad_id)
            model.start_id = 3
            losses.append(model(*flat(rows, CPU)).loss_sum)
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_are_ignored_are_not_scored(folders, pairs, kind):
    model, rows = model_of(folders, kind), pairs(kind)
    sources, labels, *offsets = flat(rows, CPU)
    end = len(rows[0][1])
    with torch.no_grad():
        whole = model(sources, labels, *offsets)
        first = model(*flat(rows[:1], CPU))
        labels[:end] = IGNORE_INDEX
        rest = model(sources, labels, *offsets)
    assert rest.num_tokens == whole.num_tokens - end
    torch.testing.assert_close(rest.loss_sum, whole.loss_sum - first.loss_sum, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_groups_hold_every_row_once_and_little_padding(seed):
    draw = random.Random(seed)
    longest = draw.choice((40, 400, 4000))
    lengths = [draw.randint(1, longest) for _ in range(draw.randint(1, 300))]
    groups = alike(lengths)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        width = lengths[group[0]]
        assert width == max(lengths[row] for row in group)
        # Only the rows that fill a group up to LEAST_TOKENS may be shorter than the share.
        short = [row for row in group if lengths[row] < LEAST_SHARE * width]
        place = group.index(short[0]) if short else len(group)
        assert all(width * (place + n) < LEAST_TOKENS for n in range(len(short)))


def test_uniform_lengths_waste_less_than_a_fifth():
    draw = random.Random(1)
    lengths = [draw.randint(20, 200) for _ in range(256)]
    padded = sum(lengths[group[0]] * len(group) for group in alike(lengths))
    assert padded < sum(lengths) / LEAST_SHARE
    assert padded < 0.65 * max(lengths) * len(lengths) * 1.2
    assert alike([5]) == [[0]]
    assert alike([7] * 9) == [list(range(9))]
