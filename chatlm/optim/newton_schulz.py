"""The nearest matrix with orthonormal rows, by products of matrices alone.

In: a stack of matrices of one shape. Out: for each, about U V^T of its singular value
decomposition U S V^T. The method applies odd polynomials of degree 5, one after the other, to all
singular values at once; what distance to 1 they leave is stated beside them.
"""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

Quintic = tuple[float, float, float]
"""(a, b, c) of a x + b x^3 + c x^5."""

# Five times the same polynomial. It is steep at 0, grows what is small 485-fold, and leaves
# everything from 0.002 of the Frobenius norm on between 0.68 and 1.20: to be near 1 is enough.
# DeepSpeed's Muon has the same, so training under ZeRO gives the same losses.
# Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
STEPS: tuple[Quintic, ...] = ((3.4445, -4.7750, 2.0315),) * 5

SMALLEST_BLOCK = 64
"""Rows below which a block's product is too small to be worth a call."""


def orthogonalize(
    matrices: Float[Tensor, "N R C"], steps: tuple[Quintic, ...] = STEPS
) -> Float[Tensor, "N R C"]:
    """Returns the stack with the singular values of each matrix moved to about 1.

    The cost of a step is 4 R^2 C + 2 R^3 operations, so R should be the smaller side. A matrix of
    zeros stays one.
    """
    size = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True, dtype=torch.float32)
    states = matrices / size.clamp_min(1e-30).to(matrices.dtype)
    for a, b, c in steps:
        gram = times_transpose(states)
        factor = times_transpose(gram).mul_(c).add_(gram, alpha=b)
        states = torch.baddbmm(states, factor, states, beta=a)
    return states


def times_transpose(matrices: Float[Tensor, "N R C"]) -> Float[Tensor, "N R R"]:
    """Returns X X^T of each matrix X.

    On a CPU only the blocks on and below the diagonal are computed and then mirrored, which saves
    up to 3/8 of the work. A GPU is done sooner with one product.
    """
    rows = matrices.shape[1]
    num_blocks = 1 if matrices.is_cuda else min(4, rows // SMALLEST_BLOCK)
    if num_blocks <= 1:
        return torch.bmm(matrices, matrices.mT)
    product = matrices.new_empty(len(matrices), rows, rows)
    bounds = [rows * block // num_blocks for block in range(num_blocks + 1)]
    for start, stop in itertools.pairwise(bounds):
        block = torch.bmm(matrices[:, start:stop], matrices[:, :stop].mT)
        product[:, start:stop, :stop] = block
        product[:, :start, start:stop] = block[:, :, :start].mT
    return product
