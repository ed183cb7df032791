"""A microbatch of any model, computed without numbers: how much memory and how many operations.

In: a model on the meta device, and a batch. Out: `Rehearsed`. The training's own code runs,
forward and backward, on tensors that have shapes but no data (PyTorch's fake tensors), so that a
model of six billion weights is rehearsed in seconds and takes no memory. Ids and masks are real,
because models look at them. What PyTorch asks for is counted; what an allocator adds is not.
"""

import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from chatlm.errors import ConfigError, brief
from chatlm.model.trainee import Trainee

Shape = Sequence[int]


@dataclass(frozen=True)
class Rehearsed:
    """What a microbatch takes.

    Attributes:
        kept: bytes that the forward pass leaves for the backward pass.
        peak: bytes at the worst moment; the model is not among them, and gradients are if none were
            there before.
        gradients: bytes of the gradients at the end.
        written: bytes of all tensors that are made on the way.
        flops: operations, a multiplication and an addition as two; those that checkpointing
            computes again are among them.
    """

    kept: int
    peak: int
    gradients: int
    written: int
    flops: int


def rehearse(
    model: Trainee,
    batch: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    half: bool = False,
    accumulates: bool = False,
) -> Rehearsed:
    """Returns what a microbatch takes.

    Args:
        model: on the meta device, in training; gets fake weights.
        batch: real ids, labels and offsets, as the model's `forward` takes them.
        half: whether products are in bf16 (autocast).
        accumulates: whether gradients of another microbatch are there before.

    Raises:
        ConfigError: an operation of the model needs numbers, or has no form without them.
    """
    mode = _with_fake_weights(model)
    moving = [p for p in model.parameters() if p.requires_grad]
    for parameter in moving:
        parameter.grad = torch.zeros_like(parameter) if accumulates else None
    ledger = _Ledger(mode, model)
    counter = flop_counter()
    try:
        with _quick_collections(), ledger, counter:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = model(*batch).objective
            kept = ledger.now
            ledger.is_backward = True
            loss.backward()
    except RuntimeError as error:
        raise ConfigError(
            f"this kind of model cannot be planned with ({brief(error)}): start the training with "
            "max_steps=20, and metrics.jsonl has its speed and memory"
        ) from error
    gradients = sum(_num_bytes(p.grad) for p in moving if p.grad is not None)
    for parameter in moving:
        parameter.grad = None
    flops = counter.get_total_flops()
    return Rehearsed(kept, ledger.peak, gradients, ledger.written, flops)


def flop_counter() -> FlopCounterMode:
    """Returns what counts operations, those of the attention kernel for CPUs among them.

    As PyTorch counts other kernels: all pairs of tokens, causal or not.
    """
    aten = torch.ops.aten
    kernel = aten._scaled_dot_product_flash_attention_for_cpu
    back = aten._scaled_dot_product_flash_attention_for_cpu_backward
    return FlopCounterMode(display=False, custom_mapping={kernel: _attended, back: _attended_back})


def _attended(query: Shape, key: Shape, *_: Any, **__: Any) -> int:
    """Returns the operations of scores and weighted sums, from (batch, heads, tokens, width)."""
    batch, heads, tokens, width = query
    return 4 * batch * heads * tokens * key[2] * width


def _attended_back(_grad: Shape, query: Shape, key: Shape, *_: Any, **__: Any) -> int:
    """Returns those of the backward pass: the scores again, and two products for each of two."""
    return 5 * _attended(query, key) // 2


def _with_fake_weights(model: nn.Module) -> FakeTensorMode:
    """Puts fake weights in the place of all, tied ones tied; returns the mode that knows them."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    known: dict[Tensor, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if tensor not in known:
            with mode:
                made = torch.empty_like(tensor, device="cpu")
            is_weight = isinstance(tensor, nn.Parameter)
            known[tensor] = nn.Parameter(made, tensor.requires_grad) if is_weight else made
        return known[tensor]

    for module in model.modules():
        stores: list[Any] = [module._parameters, module._buffers]
        for tensors in stores:
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = fake(tensor)
    return mode


class _Ledger(TorchDispatchMode):
    """Counts the bytes of tensors while they live, those of the model not."""

    def __init__(self, mode: FakeTensorMode, model: Trainee) -> None:
        super().__init__()
        self.now = self.peak = self.written = 0
        self.is_backward = False
        self._mode = mode
        given = [*model.parameters(), *model.buffers()]
        given += [p.grad for p in model.parameters() if p.grad is not None]
        self._known = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        result = None
        if not given:
            with self._mode:
                result = func(*args, **kwargs)
        if not isinstance(result, FakeTensor) or not result.is_floating_point():
            # Ids and masks are real; and one fake tensor among the given ones makes a result fake.
            result = func(*args, **kwargs)
        for one in tree_leaves(result):
            if isinstance(one, Tensor):
                self._count(one)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.written += size
        weakref.finalize(storage, self._gone, key, size)
        if self.now > self.peak and self.is_backward:
            # What is computed again is held in cycles here, and in a training it is not.
            gc.collect()
        self.peak = max(self.peak, self.now)

    def _gone(self, key: int, size: int) -> None:
        self.now -= size
        self._known.discard(key)


@contextmanager
def _quick_collections() -> Iterator[None]:
    """Lets `gc.collect` look at what is made from now on only."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
