"""What a run tells about itself: lines of metrics.jsonl, answers, a curve, and the screen.

In: figures. Out: files of the run folder, from the main process; lines for people. It measures
time and memory and computes nothing else.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from chatlm import log, plot, run_folder
from chatlm.course import Course
from chatlm.progress import TrainingProgress, Window, peak_gib
from chatlm.validation import Figures


class RunLog:
    """The log of one run; `seconds_before` is the time that earlier starts of it took."""

    def __init__(self, run: Path, course: Course, accelerator: Accelerator) -> None:
        self._run, self._course, self._accelerator = run, course, accelerator
        self._started = time.monotonic()
        self.seconds_before = 0.0
        self.bar = TrainingProgress(course.total_steps, 0, visible=False)

    def seconds(self) -> float:
        """Returns the time that the run has taken."""
        return self.seconds_before + time.monotonic() - self._started

    def announce(self, engine: str) -> None:
        """Says what is about to happen."""
        course, order = self._course, self._course.order
        precision = self._accelerator.mixed_precision.replace("no", "fp32")
        log.info(
            f"{order.num_rows} pairs, {course.total_steps} steps of {order.batch_size} pairs "
            f"({course.total_samples / order.num_rows:.1f} epochs) on "
            f"{self._accelerator.num_processes} x {self._accelerator.device.type} in "
            f"{precision}{f' with {engine}' if engine else ''}; run folder {self._run}"
        )

    def progress(self, step: int) -> TrainingProgress:
        """Returns the bar of a run that has taken so many steps, to be entered."""
        main = self._accelerator.is_main_process
        self.bar = TrainingProgress(self._course.total_steps, step, visible=main)
        return self.bar

    def window(self, step: int, window: Window) -> None:
        """Writes the line of some steps."""
        record = {
            "step": step,
            "samples": self._course.order.samples_before(step),
            "epoch": step / self._course.order.steps_per_epoch,
            **window.figures(),
            "learning_rate": self._course.rate(step - 1),
            "tokens_per_second": window.tokens_per_second(),
            "peak_gib": peak_gib(self._accelerator.device),
            "seconds": self.seconds(),
        }
        self._append(record)
        left = (self._course.total_steps - step) * window.seconds_per_step()
        self.bar.show(step, record, left)

    def evaluated(self, step: int, found: Figures) -> None:
        """Writes what a validation found."""
        self._append({"step": step, **found.record()})
        if self._accelerator.is_main_process:
            for sample in found.samples:
                run_folder.append(self._run, run_folder.SAMPLES, {"step": step, **sample})
        self.bar.note(f"step {step}: {found}")

    def tested(self, step: int, lines: Sequence[str], record: Mapping[str, Any]) -> None:
        """Writes what the test questions gave at the end; once, however often a run is ended."""
        main = self._accelerator.is_main_process
        known = main and any(
            line["step"] == step and record.keys() <= line.keys()
            for line in run_folder.metrics(self._run)
        )
        if record and not known:
            self._append({"step": step, **record})
        for line in lines:
            log.info(f"test: {line}")
        log.info(f"finished {step} steps in {self.seconds() / 60:.1f} minutes: {self._run}")

    def draw(self) -> None:
        """Draws the curve of the losses."""
        if self._accelerator.is_main_process:
            plot.save_loss_curve(run_folder.metrics(self._run), self._run / "loss.png")

    def _append(self, record: Mapping[str, Any]) -> None:
        if self._accelerator.is_main_process:
            run_folder.append(self._run, run_folder.METRICS, record)
