"""Muon for the matrices of the layers and AdamW for everything else, as one optimizer.

In: parameter groups of one tensor each, `muon` in the group telling which of the two it gets. Out:
steps. Every process that holds the same gradients takes the same step; nothing is communicated, so
it needs its matrices whole. Under FSDP2, which cuts them up, `chatlm.engines` gathers them; under
ZeRO DeepSpeed's own Muon takes its place.

Muon's step is the momentum with its singular values moved to 1: all directions in which a matrix
acts are learned at one speed, where the gradient alone follows the few strongest.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import torch
from torch import Tensor

# One call for many tensors; torch has no public names for them and its optimizers use these.
from torch import _foreach_lerp as lerp_all  # pyright: ignore[reportPrivateImportUsage]
from torch import _foreach_lerp_ as lerp_all_  # pyright: ignore[reportPrivateImportUsage]
from torch import _foreach_mul_ as mul_all_  # pyright: ignore[reportPrivateImportUsage]
from torch.optim.adamw import adamw

from chatlm.optim.newton_schulz import orthogonalize

Group = dict[str, Any]

EPSILON = 1e-8
LARGEST_STACK = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Entries of the matrices that are orthogonalised at a time: on a CPU what its caches hold."""


class Muon(torch.optim.Optimizer):
    """Steps of unit singular values for groups with `muon=True`, AdamW's for the others.

    Args:
        groups: of one tensor each, with `muon`, and with `lr` and `weight_decay` (decoupled, times
            the rate) if they are not 0.
        momentum: share of the old momentum that a step keeps (muon).
        betas: shares of the old moments that a step keeps (AdamW).
    """

    def __init__(
        self, groups: Iterable[Group], *, momentum: float, betas: tuple[float, float]
    ) -> None:
        self._momentum, self._betas = momentum, betas
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Moves all tensors that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        active = [group for group in self.param_groups if _tensor(group).grad is not None]
        for groups in _alike(active):
            if groups[0]["muon"]:
                self._muon_step(groups)
            else:
                self._adamw_step(groups)
        return loss

    def _muon_step(self, groups: list[Group]) -> None:
        """Takes Muon's step for matrices of one shape, or its transpose, and of one rate."""
        size = _tensor(groups[0]).numel()
        most = max(1, LARGEST_STACK[_tensor(groups[0]).device.type] // size)
        for start in range(0, len(groups), most):
            matrices = [_tensor(group) for group in groups[start : start + most]]
            gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
            momenta = [self._state(matrix, "momentum")["momentum"] for matrix in matrices]
            lerp_all_(momenta, gradients, 1 - self._momentum)
            # Nesterov: the momentum as it will be if the next gradient is like this one.
            ahead = lerp_all(gradients, momenta, self._momentum)
            rate, decay = groups[0]["lr"], groups[0]["weight_decay"]
            mul_all_(matrices, 1 - rate * decay)
            for matrix, update in zip(matrices, self._directions(ahead), strict=True):
                matrix.add_(update, alpha=-rate * step_scale(matrix))

    def _directions(self, ahead: Sequence[Tensor]) -> list[Tensor]:
        """Returns the steps for these momenta, before rate and scale; needs them whole."""
        return _orthogonalized(ahead)

    def _adamw_step(self, groups: list[Group]) -> None:
        tensors = [_tensor(group) for group in groups]
        states = [self._state(tensor, "exp_avg", "exp_avg_sq") for tensor in tensors]
        for tensor, state in zip(tensors, states, strict=True):
            if "step" not in state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=tensor.device)
        adamw(
            tensors,
            [tensor.grad for tensor in tensors if tensor.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=groups[0]["lr"],
            weight_decay=groups[0]["weight_decay"],
            eps=EPSILON,
            maximize=False,
        )

    def _state(self, tensor: Tensor, *moments: str) -> dict[str, Tensor]:
        """Returns the tensor's state, its moments made if this is its first step."""
        state = self.state[tensor]
        for moment in moments:
            if moment not in state:
                state[moment] = torch.zeros_like(tensor)
        return state


def step_scale(matrix: Tensor) -> float:
    """Returns what Muon's step is multiplied with, beside the rate: sqrt(max(1, rows / columns)).

    A matrix that maps `columns` numbers to more, with unit singular values, makes them smaller on
    average; the factor keeps the change of what comes out, for input of one size, the same for all
    shapes, so that a rate that is right for a small model is right for a large one.

    Source: the rule of Jordan et al.; its reason is in Yang et al. 2023, A Spectral Condition for
    Feature Learning, https://arxiv.org/abs/2310.17813, equation 3. The alternative,
    0.2 sqrt(max(rows, columns)) of Liu et al. 2025, https://arxiv.org/abs/2502.16982, matches the
    root mean square of AdamW's steps instead, and so wants other rates for other widths.
    """
    rows, columns = matrix.shape
    return math.sqrt(max(1.0, rows / columns))


def _orthogonalized(updates: Sequence[Tensor]) -> list[Tensor]:
    """Returns the nearest orthogonal matrix of each, computed with the smaller side as rows."""
    dtype = torch.bfloat16 if updates[0].is_cuda else torch.float32
    wide = torch.stack([one.mT if _is_tall(one) else one for one in updates]).to(dtype)
    found = orthogonalize(wide).to(updates[0].dtype)
    return [one.mT if _is_tall(update) else one for one, update in zip(found, updates, strict=True)]


def _is_tall(matrix: Tensor) -> bool:
    return matrix.shape[0] > matrix.shape[1]


def _tensor(group: Group) -> Tensor:
    (tensor,) = group["params"]
    return tensor


def _alike(groups: Iterable[Group]) -> list[list[Group]]:
    """Returns the groups put together that one call can step."""
    found: dict[tuple[Any, ...], list[Group]] = {}
    for group in groups:
        tensor = _tensor(group)
        shape = tuple(sorted(tensor.shape)) if group["muon"] else ()
        key = (group["muon"], shape, group["lr"], group["weight_decay"], tensor.device)
        found.setdefault(key, []).append(group)
    return list(found.values())
