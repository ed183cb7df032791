"""How long does a checkpoint hold a training up, in the foreground and beside it?

    python benchmarks/saving.py [rounds=5] [optimizer=adamw] [folder=/tmp] [model.d_model=256 ...]

In: the shape of a model; its weights and moments are random. Out: a table and one line of JSON:
bytes, seconds until a checkpoint is on the disk, seconds that the loop stands still, how much
slower its computing is meanwhile and how long Python does not get its turn, and memory. The
library's own writer is beside it for comparison. The first save in the background fills fresh
memory, which the later ones use again. `copy` is what the loop would stand still for if it waited
for the copies; it only does so where it would change the tensors, half a second later. Medians of
the rounds.
"""

import json
import resource
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from chatlm import cli
from chatlm.checkpoint.saver import Saver, Snapshot
from chatlm.checkpoint.state import State
from chatlm.engines import moments
from chatlm.model.config import ModelConfig
from chatlm.model.hf import T5Layout
from chatlm.model.t5 import T5
from chatlm.optim.groups import is_for_muon
from chatlm.tokenizer import Tokenizer

SMALL = ModelConfig(
    d_model=256,
    d_kv=32,
    d_ff=768,
    num_heads=8,
    num_layers=2,
    num_decoder_layers=2,
    feed_forward_proj="gated-gelu",
)
WIDTH = 384
"""Of the matrices of a step."""
TURN_SECONDS = 0.0005
UPDATE_SECONDS = 0.5
"""After so long the loop wants to change its tensors: the length of a step."""


@dataclass(frozen=True)
class Settings:
    """Settings of this benchmark."""

    rounds: int = field(default=5, metadata={"help": "of every measurement"})
    optimizer: str = field(default="adamw", metadata={"help": "adamw or muon"})
    folder: str = field(default="/tmp", metadata={"help": "where checkpoints are written"})
    model: ModelConfig = field(default_factory=lambda: SMALL)


@dataclass(frozen=True)
class Live:
    """The tensors that a training changes."""

    model: ModelConfig
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    tokenizer: Tokenizer

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(one.nbytes for one in [*self.weights.values(), *self.moments.values()])

    def snapshot(self, step: int, memory: dict[str, Tensor]) -> Snapshot:
        """Returns copies, as an engine makes them."""
        weights = moments.copied(self.weights.items(), keep=True, memory=memory)
        remembered = moments.copied(self.moments.items(), keep=True, memory=memory)
        state = State(step, step, 0, float("inf"), "", "", 1, 0.0)
        return Snapshot(state, weights, remembered, T5Layout(self.model), self.tokenizer, {})


def make(settings: Settings) -> Live:
    """Returns random weights and the moments that an optimizer has of them."""
    torch.manual_seed(0)
    weights = {name: one.detach() for name, one in T5(settings.model).named_parameters()}
    remembered: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if settings.optimizer == "muon" and is_for_muon(name, weight):
            remembered[moments.key(name, "momentum")] = torch.rand_like(weight)
        else:
            for moment in ("exp_avg", "exp_avg_sq"):
                remembered[moments.key(name, moment)] = torch.rand_like(weight)
    tokenizer = Tokenizer.train(["三加四等于七。"] * 3, 366)
    return Live(settings.model, weights, remembered, tokenizer)


class Loop:
    """A training loop in this thread: products, and turns of Python in between."""

    def __init__(self) -> None:
        self._left, self._right = torch.randn(WIDTH, WIDTH), torch.randn(WIDTH, WIDTH)
        self.steps: list[float] = []

    def until(self, is_over: Callable[[], bool]) -> None:
        """Computes until then."""
        while not is_over():
            started = time.perf_counter()
            torch.mm(self._left, self._right)
            self.steps.append(time.perf_counter() - started)


def longest_turns(is_over: Callable[[], bool]) -> list[float]:
    """Returns how much longer than asked for each short sleep took: who holds the interpreter?"""
    late: list[float] = []
    while not (late and is_over()):
        started = time.perf_counter()
        time.sleep(TURN_SECONDS)
        late.append(time.perf_counter() - started - TURN_SECONDS)
    return sorted(late)


def beside(
    act: Callable[[], object], watch: Callable[[Callable[[], bool]], list[float]]
) -> list[float]:
    """Acts in a thread while `watch` runs in this one; returns what `watch` found."""
    thread = threading.Thread(target=act)
    thread.start()
    found = watch(lambda: not thread.is_alive())
    thread.join()
    return found


def foreground(live: Live, run: Path, rounds: int) -> list[float]:
    """Returns seconds of saves that the loop waits for, copies included."""
    saver, seconds = Saver(run, keep=2, background=False), []
    for step in range(rounds):
        started = time.perf_counter()
        saver.save(partial(live.snapshot, step, saver.memory()), 0)
        seconds.append(time.perf_counter() - started)
    return seconds


def background(live: Live, run: Path, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Returns seconds of standing still, of saves until they are done, and of steps meanwhile."""
    saver = Saver(run, keep=2, background=True)
    stalls, seconds, loop = [], [], Loop()
    for step in range(rounds + 1):
        started = time.perf_counter()
        saver.save(partial(live.snapshot, step, saver.memory()), 0)
        stall = time.perf_counter() - started
        loop.until(lambda end=started + UPDATE_SECONDS: time.perf_counter() > end)
        before_update = time.perf_counter()
        saver.wait_until_taken()
        stalls.append(stall + time.perf_counter() - before_update)
        thread = saver._thread
        assert thread is not None
        loop.until(lambda thread=thread: not thread.is_alive())
        saver.wait()
        seconds.append(time.perf_counter() - started)
    saver.close()
    return stalls, seconds, loop.steps


def quiet_steps(seconds: float) -> list[float]:
    """Returns seconds of steps while nothing is saved."""
    loop, end = Loop(), time.perf_counter() + seconds
    loop.until(lambda: time.perf_counter() > end)
    return loop.steps


def measure(live: Live, run: Path, rounds: int) -> dict[str, float]:
    """Returns all figures, times in seconds."""
    before = _peak_bytes()
    waited = foreground(live, run, rounds)
    after_foreground = _peak_bytes()
    stalls, seconds, busy = background(live, run, rounds)
    after_background = _peak_bytes()
    whole, quiet = statistics.median(waited), quiet_steps(0.5)
    memory: dict[str, Tensor] = {}
    copies = [_seconds(lambda: live.snapshot(0, memory)) for _ in range(rounds + 1)]
    snapshot = live.snapshot(0, memory)
    saver = Saver(run, keep=2, background=False)
    ours = beside(lambda: saver.save(lambda: snapshot, 0), longest_turns)
    everything = {**snapshot.weights, **snapshot.moments}
    theirs = beside(lambda: save_file(everything, run / "library"), longest_turns)
    return {
        "bytes": live.nbytes,
        "foreground": whole,
        "stall": statistics.median(stalls[1:]),
        "first_stall": stalls[0],
        "fresh_copy": copies[0],
        "copy": statistics.median(copies[1:]),
        "stall_share": statistics.median(stalls[1:]) / whole,
        "background": statistics.median(seconds[1:]),
        "step": statistics.median(quiet),
        "step_while_saving": statistics.median(busy),
        "longest_wait_for_python": ours[-1],
        "longest_wait_for_python_library": theirs[-1],
        "more_memory_foreground": after_foreground - before,
        "more_memory_background": after_background - before,
    }


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def main(argv: Sequence[str]) -> int:
    """Measures, and prints the table and the line of JSON."""
    settings = cli.parse(argv, Settings)
    torch.set_num_threads(1)
    live = make(settings)
    run = Path(tempfile.mkdtemp(prefix="saving-", dir=settings.folder))
    try:
        found = measure(live, run, settings.rounds)
    finally:
        shutil.rmtree(run)
    report(found)
    weights = sum(one.numel() for one in live.weights.values())
    print(json.dumps({"weights": weights, "settings": asdict(settings)} | found))
    return 0


def report(found: dict[str, float]) -> None:
    """Prints the table."""
    table = Table("figure", "value")
    for name, value in found.items():
        if name == "bytes" or name.startswith("more_memory"):
            table.add_row(name.replace("_", " "), f"{value / 1e6:.1f} MB")
        elif name == "stall_share":
            table.add_row("stall / foreground", f"{value:.1%}")
        else:
            table.add_row(name.replace("_", " "), f"{value * 1e3:.2f} ms")
    Console(stderr=True).print(table)


if __name__ == "__main__":
    cli.run(main)
