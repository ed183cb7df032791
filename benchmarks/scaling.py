"""Measures what a second process brings, and what its talking with the first costs.

In: a shape and a batch. Out: a table, then one line of JSON. Two processes of one thread each, on
one CPU machine with gloo, in turns, one step each a round:

    alone         one process takes the step, the other waits
    side by side  both take half of the step each and never speak: what the machine gives two
    together      the same halves with DDP: gradients are summed, once a step

Efficiency against `alone` is tokens a second over twice those of one process; it also holds what
two processes take from each other (one memory, or two threads of one core). Against `side by side`
it holds the cost of communication alone. Weights are random, lengths made up after real pairs.

    python benchmarks/scaling.py rounds=9 pairs=64 microbatches=1
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from chatlm import cli

WAYS = ("alone", "side by side", "together")
PROCESSES = 2
RANK = "CHATLM_SCALING_RANK"


@dataclass(frozen=True)
class Settings:
    """Settings of `benchmarks/scaling.py`."""

    rounds: int = field(default=9, metadata={"help": "steps of every way"})
    pairs: int = field(default=64, metadata={"help": "of a step, both processes together"})
    microbatches: int = field(default=1, metadata={"help": "that a process cuts its half into"})
    d_model: int = field(default=512, metadata={"help": "with d_ff twice as large"})
    layers: int = field(default=6, metadata={"help": "of the encoder, and of the decoder"})
    vocab_size: int = field(default=29298, metadata={"help": "entries of the table"})


def lengths(count: int, seed: int) -> tuple[Any, Any]:
    """Returns source and target lengths, spread as those of real pairs (means 24 and 103)."""
    generator = np.random.default_rng(seed)
    sources = generator.gamma(3.0, 8.0, count).astype(np.int64).clip(2, 256)
    targets = generator.gamma(3.0, 34.0, count).astype(np.int64).clip(2, 256)
    return sources, targets


def work(settings: Settings, rank: int) -> dict[str, Any]:
    """Is one of the two processes; returns the seconds of its steps and what it sent."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from chatlm import optim
    from chatlm.config import TrainConfig
    from chatlm.model.config import ModelConfig
    from chatlm.model.t5 import T5

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    torch.manual_seed(0)
    shape = ModelConfig(
        vocab_size=settings.vocab_size,
        d_model=settings.d_model,
        d_ff=2 * settings.d_model,
        num_heads=settings.d_model // 64,
        num_layers=settings.layers,
        num_decoder_layers=settings.layers,
        feed_forward_proj="gated-gelu",
    )
    model = T5(shape)
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = optim.make_optimizer(model.named_parameters(), TrainConfig(optimizer="adamw"))
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    whole = _batches(settings, 0, 1)
    half = _batches(settings, rank, PROCESSES)

    def step(module: Callable[..., Any], batches: Sequence[Any]) -> None:
        for index, batch in enumerate(batches):
            if module is wrapped:
                wrapped.require_backward_grad_sync = index == len(batches) - 1
            module(*batch.tensors()).loss_sum.backward()
        optimizer.step()
        optimizer.zero_grad()

    ways: dict[str, tuple[Callable[..., Any], Sequence[Any]]] = {
        "alone": (model, whole if rank == 0 else []),
        "side by side": (model, half),
        "together": (wrapped, half),
    }
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(settings.rounds + 1):
        for name in WAYS:
            dist.barrier()
            started = time.perf_counter()
            if name != "alone" or rank == 0:
                step(*ways[name])
            if number:  # the first round makes the optimizer's moments
                seconds[name].append(time.perf_counter() - started)
    sent = _counted(model, half)
    dist.barrier()  # nobody leaves while the other still sums
    return {"seconds": seconds, "sent": sent}


def _batches(settings: Settings, rank: int, processes: int) -> list[Any]:
    """Returns the microbatches of one process, of random ids."""
    import torch

    from chatlm.dataset.batches import Batch
    from chatlm.dataset.packing import split

    sources, targets = lengths(settings.pairs, seed=0)
    tokens = int(sources.sum() + targets.sum())
    largest = -(-tokens // (settings.microbatches * PROCESSES)) + 512
    generator = torch.Generator().manual_seed(rank)
    batches = []
    for group in split(sources, targets, largest, processes)[rank::processes]:
        sides = (sources[group.positions], targets[group.positions])
        offsets = [torch.from_numpy(np.append(0, side.cumsum()).astype(np.int32)) for side in sides]
        ids = [
            torch.randint(3, settings.vocab_size, (int(side.sum()),), generator=generator)
            for side in sides
        ]
        batches.append(Batch(*ids, *offsets))
    return batches


def _counted(model: Any, batches: Sequence[Any]) -> dict[str, int]:
    """Returns what one step of DDP sums over the processes: in how many calls, and bytes."""
    import torch
    from torch.distributed import GradBucket  # pyright: ignore[reportPrivateImportUsage]
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from torch.nn.parallel import DistributedDataParallel

    found = {"calls": 0, "bytes": 0}

    def counting(group: Any, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        found["calls"] += 1
        found["bytes"] += bucket.buffer().nbytes
        return allreduce_hook(group, bucket)

    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    # The first backward pass finds out in which order gradients come, and lays out the buckets.
    wrapped(*batches[0].tensors()).loss_sum.backward()
    wrapped.register_comm_hook(torch.distributed.group.WORLD, counting)
    for index, batch in enumerate(batches):
        wrapped.require_backward_grad_sync = index == len(batches) - 1
        wrapped(*batch.tensors()).loss_sum.backward()
    return found


def figures(settings: Settings, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the medians and what follows from them."""
    sources, targets = lengths(settings.pairs, seed=0)
    tokens = int(sources.sum() + targets.sum())
    slower = {
        # A step has ended when both processes have.
        name: [max(pair) for pair in zip(*(one["seconds"][name] for one in found), strict=True)]
        for name in WAYS
    }
    speed = {name: tokens / statistics.median(times) for name, times in slower.items()}
    return asdict(settings) | {
        "tokens_of_a_step": tokens,
        "tokens_per_second": {name: round(value, 1) for name, value in speed.items()},
        "seconds": {name: statistics.median(times) for name, times in slower.items()},
        "speedup": speed["together"] / speed["alone"],
        "efficiency_against_alone": speed["together"] / speed["alone"] / PROCESSES,
        "efficiency_against_side_by_side": speed["together"] / speed["side by side"],
        "gradient_bytes_a_step": found[0]["sent"]["bytes"],
        "reductions_a_step": found[0]["sent"]["calls"],
    }


def launch(argv: Sequence[str]) -> list[dict[str, Any]]:
    """Runs this script as both processes; returns what each found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    # Large arrays in huge pages; read by torch when it is imported.
    shared |= {"THP_MEM_ALLOC_ENABLE": os.environ.get("THP_MEM_ALLOC_ENABLE", "1")}
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, *argv],
            env=os.environ | shared | {RANK: str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    outputs = [worker.communicate()[0] for worker in workers]
    failed = [worker.returncode for worker in workers if worker.returncode]
    if failed:
        raise RuntimeError(f"a process ended with {failed[0]}; its message is above")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def table(found: dict[str, Any]) -> Table:
    """Returns the figures as a table."""
    made = Table(title=f"{found['tokens_of_a_step']} tokens a step, one thread a process")
    for column in ("way", "s a step", "tokens/s", "of alone"):
        made.add_column(column, justify="left" if column == "way" else "right")
    speed = found["tokens_per_second"]
    for name in WAYS:
        share = f"{speed[name] / speed['alone']:.2f}x"
        made.add_row(name, f"{found['seconds'][name]:.3f}", f"{speed[name]:,.0f}", share)
    made.caption = (
        f"efficiency {found['efficiency_against_alone']:.0%} of two such processes, "
        f"{found['efficiency_against_side_by_side']:.0%} of two that do not speak; "
        f"{found['gradient_bytes_a_step'] / 1e6:,.1f} MB of gradients in "
        f"{found['reductions_a_step']} reductions a step"
    )
    return made


def main(argv: Sequence[str]) -> int:
    """Runs the measurement and prints it; in one of its processes, takes part."""
    settings = cli.parse(argv, Settings)
    if RANK in os.environ:
        print(json.dumps(work(settings, int(os.environ[RANK]))), flush=True)
        # A thread of gloo may wait for the interpreter, to let go of the hook that counts, and
        # whoever takes the group apart waits for that thread.
        os._exit(0)
    found = figures(settings, launch(argv))
    Console().print(table(found))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    cli.run(main)
