"""What the tuning of a model of others takes: rehearsed, not looked up.

In: settings with `base=`. Out: a `Planned`. The base needs its configuration only; sizes and
operations come from `chatlm.plan.rehearsal`, the time of matrix products is measured, and 4-bit
matrices are counted as bitsandbytes packs them (Dettmers et al. 2023, arXiv:2305.14314, section 3).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from chatlm import log
from chatlm.adapters.language_model import LanguageModel
from chatlm.adapters.untrained import random_batch, untrained
from chatlm.config import TrainConfig
from chatlm.plan.activations import FP32
from chatlm.plan.calibrate import Bench
from chatlm.plan.flops import Product
from chatlm.plan.load import Load
from chatlm.plan.memory import (
    CONTEXT,
    LIBRARIES,
    SLACK,
    SNAPSHOT,
    Memory,
    Setup,
)
from chatlm.plan.planned import Flops
from chatlm.plan.rehearsal import Rehearsed, rehearse
from chatlm.plan.timing import Times

MOMENTS = 2
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Of each weight of a packed matrix, its shares of an 8-bit and a 32-bit scale included."""
BF16 = 2
SLACK_SHARE = {False: 0.8, True: 0.05}
"""As `memory.SLACK_SHARE`. On a CPU, tensors of some MiB leave holes in glibc's heap: 50 to 115 %
with GPT-2, T5, Llama and ChatGLM, and more where activations are computed again."""
PASSES = 5
"""Over each tensor that is made, beside matrix products; fitted on a CPU (3 to 10 were seen)."""
MEASURED_SHAPES = 6
"""So many kinds of matrices, those with most weights, are measured."""


class TunedModel:
    """A model of others with adapters, or moving as a whole."""

    def __init__(self, config: TrainConfig, pad_id: int, *, half: bool) -> None:
        """Reads the configuration of the base.

        Args:
            config: the run's.
            pad_id: of the tokenizer.
            half: whether products are in bf16.

        Raises:
            CheckpointError: there is no such base.
            ConfigError: it cannot be tuned with these settings.
        """
        self._config, self._pad_id, self._half = config, pad_id, half
        self._known: dict[Any, Rehearsed] = {}
        model = self._made(config)
        inner: Any = model.inner
        self._model_type = inner.config.model_type
        self._moving = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self._products = _matrices(inner)
        packed = config.quantize == "nf4"
        head = inner.get_output_embeddings()
        linear = [
            module.weight.numel()
            for module in inner.modules()
            if packed and isinstance(module, nn.Linear) and _is_packed(module, head)
        ]
        self._frozen_bytes = sum(
            p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad
        )
        width = BF16 if half else FP32
        self._frozen_bytes -= sum(linear) * (width - NF4_BITS / 8)
        self._unpacked_bytes = width * max(linear, default=0)
        self.num_parameters = sum(p.numel() for p in model.parameters())

    @property
    def shape(self) -> str:
        """Which model it is, and how much of it moves."""
        share = self._moving / self.num_parameters
        return f"{self._model_type} of {self._config.base}; {self._moving:,} move ({share:.2%})"

    @property
    def shardings(self) -> tuple[str, ...]:
        """Each process holds the whole base."""
        return ("ddp",)

    @property
    def checkpoint_bytes(self) -> int:
        """What moves, and its moments."""
        return (1 + MOMENTS) * FP32 * self._moving

    def memory(self, setup: Setup, load: Load) -> Memory:
        """Returns what a process takes whose largest microbatch is `load`."""
        found = self._rehearsed(load, accumulates=setup.accumulates)
        waiting = setup.accumulates + setup.held_gradients
        worst = {
            "activations": float(found.kept),
            "backward pass at its worst": float(found.peak - found.kept),
            "a matrix unpacked": float(self._unpacked_bytes),
        }
        transient = sum(worst.values())
        moving = FP32 * self._moving
        return Memory(
            {
                CONTEXT if setup.is_cuda else LIBRARIES: setup.libraries,
                "base": self._frozen_bytes,
                "weights that move": moving,
                "optimizer state": MOMENTS * moving,
                SNAPSHOT: self.checkpoint_bytes if setup.keeps_snapshot else 0.0,
                "gradients": float(found.gradients * waiting),
                **worst,
                SLACK: SLACK_SHARE[setup.is_cuda] * transient,
            },
            transient,
        )

    def flops(self, load: Load) -> Flops:
        """Returns the operations of a microbatch, as PyTorch counts them."""
        computed = self._rehearsed(load, accumulates=False).flops
        if not self._config.gradient_checkpointing:
            return Flops(computed, computed)
        keeping = replace(self._config, gradient_checkpointing=False)
        return Flops(self._rehearsed(load, accumulates=False, config=keeping).flops, computed)

    def clockwork(self, bench: Bench) -> Callable[[Load], Times]:
        """Returns what tells the time of matrix products and of passes over memory here."""
        shapes = sorted(self._products, key=lambda one: -self._products[one])[:MEASURED_SHAPES]
        counted = {shape: self._products[shape] for shape in shapes}
        rates = {shape: bench.product(Product("", 1024, *shape)) for shape in shapes}
        seconds = sum(size / rates[shape] for shape, size in counted.items())
        rate = sum(counted.values()) / seconds
        traffic = bench.traffic()

        def times(load: Load) -> Times:
            found = self._rehearsed(load, accumulates=False)
            passes = PASSES * found.written * traffic
            return Times({"matrix products": found.flops / rate, "all else": passes}, 0.0)

        return times

    def _rehearsed(
        self, load: Load, *, accumulates: bool, config: TrainConfig | None = None
    ) -> Rehearsed:
        """Returns a microbatch's figures, rehearsed once; with other settings where given."""
        config = config or self._config
        sides = load.source_lengths.tobytes(), load.target_lengths.tobytes()
        key = (*sides, accumulates, config.gradient_checkpointing)
        if key not in self._known:
            self._known[key] = self._rehearsal(config, load, accumulates=accumulates)
        return self._known[key]

    def _rehearsal(self, config: TrainConfig, load: Load, *, accumulates: bool) -> Rehearsed:
        model = self._made(config)
        batch = random_batch(model, load.source_lengths.tolist(), load.target_lengths.tolist())
        return rehearse(model, batch, half=self._half, accumulates=accumulates)

    def _made(self, config: TrainConfig) -> LanguageModel:
        with log.only_warnings():
            return untrained(config, torch.device("meta"), self._pad_id, half=self._half)


def _matrices(inner: nn.Module) -> dict[tuple[int, int], int]:
    """Returns how many weights there are in matrices of each shape, (inner, columns)."""
    found: dict[tuple[int, int], int] = {}
    for module in inner.modules():
        weight = getattr(module, "weight", None)
        is_table = isinstance(module, nn.Embedding)  # rows of it are looked up
        if isinstance(weight, nn.Parameter) and weight.ndim == 2 and not is_table:
            columns, rows = weight.shape
            found[rows, columns] = found.get((rows, columns), 0) + weight.numel()
    return found


def _is_packed(module: nn.Linear, head: nn.Module) -> bool:
    """Tells whether bitsandbytes packs a matrix: it leaves the head and adapters as they are."""
    return module is not head and not module.weight.requires_grad
