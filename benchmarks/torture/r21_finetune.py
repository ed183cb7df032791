"""R21: fine-tunings killed again and again; what is frozen keeps every bit.

Only the decoder moves: the embedding table and the encoder of the run that it starts from must be
found unchanged at the end. Processes are drawn from 1 and 2. (Other kinds of training that keep
something frozen join here when there are any.)
"""

import hashlib
from pathlib import Path

from benchmarks.torture import restarts
from benchmarks.torture.victim import Outcome, Result, Workbench

COUNTS = {"full": 30, "slice": 2}
SECONDS = 2.0
TITLE = "kill -9 in fine-tuning; frozen weights unchanged"
PROCESSES = (1, 2)
FROZEN = ("shared.", "encoder.")


def run(count: int, bench: Workbench) -> Result:
    """Kills `count` times."""
    start = bench.reference().run
    changes = {"finetune": True, "init_from": start, "learning_rate": 5e-3, "max_steps": 16}
    whole = bench.reference(**changes)
    runs = restarts.killed_runs(bench, "r21", count, PROCESSES, whole, **changes)
    failures = [one for run in runs if (one := restarts.wrong(run, whole))]
    before = _frozen(newest(start))
    for outcome in (whole, *(one.outcome for one in runs)):
        failures += _thawed(outcome, before)
    figures = {
        "runs": len(runs),
        "changes_of_processes": sum(one.changes for one in runs),
        "frozen_tensors": len(before),
    }
    return Result("R21", TITLE, sum(one.kills for one in runs), failures, figures)


def _thawed(outcome: Outcome, before: dict[str, str]) -> list[str]:
    """Returns a sentence for each frozen tensor that is not what it was."""
    if not outcome.steps:
        return [f"{outcome.run.name} has no checkpoint"]
    after = _frozen(newest(outcome.run))
    changed = [name for name in before if before[name] != after.get(name)]
    return [f"{outcome.run.name}: frozen {name} has changed" for name in changed]


def newest(run: Path) -> Path:
    """Returns the weights that fine-tuning starts from: those of the best checkpoint."""
    best = (run / "best").read_text().strip()
    return run / best / "model.safetensors"


def _frozen(path: Path) -> dict[str, str]:
    """Returns the sha256 of each frozen tensor."""
    from safetensors.numpy import load_file

    return {
        name: hashlib.sha256(tensor.tobytes()).hexdigest()
        for name, tensor in load_file(path).items()
        if name.startswith(FROZEN)
    }
