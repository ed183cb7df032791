"""How long does an optimizer step take, and what does orthogonalising cost for which accuracy?

    python benchmarks/optimizer_step.py [rounds=5] [model.d_model=512 ...] [torch_muon=False]

In: the shape of a model; its weights and gradients are random. Out: two tables and one line of
JSON: a step of each optimizer alone, and Newton-Schulz by several polynomials on the matrices of
the model's layers. Medians of interleaved rounds; CPU seconds are less shaken by other processes.
"""

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers.optimization import Adafactor

from chatlm import cli, optim
from chatlm.config import TrainConfig
from chatlm.model.config import ModelConfig
from chatlm.model.t5 import T5
from chatlm.optim.groups import is_for_muon
from chatlm.optim.muon import LARGEST_STACK
from chatlm.optim.newton_schulz import STEPS, Quintic, orthogonalize

RATE = 1e-3
# Each polynomial is the one nearest to 1 on the interval that the one before leaves, the first on
# [0.002, 1] or [0.01, 1], all intervals widened by 1 % (found by Remez' algorithm).
# Source: Amsel et al. 2025, The Polar Express, https://arxiv.org/abs/2505.16932, theorem 3.1.
NEAREST: dict[int, tuple[Quintic, ...]] = {
    4: (
        (8.3451, -24.2093, 17.6001),
        (4.0770, -2.9743, 0.5479),
        (3.7067, -2.7205, 0.5204),
        (2.8215, -2.0760, 0.4516),
    ),
    3: (
        (8.0211, -22.9562, 16.6231),
        (3.6233, -2.6622, 0.5141),
        (2.6872, -1.9714, 0.4407),
    ),
}
SHAPE = ModelConfig(
    d_model=512,
    d_kv=64,
    d_ff=1024,
    num_heads=8,
    num_layers=6,
    num_decoder_layers=6,
    vocab_size=29298,
    feed_forward_proj="gated-gelu",
)


@dataclass(frozen=True)
class Settings:
    """Settings of this benchmark."""

    rounds: int = field(default=5, metadata={"help": "of every measurement"})
    threads: int = field(default=1, metadata={"help": "CPU threads"})
    torch_muon: bool = field(default=True, metadata={"help": "one step of torch.optim.Muon"})
    model: ModelConfig = field(default_factory=lambda: SHAPE)


def main(argv: Sequence[str]) -> int:
    """Measures, and prints the tables and the line of JSON."""
    settings = cli.parse(argv, Settings)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    named: dict[str, Tensor] = dict(T5(settings.model).named_parameters())
    for tensor in named.values():
        tensor.grad = torch.randn_like(tensor)
    steps = optimizer_steps(named)
    found = {"optimizers": medians(steps, settings.rounds)}
    if settings.torch_muon:
        found["optimizers"] |= medians({"torch.optim.Muon + AdamW": torch_muon(named)}, 1)
    matrices = [tensor for name, tensor in named.items() if is_for_muon(name, tensor)]
    found["newton_schulz"] = newton_schulz(matrices, settings.rounds)
    report(found)
    weights = sum(tensor.numel() for tensor in named.values())
    print(json.dumps({"weights": weights, "settings": asdict(settings)} | found))
    return 0


def optimizer_steps(named: dict[str, Tensor]) -> dict[str, Callable[[], object]]:
    """Returns one step of each optimizer. All move the same weights; that alters no time."""
    weights = list(named.values())

    def ours(optimizer: str) -> Callable[[], object]:
        config = TrainConfig(optimizer=optimizer, learning_rate=RATE)
        made = optim.make_optimizer(named.items(), config)

        def step() -> None:
            scales = optim.tensor_scales(named, rms_scaled=config.scales_rates)
            optim.set_rates(made, RATE, scales)
            made.step()

        return step

    return {
        "HF Adafactor, as Chat-LM-small": Adafactor(weights, relative_step=True).step,
        "torch AdamW, loop": torch.optim.AdamW(weights, lr=RATE, foreach=False).step,
        "torch AdamW, foreach": torch.optim.AdamW(weights, lr=RATE, foreach=True).step,
        "torch AdamW, fused": torch.optim.AdamW(weights, lr=RATE, fused=True).step,
        "ours: optimizer=adamw, RMS-scaled": ours("adamw"),
        "ours: optimizer=muon": ours("muon"),
    }


def torch_muon(named: dict[str, Tensor]) -> Callable[[], object]:
    """Returns a step of torch.optim.Muon for our matrices and of fused AdamW for the others."""
    matrices = [tensor for name, tensor in named.items() if is_for_muon(name, tensor)]
    others = [tensor for name, tensor in named.items() if not is_for_muon(name, tensor)]
    optimizers = (torch.optim.Muon(matrices, lr=RATE), torch.optim.AdamW(others, fused=True))
    return lambda: [optimizer.step() for optimizer in optimizers]


def newton_schulz(matrices: Sequence[Tensor], rounds: int) -> dict[str, dict[str, float]]:
    """Returns what some ways to orthogonalise all matrices of the layers cost and reach.

    Measured on one stack of each shape and multiplied by the number of stacks. The accuracy is that
    for singular values that fall as 1 / k, about as the momentum's do.
    """
    counts = Counter(tuple(sorted(matrix.shape)) for matrix in matrices)
    stacks = {shape: falling(shape, count) for shape, count in counts.items()}
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "5 of Jordan's, bfloat16": lambda stack: whole_products(stack.bfloat16(), STEPS).float(),
        "5 of Jordan's": lambda stack: whole_products(stack, STEPS),
        "5 of Jordan's by blocks: ours": orthogonalize,
        "4 nearest to 1 by blocks": lambda stack: orthogonalize(stack, NEAREST[4]),
        "3 nearest to 1 by blocks": lambda stack: orthogonalize(stack, NEAREST[3]),
    }
    found = {name: {"seconds": 0.0, "cpu_seconds": 0.0} for name in ways}
    singular: dict[str, list[Tensor]] = {name: [] for name in ways}
    for shape, stack in stacks.items():
        calls = {name: partial(way, stack) for name, way in ways.items()}
        for name, times in medians(calls, rounds).items():
            for key, value in times.items():
                found[name][key] += value * counts[shape] / len(stack)
            singular[name].append(torch.linalg.svdvals(ways[name](stack)).flatten())
    for name, values in singular.items():
        together = torch.cat(values)
        found[name] |= {
            "mean_distance_from_1": (together - 1).abs().mean().item(),
            "smallest": together.min().item(),
            "largest": together.max().item(),
        }
    return found


def falling(shape: tuple[int, ...], count: int) -> Tensor:
    """Returns as many matrices as Muon stacks at a time, with singular values 1, 1/2, 1/3, ..."""
    rows, columns = shape
    number = min(count, max(1, LARGEST_STACK["cpu"] // (rows * columns)))
    left, _ = torch.linalg.qr(torch.randn(number, rows, rows))
    right, _ = torch.linalg.qr(torch.randn(number, columns, rows))
    return (left / torch.arange(1, rows + 1)) @ right.mT


def whole_products(stack: Tensor, steps: Sequence[Quintic]) -> Tensor:
    """Returns what `orthogonalize` does, without using that two of three products are symmetric."""
    states = stack / torch.linalg.vector_norm(stack, dim=(1, 2), keepdim=True)
    for a, b, c in steps:
        gram = torch.bmm(states, states.mT)
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        states = torch.baddbmm(states, factor, states, beta=a)
    return states


def medians(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Runs the calls in turn, `rounds` times after one that makes their states."""
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start, used = time.perf_counter(), time.process_time()
            call()
            if number:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - used)
    return {
        name: {
            "seconds": statistics.median(wall[name]),
            "cpu_seconds": statistics.median(cpu[name]),
        }
        for name in calls
    }


def report(found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Prints the two tables."""
    console = Console(width=100)
    table = Table("optimizer", "seconds", "CPU s", title="one step alone")
    for name, one in found["optimizers"].items():
        table.add_row(name, f"{one['seconds']:.3f}", f"{one['cpu_seconds']:.3f}")
    console.print(table)
    table = Table("polynomials", "CPU s", "mean |s - 1|", "range of s", title="Newton-Schulz alone")
    for name, one in found["newton_schulz"].items():
        bounds = f"{one['smallest']:.2f} to {one['largest']:.2f}"
        distance = f"{one['mean_distance_from_1']:.3f}"
        table.add_row(name, f"{one['cpu_seconds']:.3f}", distance, bounds)
    console.print(table)


if __name__ == "__main__":
    cli.run(main)
