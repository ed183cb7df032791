"""What a person sees of a running stage.

In: the tasks of a stage and their receipts. Out: a bar with rate and time left on a terminal; in
the end, if it took long, one line. It writes no file.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from chatlm import log
from chatlm.corpus.tasks import Receipt, Task

_LONG_SECONDS = 5


class StageProgress:
    """Shows one stage; use it with `with`. Results with `rows_in` give a rate in rows."""

    def __init__(self, title: str, tasks: Sequence[Task], done: Mapping[int, Receipt]) -> None:
        self._title = title
        self._num_tasks = len(tasks)
        self._num_found = len(done)
        self._rows = 0
        self._bar: Progress | None = None
        if sys.stderr.isatty() and len(done) < len(tasks):
            self._bar = Progress(
                TextColumn(title),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("{task.fields[parts]}"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("{task.fields[rate]}"),
                console=Console(stderr=True),
                refresh_per_second=2,
                transient=True,
            )
            self._id = self._bar.add_task(
                title,
                total=sum(task.weight for task in tasks),
                completed=sum(tasks[index].weight for index in done),
                parts=f"{len(done)}/{len(tasks)}",
                rate="",
            )
        self._num_ended = len(done)

    def __enter__(self) -> "StageProgress":
        self._started = time.monotonic()
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
        seconds = time.monotonic() - self._started
        if kind is None and seconds >= _LONG_SECONDS:
            found = f", {self._num_found} were done before" if self._num_found else ""
            tasks = f"{self._num_ended - self._num_found} of {self._num_tasks} tasks"
            log.info(f"{self._title}: {tasks}{found}; {seconds:.1f} s{self._rate(seconds)}")

    def advance(self, task: Task, receipt: Receipt) -> None:
        """Counts a task that has ended."""
        self._num_ended += 1
        rows = receipt.result.get("rows_in", 0)
        self._rows += rows if isinstance(rows, int) else 0
        if self._bar:
            rate = self._rate(time.monotonic() - self._started)
            parts = f"{self._num_ended}/{self._num_tasks}"
            self._bar.update(self._id, advance=task.weight, parts=parts, rate=rate.lstrip(", "))

    def _rate(self, seconds: float) -> str:
        return f", {self._rows / seconds:,.0f} rows/s" if self._rows and seconds > 0 else ""
