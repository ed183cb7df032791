"""What a stage consists of: pure functions of files, one task for each shard.

In: tasks. Out: the result of each, and its output files. How tasks are spread over processes or
machines is an `Executor`'s (see `executors`), and a function must not care; which of them still
have to run is `Engine`'s, by receipts: a task that was done with the same function, parameters,
inputs and code, and whose outputs still have the recorded hashes, is not run again.

A task function takes the keyword parameters of its task, writes exactly the files named in
`outputs` (through `store.replacing`, so that they are whole or absent), and returns a dict that
JSON can hold. It must give the same bytes wherever and in whatever order it runs: no time, no
process ids, no environment, no global state.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import orjson

from chatlm import log
from chatlm.corpus.store import file_sha256, replacing
from chatlm.errors import ChatLMError

Result = dict[str, Any]
Ended: TypeAlias = "Receipt | ChatLMError"
"""What became of a task: its receipt, or what is wrong with its input."""


@dataclass(frozen=True, slots=True)
class Task:
    """One call of a function on files.

    Attributes:
        name: Unique in its run, a relative path without suffix: `clean/belle/00003`.
        function: Where to find the function: `package.module:function`.
        params: Its keyword arguments, JSON values only (paths as text).
        inputs: The files that it reads and other tasks wrote.
        outputs: The files that it writes. A task that writes nothing is run every time.
        weight: How long it takes beside the others, in any unit: heavy ones start first.
    """

    name: str
    function: str
    params: Mapping[str, Any]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    weight: int = 1


class Executor(Protocol):
    """Runs tasks, in any order, perhaps at the same time."""

    def execute(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Ended]]:
        """Yields (index of the task, receipt or what it raised) as they end."""
        ...

    def close(self) -> None:
        """Ends the processes that were started."""
        ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a finished task returned and wrote; `outputs` maps a path to its sha256."""

    result: Result
    outputs: dict[str, str]


def call(task: Task) -> Ended:
    """Runs a task here and now; an error that its user can mend is returned."""
    module, _, name = task.function.partition(":")
    try:
        result = getattr(import_module(module), name)(**task.params)
    except ChatLMError as error:
        return error
    return Receipt(result, {path: file_sha256(Path(path)) for path in task.outputs})


class HereAndNow:
    """One task after another in this process."""

    def execute(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Ended]]:
        """Yields (index of the task, receipt or what it raised) in order."""
        for index, task in enumerate(tasks):
            yield index, call(task)

    def close(self) -> None:
        """Does nothing: no process was started."""


class Engine:
    """Runs the tasks that are not done yet, and remembers; use it with `with`.

    Args:
        executor: Where the tasks run.
        folder: Where receipts are kept; None remembers nothing and runs everything.
    """

    def __init__(self, executor: Executor | None = None, folder: Path | None = None) -> None:
        self._executor = executor or HereAndNow()
        self._folder = folder
        self._sha256 = dict[str, str]()
        self.num_run = 0
        """How many tasks with outputs had to run so far."""

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.close()

    def run(self, tasks: Sequence[Task], title: str) -> list[Result]:
        """Returns the results in the order of `tasks`; `title` is shown to the person waiting.

        Raises:
            ChatLMError: What a task raised; the receipts of those that ended before stay.
        """
        results = list[Result]()
        for result in self._ended(tasks, title, is_strict=True):
            assert not isinstance(result, ChatLMError)
            results.append(result)
        return results

    def attempt(self, tasks: Sequence[Task], title: str) -> list[Result | ChatLMError]:
        """Returns the result of each task, or what it raised; an error does not stop the others."""
        return self._ended(tasks, title, is_strict=False)

    def _ended(
        self, tasks: Sequence[Task], title: str, *, is_strict: bool
    ) -> list[Result | ChatLMError]:
        from chatlm.corpus.progress import StageProgress

        receipts = {i: found for i, task in enumerate(tasks) if (found := self._found(task))}
        waiting = [index for index in range(len(tasks)) if index not in receipts]
        waiting.sort(key=lambda index: -tasks[index].weight)
        errors = dict[int, ChatLMError]()
        with StageProgress(title, tasks, receipts) as progress:
            for place, ended in self._executor.execute([tasks[index] for index in waiting]):
                index = waiting[place]
                if isinstance(ended, ChatLMError):
                    if is_strict:
                        raise ended
                    errors[index] = ended
                    continue
                receipts[index] = ended
                self._remember(tasks[index], ended)
                self.num_run += bool(tasks[index].outputs)
                progress.advance(tasks[index], ended)
        for receipt in receipts.values():
            self._sha256.update(receipt.outputs)
        return [
            errors[index] if index in errors else receipts[index].result
            for index in range(len(tasks))
        ]

    def sha256(self, path: str) -> str:
        """Returns the hash of a file that one of the tasks wrote."""
        return self._sha256[path]

    def know(self, sha256: Mapping[str, str]) -> None:
        """Tells the hashes of files that an earlier run wrote and that were checked."""
        self._sha256.update(sha256)

    def _key(self, task: Task) -> str:
        """Returns the hash of everything that decides the outputs of a task."""
        inputs = [[path, self._sha256.get(path) or file_sha256(Path(path))] for path in task.inputs]
        parts = [task.function, dict(task.params), inputs, list(task.outputs), code_sha256()]
        return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def _found(self, task: Task) -> Receipt | None:
        """Returns the receipt of a task that is done and whose outputs are still what they were."""
        if self._folder is None or not task.outputs:
            return None
        try:
            content = orjson.loads((self._folder / f"{task.name}.json").read_bytes())
            receipt = Receipt(content["result"], content["outputs"])
            if content["key"] != self._key(task) or set(receipt.outputs) != set(task.outputs):
                return None
            changed = [p for p, sha256 in receipt.outputs.items() if file_sha256(Path(p)) != sha256]
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
            return None  # No receipt, or not a whole one: the task runs.
        if changed:
            log.warning(f"{changed[0]} is not what was written: it is made again")
            return None
        return receipt

    def _remember(self, task: Task, receipt: Receipt) -> None:
        if self._folder is None or not task.outputs:
            return
        content = {"key": self._key(task), "result": receipt.result, "outputs": receipt.outputs}
        with replacing(self._folder / f"{task.name}.json") as file:
            file.write(orjson.dumps(content, option=orjson.OPT_INDENT_2))


@cache
def code_sha256() -> str:
    """Returns the hash of the code that turns raw files into pairs."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
