"""The distance to the base beside the loss of a training: its value, its gradient, its price."""

import pytest
import torch
import torch.nn.functional as F

from chatlm.adapters import language_model
from chatlm.adapters.base import Hold, open_base
from chatlm.adapters.language_model import IGNORE_INDEX, LanguageModel, divergence, flat
from tests.adapters.small import tuned
from tests.adapters.tunings import DEVICE, PAIRS

KINDS = ("causal", "seq2seq")


def gradients(model, *batch):
    model.zero_grad()
    model(*batch).objective.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert all("lora_" in name for name in found)
    assert found
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_beginning_the_distance_is_nothing_to_the_bit(bases, kind):
    batch = flat(PAIRS, DEVICE)
    without, model = (tuned(bases[kind], kl=kl, moved=False) for kl in (0.0, 3.0))
    assert torch.equal(without(*batch).loss_sum, model(*batch).objective)
    assert model(*batch).sums[1] == 0
    with model.as_base():
        base = model.logits(*batch)
    assert not divergence(base, model.logits(*batch)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_while_it_is_its_base_it_has_the_same_to_save(bases, kind):
    model = tuned(bases[kind], kl=1.0)
    names = [name for name, _ in model.saved()]
    assert names
    with model.as_base():
        assert [name for name, _ in model.saved()] == names


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_librarys_kl_over_the_targets_and_only_while_training(bases, kind):
    batch = flat(PAIRS, DEVICE)
    without, with_it = (tuned(bases[kind], kl=kl) for kl in (0.0, 0.5))
    found, plainly = with_it(*batch), without(*batch)
    assert plainly.kl_sum is None
    assert torch.equal(plainly.objective, plainly.loss_sum)
    assert torch.equal(found.loss_sum, plainly.loss_sum), "the loss stays comparable"
    of_tuned = with_it.logits(*batch).log_softmax(-1)
    plain = LanguageModel(open_base(str(bases[kind]), Hold(DEVICE)), pad_id=0)
    of_base = plain.logits(*batch).log_softmax(-1)
    expected = F.kl_div(of_tuned, of_base, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(found.kl_sum, expected.sum(), rtol=1e-4, atol=1e-4)
    assert found.kl_sum > 0.2
    assert torch.equal(found.objective, found.loss_sum + 0.5 * found.kl_sum)
    assert torch.equal(found.sums, torch.stack([found.loss_sum, found.kl_sum]))
    # What is not learnt is not held fast either.
    ids, labels, *offsets = batch
    ignored = labels.clone()
    ignored[2:] = IGNORE_INDEX
    added = with_it(ids, ignored, *offsets).kl_sum
    assert 0 < added < expected.sum()
    assert with_it.eval()(*batch).kl_sum is None
    assert torch.equal(with_it(*batch).objective, without.eval()(*batch).loss_sum)


@pytest.mark.parametrize("kind", KINDS)
def test_its_gradient_is_that_of_the_plain_formula_in_any_chunks(bases, kind, monkeypatch):
    batch = flat(PAIRS, DEVICE)
    model = tuned(bases[kind], kl=0.5)
    with model.as_base():
        base = model.logits(*batch)
    assert not base.requires_grad
    model.zero_grad()
    logits = model.logits(*batch)
    plain = F.cross_entropy(logits, batch[1], reduction="sum") + 0.5 * F.kl_div(
        logits.log_softmax(-1), base.log_softmax(-1), reduction="sum", log_target=True
    )
    plain.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    for at_once in (language_model.LOGITS_AT_ONCE, 2 * model.vocab_size, 1):
        monkeypatch.setattr(language_model, "LOGITS_AT_ONCE", at_once)
        found = gradients(model, *batch)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4)
    anew = tuned(bases[kind], kl=0.5, checkpointing=True)
    for name, gradient in gradients(anew, *batch).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4)


def test_the_base_is_heard_without_dropout_and_draws_no_random_number(bases):
    batch = flat(PAIRS, DEVICE)
    model = tuned(bases["causal"], kl=1.0, base_dropout=0.5)
    assert not torch.equal(model.logits(*batch), model.logits(*batch))
    state = torch.get_rng_state()
    with model.as_base():
        base = model.logits(*batch)
    assert torch.equal(torch.get_rng_state(), state)
    plain = LanguageModel(open_base(str(bases["causal"]), Hold(DEVICE)), pad_id=0)
    assert torch.equal(base, plain.logits(*batch))
    assert model.training
    torch.manual_seed(5)
    first = model.logits(*batch)
    torch.manual_seed(5)
    with model.as_base():
        model.logits(*batch)
    assert torch.equal(model.logits(*batch), first)
