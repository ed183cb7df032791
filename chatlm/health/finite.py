"""Tensors that hold a value which is not finite.

In: named tensors. Out: the names of those that hold NaN or an infinity. It reads every value once
and changes none; before a checkpoint is written that is a small part of what writing costs.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from chatlm.errors import SickRunError

NAMED = 3
"""Tensors that a message names."""


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Returns the names of the tensors that hold NaN or an infinity, in their order."""
    return [name for name, tensor in tensors.items() if not _is_finite(tensor)]


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # Both are NaN if any value is, and nothing of the tensor's size is made.
    smallest, largest = torch.aminmax(tensor)
    return bool(torch.isfinite(smallest) & torch.isfinite(largest))


def check(step: int, *groups: Mapping[str, Tensor]) -> None:
    """Refuses weights and moments that must not get into a checkpoint.

    Args:
        step: steps done, for the message.
        groups: what the checkpoint is going to hold.

    Raises:
        SickRunError: some are not finite.
    """
    wrong = [name for group in groups for name in not_finite(group)]
    if wrong:
        named = ", ".join(wrong[:NAMED]) + (", ..." if len(wrong) > NAMED else "")
        raise SickRunError(
            f"after step {step} {len(wrong)} tensors hold values that are not finite ({named}) and "
            "were not saved: go on from the newest checkpoint with resume=True and a lower "
            "learning_rate"
        )
