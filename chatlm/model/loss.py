"""The head and the cross-entropy in one step, without the table of logits.

In: hidden states of the real target tokens, the tied table, the labels. Out: the summed loss in
nats. Logits exist for `CHUNK_ROWS` tokens at a time; the gradients are made from them on the spot,
so nothing of size N x V outlives its chunk.
"""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import FunctionCtx

CHUNK_ROWS = 2048
"""Tokens whose logits exist at a time: CPU matrix libraries repack the table at each chunk, so
smaller ones are slower there, and 2048 x 29298 logits in fp32 are 240 MB."""

ALIGNED_FLOATS = 16
"""Floats in a cache line."""

CACHED_ROWS = 16
"""Rows of logits that a CPU turns into gradients at a time: few enough to stay in its cache."""


def compute_dtype(device: torch.device, default: torch.dtype) -> torch.dtype:
    """Return the dtype in which matrices are multiplied now: autocast's, else `default`."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return default


def cross_entropy_sum(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    labels: Int[Tensor, " N"],
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """Return the sum over N of -log softmax(hidden weight^T)[label], in nats, fp32.

    A label of `ignore_index` adds nothing and gets a gradient of 0.
    Gradients are computed only for those of `hidden` and `weight` that need them, and not at all
    when autograd is off. Under autocast the products are in its dtype, the softmax in fp32.
    """
    grad = torch.is_grad_enabled()
    wants = (grad and hidden.requires_grad, grad and weight.requires_grad)
    dtype = compute_dtype(hidden.device, hidden.dtype)
    if any(wants):
        return _FusedCrossEntropy.apply(hidden, weight, labels, ignore_index, dtype, wants)  # pyright: ignore[reportReturnType]
    return _loss_and_gradients(hidden, weight, labels, ignore_index, dtype, wants)[0]


class _FusedCrossEntropy(torch.autograd.Function):
    """Autograd's view of `_loss_and_gradients`: forward makes them, backward scales them."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        ignore_index: int,
        dtype: torch.dtype,
        wants: tuple[bool, bool],
    ) -> Tensor:
        loss, *gradients = _loss_and_gradients(hidden, weight, labels, ignore_index, dtype, wants)
        ctx.save_for_backward(*gradients)  # pyright: ignore[reportArgumentType]  None is allowed
        return loss

    @staticmethod
    def backward(ctx: FunctionCtx, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        scale = upstream[0]
        return (
            None if d_hidden is None else d_hidden * scale.to(d_hidden.dtype),
            None if d_weight is None else d_weight * scale.to(d_weight.dtype),
            None,
            None,
            None,
            None,
        )


def _loss_and_gradients(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    ignore_index: int,
    dtype: torch.dtype,
    wants: tuple[bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the summed loss and its gradients with respect to `hidden` and `weight`."""
    d_hidden = torch.empty_like(hidden) if wants[0] else None
    d_weight = torch.zeros_like(weight, dtype=torch.float32) if wants[1] else None
    loss = hidden.new_zeros((), dtype=torch.float32)
    is_on_cpu = hidden.device.type == "cpu"
    block_rows = CACHED_ROWS if is_on_cpu else CHUNK_ROWS
    to_gradient = _to_gradient if is_on_cpu or torch.compiler.is_compiling() else _compiled()
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        table = weight.to(dtype)
        for start in range(0, len(labels), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            states, target = hidden[rows].to(dtype), labels[rows, None]
            logits = _logits(states, table)
            for block, own in zip(logits.split(block_rows), target.split(block_rows), strict=True):
                loss += to_gradient(block, own, ignore_index)
            d_logits = logits.to(dtype)
            if d_hidden is not None:
                d_hidden[rows] = d_logits @ table
            if d_weight is not None:
                _accumulate(d_weight, d_logits, states)
    return loss, d_hidden, None if d_weight is None else d_weight.to(weight.dtype)


def _logits(states: Tensor, table: Tensor) -> Tensor:
    """Return states table^T in fp32, its rows aligned: unaligned ones cost a CPU a third more."""
    is_plain = states.device.type == "cpu" and states.dtype == torch.float32
    if not is_plain or torch.compiler.is_compiling():
        return (states @ table.t()).float()
    width = -(-len(table) // ALIGNED_FLOATS) * ALIGNED_FLOATS
    logits = _workspace(len(states) * width).view(len(states), width)[:, : len(table)]
    return torch.mm(states, table.t(), out=logits)


_kept = torch.empty(0)


def _workspace(size: int) -> Tensor:
    """Return fp32 memory of the CPU that is used again by the next call.

    Fresh memory would have to be zeroed by the system first, which takes half as long as the
    product that fills it.
    """
    global _kept
    if len(_kept) < size:
        _kept = torch.empty(size)
    return _kept[:size]


@functools.cache
def _compiled() -> Callable[[Tensor, Tensor, int], Tensor]:
    """Return `_to_gradient` as one kernel: a GPU would read and write the logits seven times.

    The last rows of a batch are now more, now fewer: their number stays open from the second on.
    """
    return torch.compile(_to_gradient)


def _to_gradient(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Return the summed loss of some rows, and turn their logits into its gradient, in place.

    d loss / d logits = softmax - one-hot. A second array of this size would cost more time in page
    faults than the arithmetic does.
    """
    keep = target != ignore_index
    target = target.clamp(min=0)
    picked = logits.gather(1, target)
    highest = logits.amax(dim=1, keepdim=True)
    total = logits.sub_(highest).exp_().sum(dim=1, keepdim=True)
    loss = ((total.log() + highest - picked) * keep).sum()
    logits.div_(total / keep).scatter_add_(1, target, -keep.to(logits.dtype))
    return loss


def _accumulate(d_weight: Tensor, d_logits: Tensor, states: Tensor) -> None:
    """Add d_logits^T states to the fp32 sum `d_weight`."""
    if states.dtype == d_weight.dtype:
        d_weight.addmm_(d_logits.t(), states)
    else:
        d_weight += d_logits.t() @ states
