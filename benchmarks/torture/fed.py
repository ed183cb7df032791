"""What a training was really given to learn from, seen at the model itself.

In: a process that is about to train. Out: one line for each optimizer step, with a digest of every
pair that the model saw in training mode since the step before. It knows nothing of loaders: the
digests are of the tokens that reached the model, and `rows_of` tells which row of the store has
them. A line is in the file when the step has been applied, also if the process is killed then.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def digest(source: Iterable[int], labels: Iterable[int]) -> str:
    """Returns the name of a pair: it depends on its tokens alone."""
    text = f"{list(source)}{list(labels)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def rows_of(store: Any) -> dict[str, int]:
    """Returns digest -> row of a token store.

    Raises:
        ValueError: two rows have the same tokens.
    """
    found: dict[str, int] = {}
    for row in range(len(store)):
        ids = [
            ragged.ids[ragged.offsets[row] : ragged.offsets[row + 1]].tolist()
            for ragged in (store.sources, store.targets)
        ]
        found[digest(*ids)] = row
    if len(found) != len(store):
        raise ValueError("two rows have the same tokens: they cannot be told apart")
    return found


def observe(path: Path) -> None:
    """Notes into `path` what every T5 of this process learns from, from now on."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    from chatlm.model.t5 import IGNORE_INDEX, T5

    seen: list[str] = []

    def note(module: "torch.nn.Module", arguments: tuple[Any, ...]) -> None:
        if isinstance(module, T5) and module.training:
            sources, labels, starts, targets = (tensor.tolist() for tensor in arguments)
            places = zip(pairwise(starts), pairwise(targets), strict=True)
            for (one, other), (start, end) in places:
                if end > start and labels[start] != IGNORE_INDEX:
                    seen.append(digest(sources[one:other], labels[start:end]))

    register_module_forward_pre_hook(note)
    write_when_applied(path, taker(seen))


def taker(seen: list[Any]) -> Callable[[], list[Any]]:
    """Returns a function that empties the list and returns what was in it."""

    def take() -> list[Any]:
        found = seen.copy()
        seen.clear()
        return found

    return take


def write_when_applied(path: Path, seen: Callable[[], Sequence[Any]]) -> None:
    """Appends a line `[step, seen()]` whenever an optimizer of this process has taken a step."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def applied(optimizer: "torch.optim.Optimizer", *_: object) -> None:
        os.write(descriptor, json.dumps([_steps(optimizer), list(seen())]).encode() + b"\n")

    register_optimizer_step_post_hook(applied)


def _steps(optimizer: "torch.optim.Optimizer") -> int:
    """Returns how many steps have been applied to the weights, those before a resume too."""
    for state in optimizer.state.values():
        return int(state["step"])
    raise ValueError("the optimizer counts no steps: observe AdamW")


def history(attempts: Sequence[Sequence[Path]]) -> dict[int, list[str]]:
    """Returns step (from 1) -> digests, as they went into the weights that a run ends with.

    Args:
        attempts: for each start of the run, in order, the files of its ranks. A later attempt does
            all steps after the checkpoint that it loads again, so the last one to note a step is
            the one that counts.
    """
    steps: dict[int, list[str]] = {}
    for files in attempts:
        own: dict[int, list[str]] = {}
        for path in files:
            for step, digests in _lines(path):
                own.setdefault(step, []).extend(digests)
        steps.update(own)
    return steps


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    if not path.exists():
        return []
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()]


def wrong_counts(
    steps: Mapping[int, Sequence[str]], rows: Mapping[str, int], steps_per_epoch: int
) -> list[str]:
    """Returns a sentence for each sample of an epoch that was lost or repeated; none is right.

    The last epoch may be unfinished: there a sample may be missing, but not repeated.
    """
    epochs: dict[int, list[int]] = {}
    problems = []
    last = max(steps, default=0)
    for step in range(1, last + 1):
        if step not in steps:
            problems.append(f"step {step} was never applied")
        given = [rows[one] for one in steps.get(step, ())]
        epochs.setdefault((step - 1) // steps_per_epoch, []).extend(given)
    for epoch, given in epochs.items():
        repeated = len(given) - len(set(given))
        whole = last >= (epoch + 1) * steps_per_epoch
        lost = len(set(rows.values()) - set(given)) if whole else 0
        if repeated or lost:
            problems.append(f"epoch {epoch}: {lost} samples lost, {repeated} repeated")
    return problems
