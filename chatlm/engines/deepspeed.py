"""DeepSpeed's ZeRO: each process holds a piece of the moments, the gradients, or the weights too.

In: a model that is whole on every process. Out: an engine for stage 1, 2 or 3. DeepSpeed reduces
the gradients and takes the steps itself; its own checkpoints are not used.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from chatlm.config import TrainConfig
from chatlm.engines import moments
from chatlm.engines.parts import cross_projections
from chatlm.engines.whole import Engine
from chatlm.errors import ConfigError
from chatlm.model.t5 import T5
from chatlm.model.trainee import Trainee

# DeepSpeed's name of what we call momentum.
MOMENTUM = "momentum_buffer"
NAMES = {MOMENTUM: "momentum"}


class DeepSpeed(Engine):
    """ZeRO: moments in pieces (stage 1), gradients too (stage 2), and weights too (stage 3).

    DeepSpeed cuts each group of tensors into as many pieces of equal length as there are processes;
    our groups have one tensor each. Its checkpoints are those of `Engine`.
    """

    is_deepspeed = True
    gathers = True

    def __init__(self, accelerator: Accelerator, config: TrainConfig, model: Trainee) -> None:
        plugin = accelerator.state.deepspeed_plugin
        assert plugin is not None  # accelerate made it, the type of the run says so
        self._stage: int = plugin.zero_stage
        self.name = f"DeepSpeed ZeRO-{self._stage}"
        self.cuts_weights = self._stage == 3
        if self.cuts_weights:
            if not isinstance(model, T5):
                raise ConfigError(
                    "ZeRO-3 is for our own models: with base= launch with runs/ddp.yaml, or "
                    "accelerate.yaml (ZeRO-2)"
                )
            _name_readers(model)
        self._unrounded: dict[str, Tensor] = {}
        super().__init__(accelerator, config, model)

    def _prepare(self, model: Trainee, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        exact = {}
        if self._accelerator.mixed_precision == "bf16":  # DeepSpeed is about to round them
            exact = {name: p.detach().to("cpu", copy=True) for name, p in model.saved()}
        wrapped, prepared = super()._prepare(model, optimizer)
        self._zero = wrapped.optimizer
        if not hasattr(self._zero, "averaged_gradients"):
            raise ConfigError(
                f"DeepSpeed chose {type(self._zero).__name__}, whose moments ChatLM cannot save: "
                "remove data_types from the DeepSpeed configuration"
            )
        self._put_masters(exact)
        self._unrounded = {name: exact[name] for name in exact.keys() - self.named.keys()}
        return wrapped, prepared

    # ---- a step ---------------------------------------------------------------------------

    @contextmanager
    def microbatch(self, *, is_last: bool) -> Iterator[None]:
        """Gives a context for one microbatch; only ZeRO-1 waits for the last one to exchange."""
        self.wrapped.set_gradient_accumulation_boundary(is_last)
        with super().microbatch(is_last=is_last):
            yield

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Adds the gradients of a microbatch, inside its context. Collective."""
        # accelerate's own backward takes DeepSpeed's step as well, whatever the gradients are.
        self.wrapped.backward(loss)

    def clip(self, largest_norm: float) -> Float[Tensor, ""]:  # noqa: ARG002
        """Returns the global norm of the gradients. Collective.

        DeepSpeed clips when it steps, to what `chatlm.launch` told it. Under ZeRO-1 and 2 Muon's
        matrices are orthogonalised already: it is their steps that are measured.
        """
        norms = [vector_norm(one, dtype=torch.float32) for one in self._gradients()]
        square = torch.stack(norms).square().sum()
        torch.distributed.all_reduce(square)
        return square.sqrt()

    def update(self) -> None:
        """Moves weights and moments by the gradients, and drops these. Collective."""
        self.wrapped.step()
        assert self.wrapped.was_step_applied()

    def discard(self) -> None:
        """Drops the gradients; weights, moments and counters keep every bit. Collective.

        DeepSpeed drops a step when it finds a gradient that is not finite, and only then. Muon
        keeps such a matrix out of its momentum, so all of them are made so.
        """
        for gradient in self._gradients():
            gradient.fill_(math.nan)
        self.wrapped.step()
        assert not self.wrapped.was_step_applied()

    def _gradients(self) -> Iterator[Tensor]:
        """Yields the pieces of gradients that this process holds after the last microbatch."""
        for index, (_, parameter, _) in enumerate(self._partitions()):
            pieces = self._zero.averaged_gradients[index]
            if self.cuts_weights:  # the last piece is filled up
                yield self._real(parameter, pieces[0])
            else:
                yield from pieces

    # ---- weights and moments ----------------------------------------------------------------

    def put_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copies whole weights over those of the model, given to every process. Collective."""
        from deepspeed.runtime.zero import GatheredParameters

        for name, parameter in self.model.saved():
            with GatheredParameters(parameter, modifier_rank=0), torch.no_grad():
                parameter.copy_(weights[name])
        self._put_masters(weights)
        for name, kept in self._unrounded.items():
            kept.copy_(weights[name])

    @torch.no_grad()
    def _put_masters(self, weights: Mapping[str, Tensor]) -> None:
        """Copies whole weights over what DeepSpeed adds its steps to, in fp32."""
        for name, _, master in self._partitions() if weights else ():
            master.copy_(self._cut(weights[name], master))

    @torch.no_grad()
    def put_moments(self, given: Mapping[str, Tensor]) -> None:
        """Puts back what `whole_moments` returned, given to every process. Collective.

        Raises:
            CheckpointError: these are not the moments of these weights under this optimizer.
        """
        found = self._sorted(given)
        state = self._zero.optimizer.state
        for name, parameter, master in self._partitions():
            own = found.get(name)
            if getattr(parameter, "use_muon", False):
                self._put_momentum(state[master], master, own["momentum"] if own else None)
                continue
            state.pop(master, None)
            if own:
                count = own[moments.STEP].to(master.device, copy=True)
                state[master] = {
                    moment: self._cut(value, master) for moment, value in own.items()
                } | {moments.STEP: int(count) if self._has_muon else count}

    def _put_momentum(self, state: dict[str, Tensor], master: Tensor, value: Tensor | None) -> None:
        if self.cuts_weights:
            piece = torch.zeros_like(master) if value is None else self._cut(value, master)
            state[MOMENTUM].copy_(piece)
        elif value is None:
            state.clear()
        else:
            state[MOMENTUM] = value.flatten().to(master.device, copy=True)

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        masters = {name: master for name, _, master in self._partitions()}
        for name, parameter in self.model.saved():
            if name in masters:
                yield name, self._gathered(masters[name].detach(), parameter)
            else:
                yield name, self._unrounded[name] if self._unrounded else self._whole(parameter)

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        state = self._zero.optimizer.state
        for name, parameter, master in self._partitions() if self._has_moved() else ():
            for moment, value in state[master].items():
                if moment == moments.STEP:
                    found = torch.as_tensor(value)
                elif moment == MOMENTUM and not self.cuts_weights:
                    # Muon's matrices are whole on every process that moves a part of them.
                    found = value.view(self._shape(parameter))
                else:
                    found = self._gathered(value, parameter)
                yield moments.key(name, NAMES.get(moment, moment)), found

    def _has_moved(self) -> bool:
        """Tells whether a step was taken; Muon has momenta before that."""
        states = self._zero.optimizer.state.values()
        return any(moments.STEP in one for one in states)

    @property
    def _has_muon(self) -> bool:
        return self._config.optimizer == "muon"

    def _partitions(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yields each tensor that moves: its name, the parameter, our piece of it in fp32, flat."""
        names = {id(parameter): name for name, parameter in self.named.items()}
        if self.cuts_weights:
            groups, masters = self._zero.fp16_groups, self._zero.fp32_partitioned_groups_flat
        else:
            groups, masters = self._zero.bit16_groups, self._zero.single_partition_of_fp32_groups
        for (parameter,), master in zip(groups, masters, strict=True):
            yield names[id(parameter)], parameter, master

    def _gathered(self, piece: Tensor, parameter: Tensor) -> Tensor:
        """Returns a tensor whose pieces all processes hold. Collective."""
        shape = self._shape(parameter)
        everything = piece.new_empty(piece.numel() * self._accelerator.num_processes)
        torch.distributed.all_gather(list(everything.split(piece.numel())), piece)
        return everything[: shape.numel()].view(shape)

    def _cut(self, whole: Tensor, master: Tensor) -> Tensor:
        """Returns our piece of a whole tensor, filled up with zeros, as DeepSpeed holds it."""
        size = master.numel()
        start = size * self._accelerator.process_index
        values = whole.flatten()[start : start + size]
        piece = torch.zeros_like(master)
        piece[: values.numel()] = values
        return piece

    def _real(self, parameter: Any, piece: Tensor) -> Tensor:
        """Returns a piece under ZeRO-3 without what it is filled up with."""
        start = parameter.ds_tensor.ds_numel * self._accelerator.process_index
        return piece.flatten()[: max(0, parameter.ds_numel - start)]

    def _piece(self, parameter: Tensor) -> Tensor:
        # The last piece is filled up to the size of the others with what lay in memory.
        return self._real(parameter, parameter.ds_tensor)  # pyright: ignore[reportAttributeAccessIssue]

    def _shape(self, parameter: Tensor) -> torch.Size:
        return getattr(parameter, "ds_shape", parameter.shape)

    def _whole(self, tensor: Tensor) -> Tensor:
        # Imported where it is used: without DeepSpeed's launch lines it need not be there.
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters(tensor):
            return tensor.detach().clone()


def _name_readers(model: T5) -> None:
    """Tells ZeRO-3 which modules read weights of others, so that it gathers them in time.

    It gathers a weight for the module that owns it. It also notices a weight that is read while it
    is not there, but not one that is there by chance, which it then takes away too early.
    """
    # Imported where it is used: without DeepSpeed's launch lines it need not be there.
    from deepspeed.runtime.zero import register_external_parameter

    for layer in [*model.encoder.layers, *model.decoder.layers]:
        for parameter in layer.parameters():
            register_external_parameter(layer, parameter)
    for projection in cross_projections(model):
        register_external_parameter(model.decoder, projection.weight)
    register_external_parameter(model, model.embedding.weight)
