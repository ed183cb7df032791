"""Muon's step: what it does to one matrix, and that neither stacking nor saving changes it."""

import copy
import math

import pytest
import torch

from chatlm.optim.muon import Muon, step_scale

RATE = 0.02


def muon(tensors, *, is_muon=True, weight_decay=0.0):
    groups = [
        {"params": [one], "muon": is_muon, "lr": RATE, "weight_decay": weight_decay}
        for one in tensors
    ]
    return Muon(groups, momentum=0.95, betas=(0.9, 0.98))


def parameters(*shapes, seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(*shape)) for shape in shapes]


def give_gradients(tensors, seed):
    torch.manual_seed(seed)
    for one in tensors:
        one.grad = torch.randn_like(one)


def moved(shape, **changes):
    (weight,) = parameters(shape)
    before = weight.detach().clone()
    give_gradients([weight], seed=1)
    muon([weight], **changes).step()
    return before, weight.detach(), weight.grad


@pytest.mark.parametrize("shape", [(16, 16), (16, 40), (40, 16)])
def test_the_first_step_goes_against_the_gradient_equally_far_in_all_directions(shape):
    before, after, gradient = moved(shape)
    step = (before - after) / RATE / math.sqrt(max(1, shape[0] / shape[1]))
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    along = u.T @ step @ v.T
    assert torch.allclose(along, along.diag().diag(), atol=1e-4)
    assert ((along.diag() > 0.67) & (along.diag() < 1.22)).all()


def test_the_size_of_the_gradient_does_not_matter():
    first, second = parameters((8, 12), (8, 12))
    second.data.copy_(first.data)
    first.grad = torch.randn(8, 12)
    second.grad = 1000 * first.grad
    for weight in (first, second):
        muon([weight]).step()
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


def test_a_step_changes_outputs_equally_whatever_the_shape():
    """The purpose of the scale: random input of root mean square 1 gives a change of 1 x rate."""
    for shape in ((64, 64), (64, 256), (256, 64)):
        torch.manual_seed(0)
        update, _ = torch.linalg.qr(torch.randn(max(shape), min(shape)))
        update = update if shape[0] > shape[1] else update.T
        change = step_scale(update) * update @ torch.randn(shape[1], 1000)
        assert change.square().mean().sqrt().item() == pytest.approx(1.0, rel=0.02)


def test_weight_decay_shrinks_by_rate_times_decay():
    before, plain, _ = moved((8, 12))
    _, decayed, _ = moved((8, 12), weight_decay=0.5)
    torch.testing.assert_close(plain - decayed, RATE * 0.5 * before, rtol=1e-4, atol=1e-6)


def test_momentum_carries_the_last_gradient_on():
    weights = parameters((8, 12), (8, 12))
    weights[1].data.copy_(weights[0].data)
    optimizers = [muon([weight]) for weight in weights]
    for seed, weight in enumerate(weights):
        give_gradients([weight], seed)
        optimizers[seed].step()
    for weight in weights:
        give_gradients([weight], seed=9)
    before = [weight.detach().clone() for weight in weights]
    for optimizer in optimizers:
        optimizer.step()
    steps = [weight - old for weight, old in zip(weights, before, strict=True)]
    assert not torch.allclose(steps[0], steps[1], atol=1e-3)


def test_stacked_and_alone_are_the_same():
    shapes = [(12, 20), (20, 12), (12, 12), (12, 20), (12, 12)]
    together, alone = parameters(*shapes), parameters(*shapes)
    optimizers = [muon(together), *(muon([one]) for one in alone)]
    for seed in range(3):
        give_gradients(together, seed)
        give_gradients(alone, seed)
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_others_get_torchs_adamw_to_the_bit():
    ours, theirs = parameters((5, 4), (7,)), parameters((5, 4), (7,))
    optimizers = (
        muon(ours, is_muon=False, weight_decay=0.1),
        torch.optim.AdamW(theirs, lr=RATE, betas=(0.9, 0.98), weight_decay=0.1, fused=True),
    )
    for seed in range(3):
        give_gradients(ours, seed)
        give_gradients(theirs, seed)
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


def test_a_saved_state_goes_on_to_the_bit():
    first = [*parameters((12, 20), (12, 12)), *parameters((7,), (6, 3))]
    optimizer = mixed(first)
    advance(first, optimizer, seeds=(1, 2))
    second = [torch.nn.Parameter(one.detach().clone()) for one in first]
    resumed = mixed(second)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    advance(first, optimizer, seeds=(3, 4))
    advance(second, resumed, seeds=(3, 4))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def mixed(tensors):
    groups = [{"params": [one], "muon": index < 2, "lr": RATE} for index, one in enumerate(tensors)]
    return Muon(groups, momentum=0.95, betas=(0.9, 0.98))


def advance(tensors, optimizer, seeds):
    for seed in seeds:
        give_gradients(tensors, seed)
        optimizer.step()


def test_a_tensor_without_gradient_stays():
    weights = parameters((4, 4), (4, 4))
    give_gradients(weights[:1], seed=0)
    before = weights[1].detach().clone()
    muon(weights).step()
    assert torch.equal(weights[1], before)


def test_a_closure_is_called_with_gradients_and_its_loss_returned():
    (weight,) = parameters((4, 4))
    before = weight.detach().clone()

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    loss = muon([weight]).step(closure)
    assert loss == pytest.approx(before.square().sum().item())
    assert weight.square().sum() < before.square().sum()
