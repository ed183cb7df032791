"""Times one training step of ours beside the peers', on the same real pairs, in one run.

In: a parquet file of pairs, a tokenizer folder, a shape. Out: a table, then one line of JSON. Every
round takes fresh random pairs and runs each side on them once, so that a noisy machine disturbs all
sides alike; the figures are medians. Useful tokens are source and target tokens that are no
padding. MFU is `chatlm.plan.flops` over time over the best matrix product of the same run.

Sides: `hf`, transformers' T5ForConditionalGeneration as Chat-LM-small trained it (padded to the
longest, dropout 0.1, Adafactor with relative steps); `nanot5`, the model of a nanoT5 checkout
(padded, no dropout, untied head, fused AdamW); `ours`, on the same pairs; `ours_large`, our step of
four times as many pairs. One thread; denormals flushed and huge pages asked for on all sides.

    python benchmarks/train_step.py data=pairs.parquet tokenizer=data/tokenizer nanot5=checkout
"""

import importlib.util
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import Adafactor, T5Config, T5ForConditionalGeneration

from chatlm import cli, optim
from chatlm.config import TrainConfig
from chatlm.corpus import store
from chatlm.errors import ConfigError
from chatlm.model.config import ModelConfig
from chatlm.model.t5 import IGNORE_INDEX, T5
from chatlm.plan.flops import training_flops
from chatlm.tokenizer import Tokenizer

Pair = tuple[list[int], list[int]]
Step = Callable[[list[Pair]], None]
LARGER = 4


@dataclass(frozen=True)
class Settings:
    """Settings of `benchmarks/train_step.py`."""

    data: str = field(metadata={"help": "parquet file of pairs"})
    tokenizer: str = field(default="data/tokenizer", metadata={"help": "a saved tokenizer"})
    nanot5: str = field(default="", metadata={"help": "checkout of nanoT5; empty: left out"})
    sides: str = field(default="", metadata={"help": "only these, comma-separated"})
    rounds: int = field(default=7, metadata={"help": "measured, after one that is not"})
    batch_size: int = field(default=16, metadata={"help": "pairs a step"})
    max_tokens: int = field(default=512, metadata={"help": "longer sources and targets are cut"})
    compile: bool = field(default=False, metadata={"help": "torch.compile our model"})
    memory: bool = field(default=True, metadata={"help": "peak memory too, a process a side"})
    seed: int = field(default=0, metadata={"help": "decides weights and batches"})
    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(
            d_model=512, d_ff=1024, num_heads=8, num_layers=6, num_decoder_layers=6,
            feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip


def read_pairs(settings: Settings, tokenizer: Tokenizer, count: int) -> list[Pair]:
    """Returns `count` random pairs as ids, EOS included, in a reproducible order."""
    rows: list[tuple[str, str]] = []
    for batch in store.read_pairs(Path(settings.data), ("prompt", "response"), 100_000):
        rows += zip(batch["prompt"].to_pylist(), batch["response"].to_pylist(), strict=True)
    if len(rows) < count:
        raise ConfigError(
            f"{settings.data} has {len(rows)} pairs, {count} are needed: fewer rounds"
        )
    chosen = random.Random(settings.seed).sample(rows, count)
    sides = (tokenizer.encode_batch(list(texts)) for texts in zip(*chosen, strict=True))
    cut = settings.max_tokens - 1
    finished = ([[*ids[:cut], tokenizer.eos_id] for ids in side] for side in sides)
    return list(zip(*finished, strict=True))


def padded(pairs: list[Pair]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ids, mask and labels, padded to the longest, as the peers take them."""
    sources, targets = zip(*pairs, strict=True)
    ids = torch.zeros(len(pairs), max(map(len, sources)), dtype=torch.long)
    labels = torch.full((len(pairs), max(map(len, targets))), IGNORE_INDEX)
    for row, (source, target) in enumerate(pairs):
        ids[row, : len(source)] = torch.tensor(source)
        labels[row, : len(target)] = torch.tensor(target)
    return ids, (ids != 0).long(), labels


def flat(pairs: list[Pair]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns ids, labels and both offsets, as our model takes them."""
    sources, targets = zip(*pairs, strict=True)
    ids = (torch.tensor([token for row in side for token in row]) for side in (sources, targets))
    offsets = (
        torch.tensor([0, *accumulate(map(len, side))], dtype=torch.int32)
        for side in (sources, targets)
    )
    return (*ids, *offsets)


def hf_step(settings: Settings) -> Step:
    """Returns the step that Chat-LM-small ran, on today's transformers."""
    torch.manual_seed(settings.seed)
    config = T5Config(**settings.model.to_hf() | {"dropout_rate": 0.1})
    model = T5ForConditionalGeneration(config).train()
    optimizer = Adafactor(model.parameters(), relative_step=True, scale_parameter=True, lr=None)
    return _peer_step(model, optimizer)


def nanot5_step(settings: Settings) -> Step:
    """Returns a step of nanoT5's model; its head is untied, so it has more weights than ours."""
    path = Path(settings.nanot5) / "nanoT5" / "utils" / "t5_model.py"
    spec = importlib.util.spec_from_file_location("nanot5_model", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"nanot5={settings.nanot5}: expected a checkout with {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.T5Stack.get_extended_attention_mask = _extended_mask
    module.T5Stack.invert_attention_mask = _inverted_mask
    torch.manual_seed(settings.seed)
    config = T5Config(**settings.model.to_hf() | {"dropout_rate": 0.0})
    config.tie_word_embeddings = False
    model = module.MyT5(config).train()
    return _peer_step(model, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True))


def _inverted_mask(_stack: torch.nn.Module, mask: Tensor) -> Tensor:
    """Stands in for a method that nanoT5 inherits from transformers and version 5 has dropped."""
    return (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min


def _extended_mask(stack: Any, mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """As `_inverted_mask`; in a decoder the future is hidden too."""
    seen = mask[:, None, None, :].float()
    if stack.is_decoder:
        seen = seen * torch.ones(shape[1], shape[1]).tril()
    return (1.0 - seen) * torch.finfo(torch.float32).min


def _peer_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    def step(pairs: list[Pair]) -> None:
        ids, mask, labels = padded(pairs)
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(settings: Settings) -> Step:
    """Returns our step with fused AdamW, its rates relative to each tensor's root mean square."""
    torch.manual_seed(settings.seed)
    model = T5(settings.model)
    config = TrainConfig(model=settings.model, optimizer="adamw")
    named = dict(model.named_parameters())
    optimizer = optim.make_optimizer(named.items(), config)
    called = torch.compile(model, dynamic=True) if settings.compile else model

    def step(pairs: list[Pair]) -> None:
        optim.set_rates(optimizer, 1e-4, optim.tensor_scales(named, rms_scaled=True))
        output = called(*flat(pairs))
        (output.loss_sum / output.num_tokens).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def product_seconds(rows: int, inner: int, columns: int) -> float:
    """Returns the CPU time of one matrix product, the median of nine."""
    left, right, out = (
        torch.ones(rows, inner),
        torch.ones(inner, columns),
        torch.ones(rows, columns),
    )
    times = []
    for _ in range(9):
        start = time.process_time()
        torch.mm(left, right, out=out)
        times.append(time.process_time() - start)
    return statistics.median(times)


def gflops_of_products(settings: Settings) -> dict[str, float]:
    """Returns the rate of a large square product and of one of the model's own shapes."""
    shapes = {"square 2048": (2048, 2048, 2048), "q,k,v": (2048, settings.model.d_model, 1536)}
    return {name: 2e-9 * m * k * n / product_seconds(m, k, n) for name, (m, k, n) in shapes.items()}


def flops(settings: Settings, pairs: list[Pair]) -> float:
    """Returns what training on the pairs takes, padding not counted."""
    sources, targets = zip(*pairs, strict=True)
    return training_flops(settings.model, [*map(len, sources)], [*map(len, targets)])


def sides_of(settings: Settings) -> dict[str, Step]:
    """Returns the sides that were asked for, each ready to run."""
    makers = {"hf": hf_step, "nanot5": nanot5_step, "ours": our_step, "ours_large": our_step}
    if not settings.nanot5:
        del makers["nanot5"]
    chosen = settings.sides.split(",") if settings.sides else list(makers)
    if not set(chosen) <= set(makers):
        raise ConfigError(f"sides={settings.sides}: expected some of {','.join(makers)}")
    return {name: makers[name](settings) for name in chosen}


def run(settings: Settings) -> dict[str, Any]:
    """Returns the medians of all sides."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    tokenizer = Tokenizer.load(settings.tokenizer)
    size = settings.batch_size
    pairs = read_pairs(settings, tokenizer, (settings.rounds + 1) * size * LARGER)
    sides = sides_of(settings)
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    products: list[dict[str, float]] = []
    waste = []
    for number in range(settings.rounds + 1):
        own = pairs[number * size * LARGER :][: size * LARGER]
        for name, step in sides.items():
            batch = own if name == "ours_large" else own[:size]
            start = time.process_time()
            step(batch)
            seconds = time.process_time() - start
            if number:  # the first round warms up
                tokens = sum(len(source) + len(target) for source, target in batch)
                rates[name].append((tokens / seconds, flops(settings, batch) / seconds * 1e-9))
        ids, _, labels = padded(own[:size])
        real = sum(len(source) + len(target) for source, target in own[:size])
        waste.append(1 - real / (ids.numel() + labels.numel()))
        products.append(gflops_of_products(settings))
    peak = max(statistics.median(one[name] for one in products) for name in products[0])
    found = {
        name: {
            "tokens_per_second": round(statistics.median(rate for rate, _ in own), 1),
            "mfu": round(statistics.median(gflops for _, gflops in own) / peak, 4),
        }
        for name, own in rates.items()
    }
    return {
        "sides": found,
        "peak_gflops": round(peak, 1),
        "padding_of_the_peers": round(statistics.mean(waste), 4),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        "rounds": settings.rounds,
        "batch_size": size,
        "parameters": settings.model.num_parameters(),
    }


def peaks(argv: Sequence[str], sides: Sequence[str]) -> dict[str, float]:
    """Returns the peak memory of a process that runs two steps of one side, in GiB."""
    found = {}
    for name in sides:
        own = [f"sides={name}", "rounds=1", "memory=False"]
        kept = [one for one in argv if one.partition("=")[0] not in ("sides", "rounds", "memory")]
        done = subprocess.run(
            [sys.executable, __file__, *kept, *own], capture_output=True, text=True, check=True
        )
        found[name] = json.loads(done.stdout.splitlines()[-1])["peak_gib"]
    return found


def show(found: dict[str, Any]) -> None:
    """Prints the table."""
    sides = found["sides"]
    table = Table(title=f"training step, {found['parameters'] / 1e6:.1f}M parameters, one thread")
    for column in ("side", "useful tokens/s", "MFU", "peak GiB", *(f"x {name}" for name in sides)):
        table.add_column(column, justify="left" if column == "side" else "right")
    for name, own in sides.items():
        ratios = (own["tokens_per_second"] / other["tokens_per_second"] for other in sides.values())
        table.add_row(
            name,
            f"{own['tokens_per_second']:,.0f}",
            f"{own['mfu']:.1%}",
            f"{own.get('peak_gib', math.nan):.2f}",
            *(f"{ratio:.2f}" for ratio in ratios),
        )
    console = Console(width=100)
    console.print(table)
    console.print(
        f"best product {found['peak_gflops']} GFLOP/s; the peers' batches are "
        f"{found['padding_of_the_peers']:.1%} padding, ours none"
    )


def main(argv: Sequence[str]) -> int:
    """Runs the comparison and prints it."""
    if any(token in ("-h", "--help") for token in argv):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(Settings)}")
        return 0
    settings = cli.parse(argv, Settings)
    found = run(settings)
    if settings.memory:
        for name, peak in peaks(argv, list(found["sides"])).items():
            found["sides"][name]["peak_gib"] = peak
    show(found)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    cli.run(main)
