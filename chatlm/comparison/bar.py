"""How far a comparison is: a bar on a terminal, nothing elsewhere.

In: numbers of answers. Out: the bar, on stderr.
"""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """Counts the answers of both models; use it with `with`."""

    def __init__(self, num_questions: int, num_general: int, *, has_base: bool) -> None:
        """Takes how many questions there are, and whether two models answer them."""
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("回答"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                refresh_per_second=2,
                transient=True,
            )
            total = (num_questions + num_general) * (2 if has_base else 1)
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> "Bar":
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

    def advance(self, answers: int) -> None:
        """Counts some answers."""
        if self._bar:
            self._bar.advance(self._task, answers)
