"""The base of all engines, where every process holds everything: one process, or DDP.

In: the accelerator, the settings, a model that is whole on every process. Out: what the trainer
asks of any engine. A step is `microbatch` and `backward` for each microbatch, then `exchange`,
`clip`, and `update` or `discard`. It computes no loss and decides no step.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch._dynamo
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor

from chatlm import optim
from chatlm.config import TrainConfig
from chatlm.engines import moments
from chatlm.errors import ConfigError
from chatlm.model.t5 import T5
from chatlm.model.trainee import Trainee
from chatlm.optim.groups import MIN_RMS
from chatlm.optim.muon import Muon

MOST_GRAPHS = 64


class Engine:
    """Every process holds all weights, gradients and moments.

    Attributes:
        name: What messages and checkpoints call it.
        named: The tensors that move, by name, where the optimizer finds them.
        wrapped: What computes the loss of a microbatch.
        optimizer: What moves the weights.
        is_deepspeed: Whether DeepSpeed takes the steps.
        muon: Which Muon takes them otherwise.
        cuts_weights: Whether a process holds a piece of each weight only.
        gathers: Whether `whole_weights` or `whole_moments` bring pieces together.
        compiled: Whether the layers are, so that microbatches must have few different sizes.
        averages: Whether summed gradients are divided by the number of processes.
    """

    name = ""
    is_deepspeed = False
    muon = Muon
    cuts_weights = False
    gathers = False
    averages = True

    def __init__(self, accelerator: Accelerator, config: TrainConfig, model: Trainee) -> None:
        self._accelerator, self._config, self.model = accelerator, config, model
        self.compiled = self._compiles()
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer = optim.make_optimizer(
            self.named.items(), config, deepspeed=self.is_deepspeed, muon=self.muon
        )
        self.wrapped, self.optimizer = self._prepare(model, optimizer)

    @property
    def num_shares(self) -> int:
        """Parts of a step that are computed apart, on all processes together.

        On CPUs they are the same for any number of processes that divides them, and so are the
        pairs that share a dropout mask.
        """
        asked, count = self._config.gradient_shares, self._accelerator.num_processes
        on_cpu = self._accelerator.device.type == "cpu"
        return asked if on_cpu and asked % count == 0 < asked else count

    def _prepare(self, model: Trainee, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        self._compile_if_wanted(model)
        return self._accelerator.prepare(model, optimizer)

    def _compile_if_wanted(self, model: Trainee) -> None:
        if self.compiled:
            if not isinstance(model, T5):
                raise ConfigError("compile=True is for our own models: leave it out with base=")
            _compile_layers(model)

    def _compiles(self) -> bool:
        """Says whether the model is to be compiled.

        Raises:
            ConfigError: it is to be, and cannot.
        """
        if self._config.compile and self.cuts_weights:
            raise ConfigError(
                f"compile=True does not work under {self.name}, which takes weights away between "
                "layers: leave out compile, or launch with runs/ddp.yaml"
            )
        return self._config.compile

    # ---- a step ---------------------------------------------------------------------------

    @contextmanager
    def microbatch(self, *, is_last: bool) -> Iterator[None]:
        """Gives a context for one microbatch: processes exchange gradients in the last only."""
        self._accelerator.gradient_state._set_sync_gradients(is_last)
        with nullcontext() if is_last else self._accelerator.no_sync(self.wrapped):
            yield

    def backward(self, loss: Float[Tensor, ""]) -> None:
        """Adds the gradients of a microbatch, inside its context. Collective."""
        self._accelerator.backward(loss)

    def end_share(self) -> None:
        """Is told that all microbatches of a share have been computed."""

    def exchange(self, sums: Float[Tensor, "shares *figures"]) -> Float[Tensor, "*figures"]:
        """Brings together what processes know of a step, after its last share. Collective.

        The gradients have been exchanged while the last microbatch computed them.

        Args:
            sums: The summed loss of each share of this process, and what else is summed.

        Returns:
            The sums over all shares and processes, the same bits on each, in double precision.
        """
        summed = self._accelerator.reduce(sums.detach().double().sum(0), "sum")
        assert isinstance(summed, Tensor)
        return summed

    def clip(self, largest_norm: float) -> Float[Tensor, ""]:
        """Scales the gradients down to a global norm; returns what it was. Collective.

        It is the same on every process, and not finite if a gradient of any of them is not.
        """
        norm = self._accelerator.clip_grad_norm_(self.named.values(), largest_norm)
        assert isinstance(norm, Tensor)
        return norm

    def update(self) -> None:
        """Moves weights and moments by the gradients, and drops these. Collective."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def discard(self) -> None:
        """Drops the gradients; weights, moments and counters keep every bit. Collective."""
        self.optimizer.zero_grad()

    def rate_scales(self) -> dict[str, float]:
        """Returns what the rate of each tensor is multiplied with. Collective."""
        if not self.cuts_weights or not self._config.scales_rates:
            return optim.tensor_scales(self.named, rms_scaled=self._config.scales_rates)
        pieces = [self._piece(parameter) for parameter in self.named.values()]
        norms = [torch.linalg.vector_norm(piece, dtype=torch.float32) for piece in pieces]
        squares = self._accelerator.reduce(torch.stack(norms).square(), "sum")
        assert isinstance(squares, Tensor)
        sizes = torch.tensor([self._shape(p).numel() for p in self.named.values()])
        rms = (squares.cpu() / sizes).sqrt().clamp_min(MIN_RMS)
        return dict(zip(self.named, rms.tolist(), strict=True))

    # ---- weights and moments ----------------------------------------------------------------

    @torch.no_grad()
    def whole_weights(self, memory: dict[str, Tensor] | None = None) -> Mapping[str, Tensor]:
        """Returns copies of all weights, whole, in fp32, in CPU memory. Collective.

        Only the main process has them; the others get nothing. `memory`: see `moments.copied`.
        """
        keep = self._accelerator.is_main_process
        return moments.copied(self._weights(), keep=keep, memory=memory)

    @torch.no_grad()
    def whole_moments(self, memory: dict[str, Tensor] | None = None) -> Mapping[str, Tensor]:
        """Returns copies of what the optimizer remembers, whole, in CPU memory. Collective.

        Only the main process has them. There are none before the first update. `memory`: see
        `moments.copied`.
        """
        keep = self._accelerator.is_main_process
        return moments.copied(self._moments(), keep=keep, memory=memory)

    @torch.no_grad()
    def put_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copies whole weights over those of the model, given to every process. Collective."""
        for name, parameter in self.model.saved():
            parameter.copy_(self._laid_out(parameter, weights[name]))

    def put_moments(self, given: Mapping[str, Tensor]) -> None:
        """Puts back what `whole_moments` returned, given to every process. Collective.

        It may come from any engine and any number of processes.

        Raises:
            CheckpointError: these are not the moments of these weights under this optimizer.
        """
        found = self._sorted(given)
        self.optimizer.state.clear()
        for name, parameter in self.named.items():
            if name in found:
                self.optimizer.state[parameter] = {
                    moment: self._laid_out(parameter, value)
                    for moment, value in found[name].items()
                }

    def _sorted(self, given: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        shapes = {name: self._shape(parameter) for name, parameter in self.named.items()}
        groups = self.optimizer.param_groups
        kinds = {g["name"]: moments.MUON if g.get("muon") else moments.ADAMW for g in groups}
        return moments.by_tensor(given, shapes, kinds)

    @contextmanager
    def whole_model(self) -> Iterator[Trainee]:
        """Gives a model that a process can use without the others. Collective.

        A model in pieces computes only while all processes call it equally often, and answers to
        different questions do not have equally many tokens: it is copied for as long as the block.
        A compiled one has a twin with the same tensors, lest it be compiled for every new length.
        """
        if not self.cuts_weights and not self.compiled:
            yield self.model
            return
        twin = self.model.twin()
        with torch.no_grad():
            whole = {name: self._whole(p) for name, p in self.model.named_parameters()}
        twin.load_state_dict(whole, assign=True)
        yield twin

    # ---- what engines that hold pieces do otherwise -------------------------------------------

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yields all weights, whole. Collective."""
        for name, parameter in self.model.saved():
            yield name, self._whole(parameter.detach())

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        """Yields all moments, whole. Collective."""
        for name, parameter in self.named.items():
            for moment, value in self.optimizer.state.get(parameter, {}).items():
                yield moments.key(name, moment), self._whole(value.detach())

    def _piece(self, parameter: Tensor) -> Tensor:
        """Returns what this process holds of a tensor."""
        return parameter

    def _shape(self, parameter: Tensor) -> torch.Size:
        """Returns the shape of the whole tensor."""
        return parameter.shape

    def _whole(self, tensor: Tensor) -> Tensor:
        """Returns the whole tensor. Collective."""
        return tensor

    def _laid_out(self, parameter: Tensor, value: Tensor) -> Tensor:
        """Returns a copy of what this process holds of a whole tensor, beside the parameter.

        A step counter too: AdamW's fused kernels want it there.
        """
        return value.to(parameter.device, copy=True)


def _compile_layers(model: T5) -> None:
    """Has each layer compiled when it is first called: once for all layers of a kind.

    Layers and not the model, which would take minutes, and would give no gradient to send before it
    has all: so DDP sends those of one layer while the next one computes.
    """
    torch._dynamo.config.recompile_limit = MOST_GRAPHS
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        # Sizes stay open from the second one on: real batches have a hundred of them, and compiling
        # for one takes ten seconds.
        layer.compile(dynamic=None)
