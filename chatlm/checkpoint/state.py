"""How far a run is: what a checkpoint knows beside its tensors.

In: the trainer's progress. Out: state.json and back. Everything else that a run depends on is a
pure function of its settings and of what stands here: no random state is kept, and no clock.
Imports no torch.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import starmap
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import ujson

from chatlm import untrusted
from chatlm.checkpoint.manifest import expected
from chatlm.errors import CheckpointError

STATE = "state.json"
_MOST = 1 << 62


@dataclass(frozen=True)
class State:
    """How far a run is. Format 1 ends with `engine`; what came later has a default.

    Attributes:
        step: Optimizer steps taken.
        samples: Training pairs seen.
        best_step: The step with the lowest loss on the valid part, 0 before the first.
        best_loss: That loss, in nats a token.
        data: sha256 of the training pairs.
        tokenizer: The tokenizer's fingerprint.
        num_processes: How many processes saved it.
        run_seconds: Time spent training.
        engine: The engine's name.
        config: sha256 of the settings that alter the result.
        ledger: Chained sha256 over the row numbers of all steps so far: the same chain is the same
            pairs in the same order.
        skipped_steps: Steps whose gradients were thrown away.
        window: Sums since the last line of metrics.jsonl, floats as hex.
        microbatch_tokens: The size of a microbatch, which halves when memory runs out.
        bad_steps: How many of the last steps in a row were not finite.
        losses: The losses of the last steps, as hex.
        environment: What the bits of a sum depend on (libraries, threads, processes, device).
        valid: sha256 of the validation pairs.
        settings: The settings that alter the result, by which a change can be named.
    """

    step: int
    samples: int
    best_step: int
    best_loss: float
    data: str
    tokenizer: str
    num_processes: int
    run_seconds: float
    engine: str = ""
    config: str = ""
    ledger: str = ""
    skipped_steps: list[int] = field(default_factory=list)
    window: dict[str, Any] = field(default_factory=dict)
    microbatch_tokens: int = 0
    bad_steps: int = 0
    losses: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    valid: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


def write_state(folder: Path, state: State) -> None:
    """Writes state.json."""
    (folder / STATE).write_text(to_json(state), encoding="utf-8")


def to_json(state: State) -> str:
    """Returns the text of state.json; an infinite best loss is null there."""
    content: dict[str, Any] = asdict(state)
    if state.best_loss == float("inf"):
        content["best_loss"] = None
    return ujson.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


def read_state(folder: Path) -> State:
    """Returns a checkpoint's progress.

    Raises:
        CheckpointError: state.json is missing, damaged, or of another shape.
    """
    path, must_be = folder / STATE, expected(folder, STATE)
    try:
        content = untrusted.read_bytes(path)
        if must_be and hashlib.sha256(content).hexdigest() != must_be.sha256:
            raise ValueError("it is not what the manifest says")
        return _from_json(content.decode("utf-8"))
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"{path} is missing or unreadable ({untrusted.reason(error)}): this folder can be used "
            "with finetune=True init_from=, but not resumed"
        ) from error


def _from_json(text: str) -> State:
    content = ujson.loads(text)
    if not isinstance(content, Mapping):
        raise TypeError("it is no JSON object")
    known = {one.name for one in fields(State)}
    if unknown := sorted(content.keys() - known):
        raise TypeError(f"unknown fields {', '.join(unknown)}")
    best = content.get("best_loss")
    values = {**content, "best_loss": float("inf") if best is None else best}
    for name, value in values.items():
        if not _fits(name, value):
            raise TypeError(f"{name} cannot be {untrusted.shown(value)}")
    return State(**values)


def _fits(name: str, value: Any) -> bool:
    """Tells whether a field can have a value at all."""
    hint = get_type_hints(State)[name]
    kind = get_origin(hint) or hint
    if kind is float:
        return type(value) in (int, float) and value >= 0
    if kind is int:
        return type(value) is int and 0 <= value < _MOST
    if name == "skipped_steps":
        return isinstance(value, list) and all(type(step) is int for step in value)
    if name == "losses":
        return isinstance(value, list) and all(map(_is_hex, value))
    if name == "window":
        return isinstance(value, dict) and all(starmap(_is_sum, value.items()))
    return isinstance(value, kind)


def _is_sum(name: str, value: Any) -> bool:
    """Tells whether a window can have such a sum: a count, or a float as hex."""
    is_count = type(value) is int and name not in ("nats", "norm", "kl")
    return is_count or (_is_hex(value) and name != "target_tokens")


def _is_hex(value: Any) -> bool:
    """Tells whether a value is a float as hex."""
    try:
        float.fromhex(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
