"""Singular values end near 1 and singular vectors stay."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatlm.optim.newton_schulz import STEPS, orthogonalize, times_transpose


def matrix_of(values, columns):
    """Returns a matrix with the singular values, and its U V^T."""
    u, _ = torch.linalg.qr(torch.randn(len(values), len(values)))
    v, _ = torch.linalg.qr(torch.randn(columns, len(values)))
    return (u * values) @ v.T, u @ v.T


@pytest.mark.parametrize("columns", [24, 60])
def test_the_result_has_the_singular_vectors_and_the_stated_values(columns):
    torch.manual_seed(0)
    values = torch.logspace(0, -2, 24)
    stack, exact = zip(*(matrix_of(scale * values, columns) for scale in (1e-6, 7.0)), strict=True)
    found = orthogonalize(torch.stack(stack))
    for one, nearest in zip(found, exact, strict=True):
        singular = torch.linalg.svdvals(one)
        assert 0.67 < singular.min() <= singular.max() < 1.22
        # One and the same polynomial of the values: the vectors did not turn.
        product = one @ nearest.T
        assert torch.allclose(product, product.T, atol=1e-4)


def test_many_steps_give_the_polar_factor():
    torch.manual_seed(0)
    matrix, exact = matrix_of(torch.linspace(0.5, 1, 12), 20)
    halving = ((15 / 8, -10 / 8, 3 / 8),) * 8
    torch.testing.assert_close(
        orthogonalize(matrix[None], STEPS + halving)[0], exact, rtol=0, atol=1e-5
    )


def test_the_polynomials_leave_and_grow_what_is_stated():
    def through(values):
        for a, b, c in STEPS:
            values = a * values + b * values**3 + c * values**5
        return values

    left = through(torch.logspace(math.log10(0.002), 0, 100_001, dtype=torch.float64))
    assert (left.min().item(), left.max().item()) == pytest.approx((0.68, 1.20), abs=0.005)
    tiny = torch.tensor([1e-9], dtype=torch.float64)
    assert (through(tiny) / tiny).item() == pytest.approx(485, abs=0.5)


def test_bfloat16_of_a_matrix_of_one_direction_stays_finite_and_near():
    torch.manual_seed(0)
    matrix = torch.outer(torch.randn(96), torch.randn(200)).to(torch.bfloat16)
    singular = torch.linalg.svdvals(orthogonalize(matrix[None])[0].float())
    assert 0.67 < singular[0] < 1.22
    assert singular[1:].max() < 1.22


def test_zeros_stay_zeros():
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 5)), torch.zeros(2, 3, 5))


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 3))
def test_products_by_blocks_are_the_product(rows, columns, number):
    torch.manual_seed(0)
    stack = torch.randn(number, rows, columns)
    found = times_transpose(stack)
    torch.testing.assert_close(found, stack @ stack.mT, rtol=1e-5, atol=1e-4)
