"""What a person sees of a running training.

In: figures, a few times a second at most. Out: a progress bar on a terminal, plain lines elsewhere.
Only the main process shows anything. It writes no file.
"""

import sys
import time
from collections.abc import Mapping
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from chatlm import log
from chatlm.dataset.batches import Step


def figures(record: Mapping[str, float]) -> str:
    """Returns the figures of a step as short text."""
    formats = {
        "loss": "loss {:.3f}",
        "learning_rate": "lr {:.2e}",
        "tokens_per_second": "{:,.0f} tok/s",
        "grad_norm": "norm {:.2f}",
        "peak_gib": "{:.2f} GiB",
    }
    return "  ".join(text.format(record[key]) for key, text in formats.items() if key in record)


class TrainingProgress:
    """A bar with ETA, loss, rate and speed; one plain line a call when stderr is no terminal."""

    def __init__(self, total_steps: int, start: int, *, visible: bool) -> None:
        self._total = total_steps
        self._visible = visible
        self._bar: Progress | None = None
        if visible and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
                refresh_per_second=2,
            )
            self._task = self._bar.add_task("", total=total_steps, completed=start)

    def __enter__(self) -> "TrainingProgress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, step: int) -> None:
        """Moves the bar to the number of finished steps."""
        if self._bar:
            self._bar.update(self._task, completed=step)

    def show(self, step: int, record: Mapping[str, float], seconds_left: float) -> None:
        """Shows the figures of a step."""
        if self._bar:
            self._bar.update(self._task, description=figures(record))
        elif self._visible:
            left = f"{seconds_left / 60:.1f} min left"
            log.info(f"step {step}/{self._total}  {figures(record)}  {left}")

    def note(self, text: str) -> None:
        """Shows one line above the bar."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self._visible:
            log.info(text)


class Window:
    """Sums between two log lines: nats, tokens, seconds."""

    def __init__(self) -> None:
        self.loss_sum = torch.zeros(())
        self.norm: Tensor | float = 0.0
        self.target_tokens = self.tokens = self.steps = 0
        self._started = time.monotonic()

    def add(self, result: tuple[Tensor, Tensor | float], step: Step) -> None:
        """Adds what one step gave: its summed loss here, and the norm of its gradient."""
        loss_sum, self.norm = result
        self.loss_sum = loss_sum + self.loss_sum.to(loss_sum.device)
        self.target_tokens += step.num_target_tokens
        self.tokens += step.num_tokens
        self.steps += 1

    def seconds(self) -> float:
        """Returns the seconds since the window was opened."""
        return time.monotonic() - self._started


def peak_gib(device: torch.device) -> float:
    """Returns the peak memory of this process: of the GPU, or resident on a CPU, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
