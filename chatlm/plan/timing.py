"""How long an optimizer step takes, put together from parts.

In: the settings, a microbatch, and either measured parts (`chatlm.plan.calibrate`) or a card's peak
and a share of it that is assumed. Out: seconds, by part. It does not run the model.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from chatlm.config import TrainConfig
from chatlm.plan import activations
from chatlm.plan.activations import Kernels
from chatlm.plan.calibrate import Bench
from chatlm.plan.flops import attention_flops, linear_products
from chatlm.plan.load import Load
from chatlm.plan.tensors import Shape, is_for_muon, trainable_shapes

FP32 = 4
HEAD = "head"
MEASURED_PAIRS = 4
ADAMW_ENTRIES = 1 << 21
GPU_ATTENTION_SHARE = 0.4
"""Share of the rate of products that attention on a GPU is taken to reach: blocks are masked."""


@dataclass(frozen=True)
class Times:
    """Seconds of one process.

    Attributes:
        microbatch: Parts of a microbatch's forward and backward pass.
        optimizer: Clipping and the optimizer's step, once a step.
    """

    microbatch: Mapping[str, float]
    optimizer: float

    @property
    def of_microbatch(self) -> float:
        """Seconds of one microbatch, forward and backward."""
        return sum(self.microbatch.values())

    def of_step(self, num_microbatches: float) -> float:
        """Seconds of an optimizer step with that many microbatches."""
        return num_microbatches * self.of_microbatch + self.optimizer


def assumed(flops: float, flops_a_second: float) -> Times:
    """Returns the times on a machine that does operations at that rate."""
    return Times({"all, at the assumed rate": flops / flops_a_second}, 0.0)


class Calibration:
    """The parts of one run on one machine, each measured when it is first asked for."""

    def __init__(self, config: TrainConfig, bench: Bench) -> None:
        self.config, self.bench = config, bench
        self._known: dict[Hashable, Any] = {}

    def _once(self, key: Hashable, measure: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = measure()
        return self._known[key]

    def times(self, load: Load) -> Times:
        """Returns what a microbatch and the optimizer take."""
        parts = {
            "matrix products": self._products(load),
            "head and loss": self._loss(load),
            "attention": self._attention(load),
            "norms, nonlinearity": self._elementwise(load),
            "weights, memory": self._memory(load),
        }
        return Times(parts, self._once("optimizer", self._optimizer))

    def _products(self, load: Load) -> float:
        seconds = 0.0
        for product in linear_products(
            self.config.model, load.num_source_tokens, load.num_target_tokens
        ):
            if product.name != HEAD and product.rows:
                key = product.inner, product.columns
                rate = self._once(key, lambda p=product: self.bench.product(p))
                seconds += 3 * product.flops / rate
        return seconds

    def _loss(self, load: Load) -> float:
        rows = load.num_target_tokens
        return rows * self._once("loss", lambda: self.bench.loss(self.config.model, rows))

    def _attention(self, load: Load) -> float:
        shape = self.config.model
        if self.bench.device.type == "cuda":
            flops = 3 * attention_flops(shape, load.source_lengths, load.target_lengths)
            rates = [rate for key, rate in self._known.items() if isinstance(key, tuple)]
            return flops / (GPU_ATTENTION_SHARE * float(np.median(rates)))
        order = np.argsort(load.source_lengths + load.target_lengths, kind="stable")
        places = (np.arange(MEASURED_PAIRS) + 0.5) * len(order) / MEASURED_PAIRS
        some = [
            (int(load.source_lengths[i]), int(load.target_lengths[i]))
            for i in order[places.astype(int)]
        ]
        seconds = self._once(("attention", *some), lambda: self.bench.attention(shape, some))
        layers = shape.num_layers, shape.num_decoder_layers, shape.num_decoder_layers
        return float(np.dot(seconds, layers)) * load.num_pairs / MEASURED_PAIRS

    def _elementwise(self, load: Load) -> float:
        shape = self.config.model
        source = load.num_source_tokens * shape.num_layers
        target = load.num_target_tokens * shape.num_decoder_layers
        norm = self._once("norm", lambda: self.bench.norm(shape.d_model))
        between = self._once("nonlinearity", lambda: self.bench.nonlinearity(shape))
        return norm * (2 * source + 3 * target) + between * (source + target)

    def _memory(self, load: Load) -> float:
        """Returns the seconds of passes over weights and of taking memory for activations.

        The passes: copies of joined weights and of their gradients; the sum of the gradients of
        microbatches; and those over the table, for which the lookup and the head each make a
        gradient of its full size.
        """
        shape = self.config.model
        w = self.bench.dtype.itemsize
        kept = list(activations.saved(shape, load, w))
        joined = sum(one.num_bytes for one in kept if "joint" in one.name)
        weights = 4 * joined + 3 * FP32 * shape.num_parameters()
        table = 7 * FP32 * shape.vocab_size * shape.d_model
        taken = sum(one.num_bytes for one in kept)
        taken += activations.loss_peak(shape, load, w, Kernels())
        passes = (weights + table) * self._once("traffic", self.bench.traffic)
        if self.bench.device.type == "cuda":  # its allocator keeps what it has
            return passes
        piece = FP32 * shape.d_model * max(load.num_source_tokens, load.num_target_tokens)
        return passes + taken * self._once("fresh", lambda: self.bench.fresh_memory(piece))

    def _optimizer(self) -> float:
        shapes = trainable_shapes(self.config)
        numel = {name: int(np.prod(shape)) for name, shape in shapes.items()}
        passes = 4 * FP32 * sum(numel.values()) * self._once("traffic", self.bench.traffic)
        matrices: Counter[Shape] = Counter()
        example: dict[Shape, str] = {}
        rest = 0
        for name, shape in shapes.items():
            if is_for_muon(self.config, name, shape):
                matrices[shape] += 1
                example[shape] = name
            else:
                rest += numel[name]
        seconds = passes
        for shape, count in matrices.items():
            seconds += count * self.bench.optimizer(self.config, shape, example[shape])
        entries = min(rest, ADAMW_ENTRIES)
        return seconds + self.bench.optimizer(self.config, (entries,), "norm") * rest / entries
