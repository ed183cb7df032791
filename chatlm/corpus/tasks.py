"""What a stage consists of: pure functions of files, one task for each shard.

In: tasks. Out: the result of each, and its output files. A task whose receipt says that it was
done with the same function, parameters, input files and code is not run again. How tasks are spread
over processes or machines is an `Engine`'s; a function must not care.

A task function takes the keyword parameters of its task, writes exactly the files named in
`outputs` (through `store.replacing`, so that they are whole or absent), and returns a dict that
JSON can hold. It must give the same bytes wherever and in whatever order it runs: no time, no
process ids, no environment, no global state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Task:
    """One call of a function on files.

    Attributes:
        name: Unique in its run, a relative path without suffix: `clean/belle/00003`.
        function: Where to find the function: `package.module:function`.
        params: Its keyword arguments, JSON values only (paths as text).
        inputs: The files that it reads.
        outputs: The files that it writes.
    """

    name: str
    function: str
    params: Mapping[str, Any]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = field(default=())


class Engine(Protocol):
    """Runs tasks, in any order, perhaps at the same time."""

    def run(self, tasks: Sequence[Task], title: str) -> list[dict[str, Any]]:
        """Returns the results in the order of `tasks`; `title` is shown to the person waiting."""
        ...


def call(task: Task) -> dict[str, Any]:
    """Runs a task here and now and returns its result."""
    module, _, name = task.function.partition(":")
    return getattr(import_module(module), name)(**task.params)


class HereAndNow:
    """The simplest engine: one task after another in this process, nothing remembered."""

    def run(self, tasks: Sequence[Task], title: str) -> list[dict[str, Any]]:
        """Returns the results in the order of `tasks`."""
        return [call(task) for task in tasks]
