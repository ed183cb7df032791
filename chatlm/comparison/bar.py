"""How far a comparison is: a bar on a terminal, nothing elsewhere.

In: the number of answers. Out: the bar, on stderr.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def counted(answers: int) -> Iterator[Callable[[int], None]]:
    """Shows how many of so many answers there are; gives what counts further ones."""
    columns = TextColumn("回答"), BarColumn(bar_width=24), MofNCompleteColumn()
    times = TimeElapsedColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    hidden = not sys.stderr.isatty()
    with Progress(*columns, *times, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("", total=answers)
        yield lambda more: bar.advance(task, more)
