"""Where the weights, gradients and moments of a run lie, and how its processes bring them together.

In: the accelerator that the launch line made, and a model that is whole on every process. Out: an
`Engine`, of which there are three: `Engine` itself, where every process holds everything (one
process, or DDP); `DeepSpeed` (ZeRO stage 1, 2 or 3); and `FullyShard` (PyTorch's FSDP2). Methods
marked as collective are called by all processes. It computes no loss and decides no step.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
import torch._dynamo
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from chatlm import checkpoint, optim
from chatlm.config import TrainConfig
from chatlm.errors import CheckpointError, ConfigError
from chatlm.launch import Launch
from chatlm.model.t5 import T5, DecoderLayer
from chatlm.optim.groups import MIN_RMS
from chatlm.optim.muon import Muon

MOST_GRAPHS = 64


def make(launch: Launch, config: TrainConfig, model: T5) -> "Engine":
    """Returns the engine that the launch line asks for."""
    if launch.accelerator.distributed_type == DistributedType.DEEPSPEED:
        return DeepSpeed(launch.accelerator, config, model)
    if launch.fsdp2:
        reshard = launch.reshard_after_forward
        return FullyShard(launch.accelerator, config, model, reshard=reshard)
    return Engine(launch.accelerator, config, model)


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
        compiled: Whether the layers are, so that microbatches must have few different sizes.
    """

    name = ""
    is_deepspeed = False
    muon = Muon
    cuts_weights = False

    def __init__(self, accelerator: Accelerator, config: TrainConfig, model: T5) -> None:
        self._accelerator, self._config, self.model = accelerator, config, model
        self.compiled = self._compiles()
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer = optim.make_optimizer(
            self.named.items(), config, deepspeed=self.is_deepspeed, muon=self.muon
        )
        self.wrapped, self.optimizer = self._prepare(model, optimizer)

    def _prepare(self, model: T5, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        if self.compiled:
            _compile_layers(model)
        return self._accelerator.prepare(model, optimizer)

    def _compiles(self) -> bool:
        """Says whether the model is to be compiled.

        Raises:
            ConfigError: it is to be, and cannot.
        """
        asked = self._config.compile
        if asked == "auto":
            return self._accelerator.device.type == "cuda" and not self.cuts_weights
        if asked == "True" and self.cuts_weights:
            raise ConfigError(
                f"compile=True does not work under {self.name}, which takes weights away between "
                "layers: use compile=auto, or launch with runs/ddp.yaml"
            )
        return asked == "True"

    @contextmanager
    def microbatch(self, *, is_last: bool) -> Iterator[None]:
        """Gives a context for one microbatch: processes exchange gradients in the last only."""
        # DeepSpeed steps inside the backward of a microbatch that is marked as the last.
        self._accelerator.gradient_state._set_sync_gradients(is_last)
        with nullcontext() if is_last else self._accelerator.no_sync(self.wrapped):
            yield

    def clip(self, largest_norm: float) -> Tensor | float | None:
        """Scales the gradients down to a global norm; returns what it was. Collective."""
        return self._accelerator.clip_grad_norm_(self.named.values(), largest_norm)

    def rate_scales(self) -> dict[str, float]:
        """Returns what the rate of each tensor is multiplied with. Collective."""
        if not self.cuts_weights or not self._config.scales_rates:
            return optim.tensor_scales(self.named, rms_scaled=self._config.scales_rates)
        pieces = [self._piece(parameter) for parameter in self.named.values()]
        norms = [torch.linalg.vector_norm(piece, dtype=torch.float32) for piece in pieces]
        squares = self._accelerator.reduce(torch.stack(norms).square(), "sum")
        assert isinstance(squares, Tensor)
        sizes = torch.tensor([self._size(parameter) for parameter in self.named.values()])
        rms = (squares.cpu() / sizes).sqrt().clamp_min(MIN_RMS)
        return dict(zip(self.named, rms.tolist(), strict=True))

    @torch.no_grad()
    def whole_weights(self) -> Mapping[str, Tensor]:
        """Returns all weights, whole, on every process. Collective."""
        return {name: self._whole(p) for name, p in self.model.named_parameters()}

    @contextmanager
    def whole_model(self) -> Iterator[T5]:
        """Gives a model that a process can use without the others. Collective.

        A model in pieces computes only while all processes call it equally often, and answers to
        different questions do not have equally many tokens: it is copied for as long as the block.
        A compiled one has a twin with the same tensors, lest it be compiled for every new length.
        """
        if not self.cuts_weights and not self.compiled:
            yield self.model
            return
        with torch.device("meta"):
            twin = T5(self.model.config)
        twin.load_state_dict(self.whole_weights(), assign=True)
        twin.attention, twin.longest = self.model.attention, self.model.longest
        yield twin

    def _piece(self, parameter: Tensor) -> Tensor:
        """Returns what this process holds of a tensor."""
        return parameter

    def _size(self, parameter: Tensor) -> int:
        """Returns the number of values of the whole tensor."""
        return parameter.numel()

    def _whole(self, parameter: Tensor) -> Tensor:
        """Returns the whole tensor. Collective."""
        return parameter

    def write_moments(self, part: Path) -> None:
        """Writes what the optimizer remembers into a checkpoint. Collective."""
        checkpoint.write_optimizer(part, self.optimizer, main=self._accelerator.is_main_process)

    def read_moments(self, folder: Path) -> None:
        """Puts back what `write_moments` wrote, on any number of processes. Collective.

        Raises:
            CheckpointError: the folder was not written for these weights by such an engine.
        """
        checkpoint.read_optimizer(folder, self.optimizer)


def _compile_layers(model: T5) -> None:
    """Has each layer compiled when it is first called: once for all layers of a kind.

    Layers and not the model, which would take minutes, and would give no gradient to send before it
    has all: so DDP sends those of one layer while the next one computes.
    """
    # One graph for each size that microbatches are filled up to.
    torch._dynamo.config.recompile_limit = MOST_GRAPHS
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        layer.compile(dynamic=False)


class _GatheringMuon(Muon):
    """Muon for matrices that FSDP2 cut up: each step is made whole, and each process keeps a slice.

    One gathering of every matrix a step, beside those of the forward and backward pass.
    """

    def _directions(self, ahead: Sequence[Tensor]) -> list[Tensor]:
        found = super()._directions([checkpoint.whole(one) for one in ahead])
        pairs = zip(ahead, found, strict=True)
        return [checkpoint.laid_out_like(one, step.contiguous()) for one, step in pairs]


class FullyShard(Engine):
    """PyTorch's FSDP2: each process holds a slice of every tensor, cut along its first axis.

    It gathers the weights of one layer at a time. Checkpoints are those of `Engine`.
    """

    name = "FSDP2"
    muon = _GatheringMuon
    cuts_weights = True

    def __init__(
        self, accelerator: Accelerator, config: TrainConfig, model: T5, *, reshard: bool
    ) -> None:
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        _shard(model, mesh=mesh, reshard_after_forward=reshard)
        super().__init__(accelerator, config, model)

    def _prepare(self, model: T5, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        return model, self._accelerator.prepare(optimizer)

    @contextmanager
    def microbatch(self, *, is_last: bool) -> Iterator[None]:
        """Gives a context for one microbatch: gradients are scattered in the last only."""
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(is_last)
        self._accelerator.gradient_state._set_sync_gradients(is_last)
        yield

    def clip(self, largest_norm: float) -> Tensor | float | None:
        """Scales the gradients down to a global norm; returns what it was. Collective."""
        norm = super().clip(largest_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _piece(self, parameter: Tensor) -> Tensor:
        assert isinstance(parameter, DTensor)
        return parameter.to_local()

    def _whole(self, parameter: Tensor) -> Tensor:
        return checkpoint.whole(parameter)


def _shard(model: T5, **settings: Any) -> None:
    """Cuts the model up: one unit a layer, one for what all decoder layers take from the source.

    The decoder makes the keys and values of all its cross-attentions at once, outside of its
    layers, so their projections are a unit of their own.
    """
    fully_shard(_cross_projections(model), **settings)
    for layer in [*model.encoder.layers, *model.decoder.layers]:
        fully_shard(layer, **settings)
    fully_shard(model, mesh=settings["mesh"])


def _cross_projections(model: T5) -> list[nn.Module]:
    layers = cast(Iterable[DecoderLayer], model.decoder.layers)
    attentions = [layer.cross_attention for layer in layers]
    return [projection for own in attentions for projection in (own.k, own.v)]


class DeepSpeed(Engine):
    """ZeRO: moments in pieces (stage 1), gradients too (stage 2), and weights too (stage 3).

    Its checkpoints hold DeepSpeed's own files beside Hugging Face's, and go on only under the same
    stage on as many processes.
    """

    is_deepspeed = True

    def __init__(self, accelerator: Accelerator, config: TrainConfig, model: T5) -> None:
        plugin = accelerator.state.deepspeed_plugin
        assert plugin is not None  # accelerate made it, the type of the run says so
        self.name = f"DeepSpeed ZeRO-{plugin.zero_stage}"
        self.cuts_weights = plugin.zero_stage == 3
        if self.cuts_weights:
            _name_readers(model)
        super().__init__(accelerator, config, model)

    def _piece(self, parameter: Tensor) -> Tensor:
        piece: Any = parameter
        start = piece.ds_tensor.ds_numel * self._accelerator.process_index
        # The last piece is filled up to the size of the others with what lay in memory.
        return piece.ds_tensor.flatten()[: max(0, piece.ds_numel - start)]

    def _size(self, parameter: Tensor) -> int:
        piece: Any = parameter
        return piece.ds_numel

    def _whole(self, parameter: Tensor) -> Tensor:
        # Imported where it is used: without DeepSpeed's launch lines it need not be there.
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters(parameter):
            return parameter.detach().clone()

    def write_moments(self, part: Path) -> None:
        """Lets DeepSpeed write its own files, each process its piece. Collective."""
        self.wrapped.save_checkpoint(str(part), tag=checkpoint.DEEPSPEED)

    def read_moments(self, folder: Path) -> None:
        """Lets DeepSpeed read its own files. Collective.

        Raises:
            CheckpointError: the folder was not written under this stage by as many processes.
        """
        if not (folder / checkpoint.DEEPSPEED).is_dir():
            raise CheckpointError(
                f"{folder} was not saved under DeepSpeed: resume with the launch line it was "
                "trained with, or take its weights with finetune=True init_from="
            )
        state = checkpoint.read_state(folder)
        if state.num_processes != self._accelerator.num_processes:
            raise CheckpointError(
                f"{folder} was saved by {state.num_processes} DeepSpeed processes and cannot be "
                f"split among {self._accelerator.num_processes}: launch as many as before"
            )
        if state.engine and state.engine != self.name:
            raise CheckpointError(
                f"{folder} was saved under {state.engine}, which {self.name} cannot read: resume "
                "with the launch line it was trained with"
            )
        self.wrapped.load_checkpoint(str(folder), tag=checkpoint.DEEPSPEED)


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
    for projection in _cross_projections(model):
        register_external_parameter(model.decoder, projection.weight)
    register_external_parameter(model, model.embedding.weight)
