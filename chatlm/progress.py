"""What a person sees of a running training.

In: figures, a few times a second at most. Out: a progress bar on a terminal, plain lines elsewhere.
Only the main process shows anything. It writes no file.
"""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

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

from chatlm import log
from chatlm.dataset.batches import Step


def figures(record: Mapping[str, float]) -> str:
    """Returns the figures of a step as short text."""
    formats = {
        "loss": "loss {:.3f}",
        "kl": "KL {:.3f}",
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
    """Sums between two log lines. A checkpoint in between keeps them; the time starts anew."""

    def __init__(self, saved: Mapping[str, Any] | None = None) -> None:
        saved = saved or {}
        self.nats = float.fromhex(saved.get("nats", "0"))
        self.norm = float.fromhex(saved.get("norm", "0"))
        self.kl = float.fromhex(saved["kl"]) if "kl" in saved else None
        self.target_tokens = int(saved.get("target_tokens", 0))
        self._tokens = self._steps = 0
        self._started = time.monotonic()

    def add(self, nats: float, norm: float, step: Step, kl: float | None = None) -> None:
        """Adds a step: its summed loss, the norm of its gradient before clipping, its summed KL.

        A run has a KL in all of its steps, or in none.
        """
        self.nats += nats
        self.norm = norm
        self.kl = None if kl is None else (self.kl or 0.0) + kl
        self.target_tokens += step.num_target_tokens
        self._tokens += step.num_tokens
        self._steps += 1

    def as_state(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps, without rounding."""
        found: dict[str, Any] = {"nats": self.nats.hex(), "norm": self.norm.hex()}
        if self.kl is not None:
            found["kl"] = self.kl.hex()
        return {**found, "target_tokens": self.target_tokens}

    def figures(self) -> dict[str, float]:
        """Returns loss, KL and norm as metrics.jsonl has them; nothing if all steps were skipped.

        Loss and KL are nats a target token. The KL is no part of the loss, and stands there only
        where it is minimized, too.
        """
        if not self.target_tokens:
            return {}
        found = {"loss": self.nats / self.target_tokens}
        if self.kl is not None:
            found["kl"] = self.kl / self.target_tokens
        return {**found, "grad_norm": self.norm}

    def tokens_per_second(self) -> float:
        """Returns the speed of this process's part of the window."""
        return self._tokens / self._seconds()

    def seconds_per_step(self) -> float:
        """Likewise."""
        return self._seconds() / max(1, self._steps)

    def _seconds(self) -> float:
        return max(1e-9, time.monotonic() - self._started)


def peak_gib(device: torch.device) -> float:
    """Returns the peak memory of this process: of the GPU, or resident on a CPU, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
