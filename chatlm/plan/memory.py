"""How much memory one process of a training needs, in its parts.

In: the settings, the largest microbatch, how the run is split over processes. Out: `Memory`: bytes
of every part at the worst moment of a step. Pure arithmetic: it asks no machine, and nothing in it
was fitted but `SLACK_SHARE`. Source for the states under ZeRO: Rajbhandari et al. 2020,
arXiv:1910.02054, section 3; FSDP shards as ZeRO-3 does.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from chatlm.config import TrainConfig
from chatlm.model.config import ModelConfig
from chatlm.optim.muon import LARGEST_STACK
from chatlm.plan import activations
from chatlm.plan.activations import FP32, Kernels
from chatlm.plan.load import Load
from chatlm.plan.tensors import is_for_muon, trainable_shapes

SLACK_SHARE = {False: 0.28, True: 0.05}
"""Of what a step takes and gives back, what lies unused between blocks: glibc, CUDA's allocator.

Measured on CPUs: 11 to 50 %; on GPUs PyTorch's caching allocator is taken to lose 5 %.
"""
CUDA_CONTEXT = 600 << 20
"""Bytes that CUDA, cuBLAS and their kernels take on a GPU before the first tensor; not measured."""
BUCKET_ENTRIES = 50_000_000
"""Largest number of gradients that DeepSpeed sends at once by the configurations in runs/."""
STACK_COPIES = {"cpu": 24, "cuda": 18}
"""Bytes for each entry of the stack of matrices that Muon works on: fp32, on GPUs partly bf16."""
LIBRARIES, CONTEXT, SLACK = "interpreter, libraries", "CUDA context", "allocator slack"
SNAPSHOT = "copy that is being saved"
SHARDINGS = ("single", "ddp", "zero1", "zero2", "zero3", "fsdp2")


@dataclass(frozen=True)
class Split:
    """How a run is split.

    Attributes:
        sharding: One of `SHARDINGS`.
        processes: As many hold the shards.
    """

    sharding: str = "single"
    processes: int = 1

    def shares(self) -> tuple[float, float, float]:
        """Returns the shares of weights, gradients and optimizer state that one process holds."""
        part = 1.0 / self.processes
        return {
            "zero1": (1.0, 1.0, part),
            "zero2": (1.0, part, part),
            "zero3": (part, part, part),
            "fsdp2": (part, part, part),
        }.get(self.sharding, (1.0, 1.0, 1.0))

    @property
    def is_deepspeed(self) -> bool:
        """Whether DeepSpeed runs it, which keeps weights for itself."""
        return self.sharding.startswith("zero")


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the worst moment of a step.

    Attributes:
        parts: By name, in the order of a table.
        transient: The sum of those parts that a step takes and gives back.
    """

    parts: Mapping[str, float]
    transient: float

    @property
    def total(self) -> float:
        """All parts."""
        return sum(self.parts.values())

    def without(self, *names: str) -> "Memory":
        """Returns the same without some parts."""
        kept = {name: size for name, size in self.parts.items() if name not in names}
        return Memory(kept, self.transient)


@dataclass(frozen=True)
class Setup:
    """What memory depends on beside the microbatch.

    Attributes:
        config: The settings, with the model's true vocabulary.
        split: Over processes.
        is_cuda: Whether it runs on GPUs.
        half: Whether products are in bf16.
        accumulates: Whether a step has several microbatches, so that gradients are there already
            when the activations of the next one are taken.
        libraries: Bytes of the interpreter and its libraries (CPU) or of the context (CUDA).
        held_gradients: Sums over finished shares that wait while the last share is computed.
        keeps_snapshot: Whether a copy of weights and moments is kept to be saved beside the
            training. On GPUs it lies in the machine's memory, not in the card's.
    """

    config: TrainConfig
    split: Split
    is_cuda: bool
    half: bool
    accumulates: bool
    libraries: int
    held_gradients: int = 0
    keeps_snapshot: bool = False

    @property
    def width(self) -> int:
        """Bytes of a number in a matrix product."""
        return 2 if self.half else 4

    def kernels(self) -> Kernels:
        """Returns what the computation keeps: GPUs keep no attention weights and fuse norms."""
        if not self.is_cuda:
            return Kernels()
        keeps_scores = self.config.attention in ("math", "sdpa")
        return Kernels(keeps_scores, keeps_normed=False, keeps_logits=False)


def optimizer_bytes(config: TrainConfig) -> int:
    """Returns the bytes of the optimizer's moments: fp32, one for Muon's matrices, else two."""
    return sum(
        FP32 * prod(shape) * (1 if is_for_muon(config, name, shape) else 2)
        for name, shape in trainable_shapes(config).items()
    )


def predict(setup: Setup, load: Load) -> Memory:
    """Returns the memory of a process whose largest microbatch is `load`."""
    shape = setup.config.model
    states, gradients = _states(setup)
    width, kernels = setup.width, setup.kernels()
    kept = sum(one.num_bytes for one in activations.saved(shape, load, width, kernels))
    moments = {
        "head and loss": activations.loss_peak(shape, load, width, kernels),
        "backward of the last layer": activations.backward_peak(shape, load, width),
    }
    name = max(moments, key=lambda one: moments[one])
    during = {
        "gradients": gradients * (setup.accumulates + setup.held_gradients),
        "activations": kept,
        name: moments[name],
    }
    after = {
        "gradients": gradients,
        "activations": 0.0,
        "sums over the table, optimizer's work": _end_of_step(setup),
    }
    worst = max(during, after, key=lambda one: sum(one.values()))
    transient = sum(worst.values()) - worst["gradients"]
    slack = SLACK_SHARE[setup.is_cuda] * transient
    return Memory(
        {
            CONTEXT if setup.is_cuda else LIBRARIES: setup.libraries,
            **states,
            "memory of logits": activations.loss_workspace(shape, load, width, kernels),
            **worst,
            SLACK: slack,
        },
        transient,
    )


def _states(setup: Setup) -> tuple[dict[str, float], float]:
    """Returns what stays from step to step, and the gradients."""
    config = setup.config
    parameters = config.model.num_parameters()
    trainable = sum(prod(shape) for shape in trainable_shapes(config).values())
    weights, gradients, moments = setup.split.shares()
    states: dict[str, float] = {}
    # DeepSpeed trains weights in bf16 beside an fp32 copy of its share; it makes the copy in fp32,
    # too. Everything else keeps fp32 weights, and autocast makes bf16 copies for a pass.
    width = setup.width if setup.split.is_deepspeed else FP32
    states["weights"] = width * parameters * weights
    if setup.split.is_deepspeed:
        states["fp32 copy of weights"] = FP32 * trainable / setup.split.processes
        states["communication"] = width * min(trainable, 2 * BUCKET_ENTRIES)
    if setup.split.sharding in ("zero3", "fsdp2"):
        states["gathered layers"] = width * _largest_gathered(config.model)
    states["optimizer state"] = optimizer_bytes(config) * moments
    if setup.keeps_snapshot:
        states[SNAPSHOT] = checkpoint_bytes(config)
    return states, width * trainable * gradients


def _largest_gathered(shape: ModelConfig) -> float:
    """Returns the weights that are whole at one time: the table and two layers."""
    inner = shape.num_heads * shape.d_kv
    layer = 8 * shape.d_model * inner + (3 if shape.is_gated else 2) * shape.d_model * shape.d_ff
    return shape.vocab_size * shape.d_model + 2 * layer


def _end_of_step(setup: Setup) -> float:
    """Returns the bytes of the gradients of the table that meet at the end, or of Muon's stacks."""
    shape = setup.config.model
    gradients = 2.0 * FP32 * shape.vocab_size * shape.d_model
    together: Counter[tuple[int, ...]] = Counter()
    for name, of_tensor in trainable_shapes(setup.config).items():
        if is_for_muon(setup.config, name, of_tensor):
            together[tuple(sorted(of_tensor))] += prod(of_tensor)
    device = "cuda" if setup.is_cuda else "cpu"
    stacks = [
        max(prod(one), min(entries, LARGEST_STACK[device])) for one, entries in together.items()
    ]
    return max(gradients, STACK_COPIES[device] * max(stacks, default=0))


def checkpoint_bytes(config: TrainConfig) -> int:
    """Returns the bytes of one checkpoint: fp32 weights and the optimizer's moments."""
    return FP32 * config.model.num_parameters() + optimizer_bytes(config)
