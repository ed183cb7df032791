"""Optimizers and their learning rates."""

from chatlm.optim.groups import (
    freeze,
    make_optimizer,
    require_whole_matrices,
    set_rates,
    tensor_scales,
)
from chatlm.optim.schedule import rate_share

__all__ = [
    "freeze",
    "make_optimizer",
    "rate_share",
    "require_whole_matrices",
    "set_rates",
    "tensor_scales",
]
