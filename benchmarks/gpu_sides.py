"""One side of `gpu_step.py`: a model, how it computes a step, and what that takes.

In: the settings and the pairs. Out: a row of figures, or the errors of all routes (`check`). It
runs one side in this process and lets its errors rise.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from gpu_batches import GIB, Settings, Work, padded_batches
from torch import Tensor, nn

from chatlm import optim
from chatlm.config import TrainConfig
from chatlm.model.t5 import T5
from chatlm.plan.flops import training_flops

RATE = 1e-4
CLIP_NORM = 1.0
WARM_STEPS = 2
MEASURE_SECONDS = 8.0

PEAK_WIDTH = {"cuda": 8192, "cpu": 512}

Route = tuple[str, str]
ROUTES: dict[str, Route] = {
    "flex": ("t5", "flex"),
    "sdpa": ("t5", "sdpa"),
    "rope": ("rope", "flex"),
}
"""For each of our sides (position, attention)."""


@dataclass(frozen=True)
class Part:
    """A stretch of a step between two marks."""

    name: str
    start: Any
    end: Any


class Marks:
    """Points in time of a device's work; on a GPU they cost no waiting."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.parts: list[Part] = []

    def now(self) -> Any:
        """Returns a mark."""
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Marks the beginning and the end of what is done inside."""
        start = self.now()
        yield
        self.parts.append(Part(name, start, self.now()))

    def seconds(self) -> dict[str, list[float]]:
        """Waits for the device and returns the times of all parts, by name."""
        synchronize(self.device)
        found: dict[str, list[float]] = {}
        for part in self.parts:
            on_cpu = self.device.type == "cpu"
            took = part.end - part.start if on_cpu else part.start.elapsed_time(part.end) / 1000
            found.setdefault(part.name, []).append(took)
        return found


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_side(settings: Settings, work: Work) -> dict[str, Any]:
    """Returns the row of `settings.side`."""
    device = torch.device(settings.device)
    peak = matrix_peak(device)
    make = _hf_side if settings.side.startswith("hf") else _our_side
    passes, optimizer_step = make(settings, work, device)
    marks = Marks(device)
    started = time.perf_counter()
    first_loss, first_norm = _step(passes, optimizer_step, marks)
    row: dict[str, Any] = {"first_loss": float(first_loss), "first_norm": float(first_norm)}
    row["first_step_seconds"] = time.perf_counter() - started
    row["graphs"], _ = compilations()
    for _ in range(WARM_STEPS - 1):
        _step(passes, optimizer_step, marks)
    marks = Marks(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started, done = time.perf_counter(), 0
    while done < settings.steps and time.perf_counter() - started < MEASURE_SECONDS:
        with marks.part("step"):
            _step(passes, optimizer_step, marks)
        synchronize(device)
        done += 1
    seconds = {part: statistics.median(took) for part, took in marks.seconds().items()}
    flops = training_flops(settings.model, work.lengths[:, 0], work.lengths[:, 1])
    graphs, breaks = compilations()
    return row | {
        "tokens_per_second": work.num_tokens / seconds["step"],
        "tflops": flops / seconds["step"] * 1e-12,
        "peak_tflops": peak,
        "milliseconds": {part: 1000 * took for part, took in seconds.items()},
        "passes_a_step": len(passes),
        "steps": done,
        "recompilations": graphs - row["graphs"],
        "graph_breaks": breaks,
        "memory_gib": _memory_gib(device),
    }


def matrix_peak(device: torch.device) -> float:
    """Returns the rate of a large matrix product in 10^12 operations a second, best of ten."""
    width = PEAK_WIDTH[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    left, right = (torch.randn(width, width, device=device, dtype=dtype) for _ in range(2))
    marks = Marks(device)
    for number in range(15):
        with marks.part("warm" if number < 5 else "product"):
            torch.mm(left, right)
    return 2 * width**3 / min(marks.seconds()["product"]) * 1e-12


def compilations() -> tuple[int, int]:
    """Returns how many graphs torch.compile has made so far, and how often it broke one."""
    counters = torch._dynamo.utils.counters
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def _memory_gib(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else None


Passes = list[Callable[[], Tensor]]


def _step(
    passes: Passes, optimizer_step: Callable[[], Tensor], marks: Marks
) -> tuple[Tensor, Tensor]:
    """Does one optimizer step; returns its loss and the norm of its gradient."""
    losses = []
    for forward in passes:
        with marks.part("forward"):
            loss = forward()
        with marks.part("backward"):
            loss.backward()
        losses.append(loss.detach())
    with marks.part("optimizer"):
        norm = optimizer_step()
    return torch.stack(losses).sum(), norm


def autocast(device: torch.device) -> torch.autocast:
    """Returns the precision that sides train in: bf16 on a GPU, fp32 on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def our_model(settings: Settings, work: Work, route: Route, device: torch.device) -> T5:
    """Returns our model; its first weights are the same for all routes of one kind of position."""
    position, attention = route
    torch.manual_seed(settings.seed)
    with device:
        model = T5(replace(settings.model, position=position))
    model.attention, model.longest = attention, work.max_lengths
    return model


def _our_side(
    settings: Settings, work: Work, device: torch.device
) -> tuple[Passes, Callable[[], Tensor]]:
    route, _, mode = settings.side.partition("_")
    model = our_model(settings, work, ROUTES[route], device)
    named = dict(model.named_parameters())
    config = TrainConfig(model=settings.model, optimizer=settings.optimizer)
    optimizer = optim.make_optimizer(named.items(), config)
    scales = optim.tensor_scales(named, rms_scaled=config.scales_rates)
    optim.set_rates(optimizer, RATE, scales)
    called = torch.compile(model, dynamic=False) if mode == "compiled" else model
    if mode == "layers":
        for layer in (*model.encoder.layers, *model.decoder.layers):
            layer.compile(dynamic=False)
    batches = [batch.to(device) for batch in work.batches]
    num_targets = int(work.lengths[:, 1].sum())

    def forward(index: int) -> Tensor:
        with autocast(device):
            return called(*batches[index].tensors()).loss_sum / num_targets

    passes = [lambda index=index: forward(index) for index in range(len(batches))]
    return passes, _stepper(model, optimizer)


def _hf_side(
    settings: Settings, work: Work, device: torch.device
) -> tuple[Passes, Callable[[], Tensor]]:
    """Returns the peer: each batch's loss is the mean over its labels, as its users have it."""
    compiled = settings.side == "hf_compiled"
    # Imported late: it costs seconds, and every other side is a process of its own.
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(**settings.model.to_hf() | {"dropout_rate": 0.0, "use_cache": False})
    config._attn_implementation = "sdpa"
    torch.manual_seed(settings.seed)
    with device:
        model = T5ForConditionalGeneration(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    called = torch.compile(model, dynamic=False) if compiled else model
    pairs = settings.peer_pairs or max(2, int(settings.memory_gib()))
    rows = padded_batches(work, pairs, one_shape=compiled)
    batches = [[part.to(device) for part in batch] for batch in rows]

    def forward(index: int) -> Tensor:
        ids, mask, labels = batches[index]
        with autocast(device):
            loss = called(input_ids=ids, attention_mask=mask, labels=labels).loss
            return loss / len(batches)

    passes = [lambda index=index: forward(index) for index in range(len(batches))]
    return passes, _stepper(model, optimizer)


def _stepper(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], Tensor]:
    def step() -> Tensor:
        norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    return step
