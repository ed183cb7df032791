"""What one start of a training came to, in a form that can be compared to the bit.

In: a run folder and what its processes printed. Out: `Outcome`. It reads plain files and takes
nothing from the trainer's code, so that a defect there does not hide here.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VOLATILE = ("tokens_per_second", "seconds", "peak_gib", "time", "eta_seconds")
"""Figures that measure the machine, which no two runs share."""


@dataclass
class Outcome:
    """One start of a training.

    `exit_codes` are those of the ranks (negative: the signal that ended one), or of the launcher
    alone. `cpu_seconds` are of all processes. `hung`: had to be killed when the patience was over;
    `orphans`: processes that still ran when the others had ended. `weights` and `moments` are the
    sha256 of the newest checkpoint's files, "" without one. `losses` are the training loss of each
    step as hex; `metrics` all lines of metrics.jsonl without what measures the machine, floats as
    hex; `ledger` the lines of ledger.jsonl.
    """

    run: Path
    exit_codes: list[int]
    log: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    hung: bool = False
    orphans: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    weights: str = ""
    moments: str = ""
    losses: dict[int, str] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    operations: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """The first exit code that is not 0, or 0."""
        return next((code for code in self.exit_codes if code), 0)

    def difference(self, other: "Outcome") -> str:
        """Returns in one line in what the results of two finished runs differ; '' if in no bit."""
        if self.exit_code or other.exit_code:
            return f"exit codes {self.exit_codes} and {other.exit_codes}: {self.last_line()}"
        if self.steps[-1:] != other.steps[-1:]:
            return f"the last checkpoints are of step {self.steps[-1:]} and {other.steps[-1:]}"
        found = [
            f"loss of step {step}: {self.losses.get(step)} and {other.losses.get(step)}"
            for step in sorted(self.losses.keys() | other.losses.keys())
            if self.losses.get(step) != other.losses.get(step)
        ]
        found += [
            f"another sha256 of the {what}"
            for what in ("weights", "moments")
            if getattr(self, what) != getattr(other, what)
        ]
        if not found and self.metrics != other.metrics:
            pairs = zip(self.metrics, other.metrics, strict=False)
            first = next((pair for pair in pairs if pair[0] != pair[1]), None)
            lengths = f"{len(self.metrics)} and {len(other.metrics)} lines"
            found = [f"metrics.jsonl: {first or lengths}"]
        more = f" (and {len(found) - 1} more differences)" if len(found) > 1 else ""
        return f"{found[0]}{more}" if found else ""

    def last_line(self) -> str:
        """Returns the last line that the training printed."""
        return next((line for line in reversed(self.log.splitlines()) if line.strip()), "")


def read_outcome(run: Path, codes: Sequence[int], logs: Sequence[Path]) -> Outcome:
    """Returns what a start left behind."""
    text = "".join(path.read_text(errors="replace") for path in logs if path.exists())
    outcome = Outcome(run, list(codes), text)
    outcome.steps = checkpoint_steps(run)
    if outcome.steps:
        folder = run / f"step_{outcome.steps[-1]:06d}"
        outcome.weights = _sha256(folder / "model.safetensors")
        outcome.moments = _sha256(folder / "optimizer.safetensors")
    records = json_lines(run / "metrics.jsonl")
    outcome.losses = {one["step"]: float(one["loss"]).hex() for one in records if "loss" in one}
    outcome.metrics = [_steady(record) for record in records]
    outcome.ledger = json_lines(run / "ledger.jsonl")
    return outcome


def checkpoint_steps(run: Path) -> list[int]:
    """Returns the steps of the checkpoints that have a manifest, oldest first."""
    return sorted(int(path.parent.name[5:]) for path in run.glob("step_*/MANIFEST.json"))


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a file; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _steady(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.hex() if isinstance(value, float) else value
        for key, value in record.items()
        if key not in VOLATILE
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
