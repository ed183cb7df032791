"""How fast a machine does the parts of a training step, one part at a time.

In: the model's shape, a device, a clock. Out: seconds, each from a few runs of one kernel on a
piece of its real size: matrix products of the model's own shapes, the norm, the nonlinearity,
attention within some pairs, the loss over the whole vocabulary, the optimizer on one tensor of each
shape, memory traffic. It never runs the model; `chatlm.plan.timing` puts the parts together.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from chatlm import optim
from chatlm.config import TrainConfig
from chatlm.model import ragged
from chatlm.model.config import ModelConfig
from chatlm.model.loss import cross_entropy_sum
from chatlm.plan.flops import Product

Clock = Callable[[], float]

ROWS = 1024
"""Tokens of one measurement: enough for the rate of long products."""
MOST_FLOPS = 3e9
"""Operations of one product at most; larger ones are measured with fewer columns."""
LOSS_FLOPS = 5e10
LOSS_ROWS = 1024
TRAFFIC_BYTES = 64 << 20
ROUNDS = 3


@dataclass(frozen=True)
class Bench:
    """Where and with which clock parts are measured.

    Attributes:
        device: The model's device.
        dtype: Of matrix products.
        clock: Seconds; of the CPU for one thread on a machine that others use too.
    """

    device: torch.device
    dtype: torch.dtype
    clock: Clock = time.perf_counter

    def seconds(self, call: Callable[[], object], rounds: int = ROUNDS) -> float:
        """Returns the median duration of a call, which runs once more before."""
        self._finished(call)
        return statistics.median(self._finished(call) for _ in range(rounds))

    def _finished(self, call: Callable[[], object]) -> float:
        start = self.clock()
        call()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return self.clock() - start

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Returns normal numbers of the dtype of products."""
        return torch.randn(*shape, device=self.device, dtype=dtype or self.dtype)

    # ---- the parts ------------------------------------------------------------------------

    def product(self, product: Product) -> float:
        """Returns the operations a second of a linear map, forward and both gradients."""
        rows = min(product.rows, ROWS)
        most = max(64, int(MOST_FLOPS / (2 * rows * product.inner)))
        columns = min(product.columns, most)
        states, weight = self.random(rows, product.inner), self.random(columns, product.inner)
        upstream = self.random(rows, columns)
        measured = (
            self.seconds(lambda: F.linear(states, weight))
            + self.seconds(lambda: upstream @ weight)
            + self.seconds(lambda: upstream.t() @ states)
        )
        return 6.0 * rows * product.inner * columns / measured

    def norm(self, d_model: int) -> float:
        """Returns the seconds a token of a norm and the sum after it, there and back."""
        states = self.random(ROWS, d_model, dtype=torch.float32).requires_grad_()
        weight = torch.ones(d_model, device=self.device, requires_grad=True)
        other = self.random(ROWS, d_model, dtype=torch.float32)

        def call() -> None:
            normed = F.rms_norm(states + other, (d_model,), weight, 1e-6)
            normed.backward(other)

        return self.seconds(call) / ROWS

    def nonlinearity(self, config: ModelConfig) -> float:
        """Returns the seconds a token of what is between the products of the feed-forward."""
        width = config.d_ff * (2 if config.is_gated else 1)
        states = self.random(ROWS, width).requires_grad_()
        upstream = self.random(ROWS, config.d_ff)

        def call() -> None:
            if config.is_gated:
                gate, up = states.chunk(2, dim=-1)
                inner = F.gelu(gate, approximate="tanh") * up
            else:
                inner = F.relu(states)
            inner.backward(upstream)

        return self.seconds(call) / ROWS

    def attention(self, config: ModelConfig, pairs: list[tuple[int, int]]) -> tuple[float, ...]:
        """Returns the seconds of encoder, decoder and cross-attention of one layer for pairs.

        Args:
            config: the model's shape.
            pairs: source and target lengths.
        """
        sources, targets = ([0], [0])
        for source, target in pairs:
            sources.append(sources[-1] + source)
            targets.append(targets[-1] + target)
        heads, width = config.num_heads, config.d_kv
        scale = width**-0.25  # so that scores are about as far apart as a model's
        found = []
        for offsets in (sources, targets):
            longest = max(end - start for start, end in pairwise(offsets))
            projected = (self.random(offsets[-1], 3, heads, width) * scale).requires_grad_()
            bias = self.random(heads, longest, longest, dtype=torch.float32).requires_grad_()
            found.append(
                self._there_and_back(
                    lambda p=projected, b=bias, o=offsets: ragged.self_attention(p, b, o)
                )
            )
        query = (self.random(targets[-1], heads, width) * scale).requires_grad_()
        memory = (self.random(sources[-1], 2, heads, width) * scale).requires_grad_()
        spans = ragged.Spans(targets, sources)
        found.append(self._there_and_back(lambda: ragged.cross_attention(query, memory, spans)))
        return tuple(found)

    def _there_and_back(self, forward: Callable[[], Tensor]) -> float:
        def call() -> None:
            result = forward()
            result.backward(torch.ones_like(result))

        return self.seconds(call)

    def loss(self, config: ModelConfig, rows: int) -> float:
        """Returns the seconds a target token of the head and the loss, there and back."""
        most = int(LOSS_FLOPS / (6 * config.d_model * config.vocab_size))
        rows = max(1, min(rows, LOSS_ROWS, most))
        # As the model scales it: logits far apart would be slower.
        hidden = self.random(rows, config.d_model, dtype=torch.float32) * config.d_model**-0.5
        hidden.requires_grad_()
        table = self.random(config.vocab_size, config.d_model, dtype=torch.float32)
        table = table.requires_grad_()
        labels = torch.randint(config.vocab_size, (rows,), device=self.device)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.seconds(lambda: cross_entropy_sum(hidden, table, labels), 1) / rows

    def traffic(self) -> float:
        """Returns the seconds a byte of reading or writing memory in one elementwise operation."""
        states = self.random(TRAFFIC_BYTES // 4, dtype=torch.float32)
        return self.seconds(lambda: states.mul_(1.0)) / (2 * TRAFFIC_BYTES)

    def fresh_memory(self, piece_bytes: int) -> float:
        """Returns the seconds a byte that taking memory costs beyond writing it.

        A step takes hundreds of tensors, keeps them, and gives them back; if the allocator returns
        that memory to the system, the system hands out zeroed pages anew in the next step.
        """
        count = max(2, 3 * TRAFFIC_BYTES // piece_bytes)
        kept = [self.random(piece_bytes // 4, dtype=torch.float32) for _ in range(count)]

        def write_again() -> None:
            for tensor in kept:
                tensor.fill_(1.0)

        again = self.seconds(write_again)
        kept.clear()

        def take() -> None:
            taken = [torch.full((piece_bytes // 4,), 1.0, device=self.device) for _ in range(count)]
            taken.clear()

        return max(0.0, self.seconds(take) - again) / (count * piece_bytes)

    def optimizer(self, config: TrainConfig, shape: tuple[int, ...], name: str) -> float:
        """Returns the seconds of the optimizer's step for one tensor of a model."""
        tensor = self.random(*shape, dtype=torch.float32).requires_grad_()
        tensor.grad = torch.ones_like(tensor)
        optimizer = optim.make_optimizer([(name, tensor)], config)
        return self.seconds(optimizer.step)
