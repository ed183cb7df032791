"""The pairs of a bad step, written down for a person to look at.

In: the rows of a step and why it was bad. Out: `<run>/inspect/step_000123.json` with the texts as
the model saw them, lengths, and the loss of each pair alone where the model can compute it. It
decides nothing; it is called where a step has been judged already.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from chatlm.dataset.batches import collate
from chatlm.dataset.order import Rows
from chatlm.dataset.token_store import TokenStore
from chatlm.health import memory
from chatlm.model.trainee import Trainee
from chatlm.tokenizer import Tokenizer

FOLDER = "inspect"
MOST_FILES = 20
"""Single bad steps are written down until there are so many; the last of a run always is."""


@dataclass(frozen=True)
class BadStep:
    """A step that was bad. `step` counts from 1; `loss` is nats a target token of all its pairs."""

    step: int
    why: str
    loss: float
    norm: float
    learning_rate: float
    microbatch_tokens: int


def path_of(run: Path, step: int) -> Path:
    """Returns where the pairs of a step are written down."""
    return run / FOLDER / f"step_{step:06d}.json"


def write(
    run: Path,
    bad: BadStep,
    store: TokenStore,
    tokenizer: Tokenizer,
    rows: Rows,
    losses: Sequence[float | None],
) -> Path:
    """Writes the pairs of a step down and returns the file; main process only.

    Args:
        run: the run folder.
        bad: the step.
        store: the training pairs.
        tokenizer: what turned them into tokens.
        rows: of the step, in training order.
        losses: of each pair, as `pair_losses` gives them.
    """
    pairs = [
        _pair(store, tokenizer, int(row), loss) for row, loss in zip(rows, losses, strict=True)
    ]
    record = {key: _plain(value) for key, value in asdict(bad).items()} | {"pairs": pairs}
    path = path_of(run, bad.step)
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".tmp-{path.name}")
    text = json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False)
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)
    return path


def has_room(run: Path) -> bool:
    """Says whether one more single bad step should be written down."""
    return len(list((run / FOLDER).glob("step_*.json"))) < MOST_FILES


def _pair(store: TokenStore, tokenizer: Tokenizer, row: int, loss: float | None) -> dict[str, Any]:
    source, target = store.sources[row].tolist(), store.targets[row].tolist()
    return {
        "row": row,
        "loss": _plain(loss),
        "source_tokens": len(source),
        "target_tokens": len(target),
        "prompt": tokenizer.decode(source),
        "response": tokenizer.decode(target),
    }


def _plain(value: Any) -> Any:
    """Returns a value as JSON can hold it: what is not finite as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


@torch.no_grad()
def pair_losses(model: Trainee, store: TokenStore, rows: Rows) -> list[float | None]:
    """Returns the loss of each pair alone, in nats a target token, without dropout.

    With the weights as they are: those that the bad step was computed with. A pair that does not
    fit into memory has none.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    found: list[float | None] = []
    for index in range(len(rows)):
        batch = collate(store, rows[index : index + 1]).to(device)
        output = memory.attempt(partial(model, *batch.tensors()))
        is_short = isinstance(output, memory.Shortage)
        found.append(None if is_short else output.loss_sum.item() / len(batch.labels))
    model.train(was_training)
    return found
