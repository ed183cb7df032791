"""The fused head and cross-entropy: the dense computation, without its memory."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm.model.loss import CHUNK_ROWS, _loss_and_gradients, cross_entropy_sum


def sample(rows, vocabulary, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator, requires_grad=True)
    labels = torch.randint(vocabulary, (rows,), generator=generator)
    return hidden, weight, labels


def dense(hidden, weight, labels):
    return F.cross_entropy(hidden @ weight.t(), labels, reduction="sum")


def assert_near(ours, theirs, tolerance=1e-5):
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@settings(max_examples=25)
@given(
    st.sampled_from([1, 2, 100, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS + 7]),
    st.integers(2, 30),
    st.integers(1, 12),
    st.integers(0, 100),
)
def test_fused_is_dense_with_its_gradients(rows, vocabulary, width, seed):
    hidden, weight, labels = sample(rows, vocabulary, width, seed)
    expected = dense(hidden, weight, labels)
    expected_gradients = torch.autograd.grad(expected, (hidden, weight))
    loss = cross_entropy_sum(hidden, weight, labels)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert_near(loss, expected)
    # A confident row has a gradient far below the terms it is the difference of.
    rounding = 2e-7 * max(hidden.abs().max().item(), weight.abs().max().item())
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max() + rounding


def test_the_gradient_scales_with_what_follows():
    hidden, weight, labels = sample(50, 7, 4)
    plain = torch.autograd.grad(cross_entropy_sum(hidden, weight, labels), (hidden, weight))
    loss = cross_entropy_sum(hidden, weight, labels)
    scaled = torch.autograd.grad(loss / 50 * 3, (hidden, weight), retain_graph=True)
    again = torch.autograd.grad(loss / 50 * 3, (hidden, weight))
    for one, other, third in zip(plain, scaled, again, strict=True):
        assert_near(other, one * 3 / 50)
        assert torch.equal(other, third)


@pytest.mark.parametrize(("hidden_moves", "weight_moves"), [(True, False), (False, True)])
def test_only_what_moves_gets_a_gradient(hidden_moves, weight_moves):
    hidden, weight, labels = sample(9, 7, 4)
    hidden, weight = hidden.detach(), weight.detach()
    hidden.requires_grad_(hidden_moves)
    weight.requires_grad_(weight_moves)
    cross_entropy_sum(hidden, weight, labels).backward()
    assert (hidden.grad is not None) == hidden_moves
    assert (weight.grad is not None) == weight_moves
    their_hidden, their_weight = (t.detach().requires_grad_(True) for t in (hidden, weight))
    dense(their_hidden, their_weight, labels).backward()
    for ours, theirs in ((hidden, their_hidden), (weight, their_weight)):
        if ours.grad is not None:
            assert_near(ours.grad, theirs.grad)


def test_without_autograd_there_is_only_the_loss():
    hidden, weight, labels = sample(9, 7, 4)
    with torch.no_grad():
        loss = cross_entropy_sum(hidden, weight, labels)
    assert loss.grad_fn is None
    assert_near(loss, dense(hidden, weight, labels))
    assert _loss_and_gradients(hidden, weight, labels, -100, torch.float32, (False, False))[1:] == (
        None,
        None,
    )


def test_no_labels_no_loss_and_zero_gradients():
    hidden, weight, labels = sample(0, 7, 4)
    loss = cross_entropy_sum(hidden, weight, labels)
    loss.backward()
    assert loss.item() == 0.0
    assert weight.grad is not None
    assert not weight.grad.any()


def test_ignored_labels_are_as_if_they_were_not_there():
    hidden, weight, labels = sample(40, 7, 4)
    kept = torch.arange(40) % 3 > 0
    expected = dense(hidden[kept], weight, labels[kept])
    expected_gradients = torch.autograd.grad(expected, (hidden, weight))
    loss = cross_entropy_sum(hidden, weight, labels.masked_fill(~kept, -100))
    assert_near(loss, expected)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert_near(ours, theirs)


def test_autocast_multiplies_in_half_and_sums_in_single_precision():
    hidden, weight, labels = sample(3000, 40, 16)
    expected = torch.autograd.grad(dense(hidden, weight, labels), (hidden, weight))
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy_sum(hidden, weight, labels)
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert loss.dtype == torch.float32
    assert_near(loss, dense(hidden, weight, labels), 1e-2)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert ours.dtype == torch.float32
        assert_near(ours, theirs, 2e-2)


def test_huge_scores_stay_finite():
    hidden, weight, labels = sample(5, 7, 4)
    loss = cross_entropy_sum(hidden * 1e4, weight, labels)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (hidden, weight)))
