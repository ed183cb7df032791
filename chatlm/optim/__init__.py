"""Optimizers and their learning rates."""

from chatlm.optim.groups import (
    freeze,
    make_optimizer,
    set_rates,
    tensor_scales,
)
from chatlm.optim.schedule import rate_share

__all__ = [
    "freeze",
    "make_optimizer",
    "rate_share",
    "set_rates",
    "tensor_scales",
]
