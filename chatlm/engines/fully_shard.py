"""FSDP2: each process holds a slice of every tensor.

In: a model that is whole on every process. Out: an engine whose weights, gradients and moments are
cut along their first axis. Its checkpoints are whole, like those of any other engine.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from chatlm.config import TrainConfig
from chatlm.engines.parts import cross_projections
from chatlm.engines.whole import Engine
from chatlm.model.t5 import T5
from chatlm.model.trainee import Trainee
from chatlm.optim.muon import Muon


class _GatheringMuon(Muon):
    """Muon for matrices that FSDP2 cut up: each step is made whole, and each process keeps a slice.

    One gathering of every matrix a step, beside those of the forward and backward pass.
    """

    def _directions(self, ahead: Sequence[Tensor]) -> list[Tensor]:
        found = super()._directions([_whole(one) for one in ahead])
        pairs = zip(ahead, found, strict=True)
        return [_laid_out(one, step.contiguous()) for one, step in pairs]


class FullyShard(Engine):
    """PyTorch's FSDP2: each process holds a slice of every tensor, cut along its first axis.

    It gathers the weights of one layer at a time. Checkpoints are those of `Engine`.
    """

    name = "FSDP2"
    muon = _GatheringMuon
    cuts_weights = True
    gathers = True

    def __init__(
        self, accelerator: Accelerator, config: TrainConfig, model: T5, *, reshard: bool
    ) -> None:
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        _shard(model, mesh=mesh, reshard_after_forward=reshard)
        super().__init__(accelerator, config, model)

    def _prepare(self, model: Trainee, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        return model, self._accelerator.prepare(optimizer)

    @contextmanager
    def microbatch(self, *, is_last: bool) -> Iterator[None]:
        """Gives a context for one microbatch: gradients are scattered in the last only."""
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(is_last)
        self._accelerator.gradient_state._set_sync_gradients(is_last)
        yield

    def clip(self, largest_norm: float) -> Float[Tensor, ""]:
        """Scales the gradients down to a global norm; returns what it was. Collective."""
        return _whole(super().clip(largest_norm))

    def _piece(self, parameter: Tensor) -> Tensor:
        assert isinstance(parameter, DTensor)
        return parameter.to_local()

    def _whole(self, tensor: Tensor) -> Tensor:
        return _whole(tensor)

    def _laid_out(self, parameter: Tensor, value: Tensor) -> Tensor:
        return _laid_out(parameter, super()._laid_out(parameter, value))


def _whole(tensor: Tensor) -> Tensor:
    """Returns a tensor that was cut up put together, any other as it is. Collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _laid_out(parameter: Tensor, value: Tensor) -> Tensor:
    """Returns a whole tensor cut up like the parameter; a counter stays one."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    # Every process has the whole tensor, so none has to send anything.
    return distribute_tensor(value, mesh, placements, src_data_rank=None)


def _shard(model: T5, **settings: Any) -> None:
    """Cuts the model up: one unit a layer, one for what all decoder layers take from the source.

    The decoder makes the keys and values of all its cross-attentions at once, outside of its
    layers, so their projections are a unit of their own.
    """
    fully_shard(cross_projections(model), **settings)
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        fully_shard(layer, **settings)
    fully_shard(model, mesh=settings["mesh"])
