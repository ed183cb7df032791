"""R13: memory that runs out at random microbatches, and for real.

The step must be computed again in smaller microbatches: every rank the same pairs as without the
fault, each once, and the loss of the step within 1e-6. Three kinds of failure are raised inside the
model, in the forward and the backward pass; in a fourth the kernel refuses memory to a larger
model. A run that cannot be made to fit must say so.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.torture import faults, sickness
from benchmarks.torture.victim import STEPS_PER_EPOCH, Outcome, Result, Workbench

COUNTS = {"full": 26, "slice": 1}
SECONDS = 3.0
TITLE = "out of memory at random microbatches"
LARGEST_DIFFERENCE = 1e-6
CALM: dict[str, Any] = {"model__dropout_rate": 0.0, "observe": False}
# A model whose microbatches need memory that has to be asked for.
LARGE: dict[str, Any] = CALM | {
    "model__d_model": 128,
    "model__d_ff": 1024,
    "batch_size": 64,
    "microbatch_tokens": 4096,
    "gradient_shares": 1,
    "max_steps": 6,
    "keep_checkpoints": 2,
}
KINDS = ("forward", "kernel", "never", "backward", "cpu", "backward")
SICK = 70


def run(count: int, bench: Workbench) -> Result:
    """Injects `count` times."""
    failures: list[str] = []
    differences: list[float] = []
    halvings: list[int] = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        ranks = bench.random.choice((1, 1, 2, 4)) if kind != "kernel" else 1
        problems = (
            _gives_up(bench, ranks)
            if kind == "never"
            else _case(bench, kind, ranks, differences, halvings)
        )
        failures += [f"{kind}, {ranks} ranks: {one}" for one in problems]
    figures = {
        "largest_difference_of_the_step": max(differences, default=0.0),
        "halvings": sum(halvings),
    }
    return Result("R13", TITLE, count, failures, figures)


def _case(
    bench: Workbench, kind: str, ranks: int, differences: list[float], halvings: list[int]
) -> list[str]:
    how: dict[str, Any] = (LARGE if kind == "kernel" else CALM) | {"ranks": ranks}
    whole = bench.reference(**how)
    last = len(whole.losses)
    step = bench.random.randint(1, last)
    folder, record = bench.new_run("r13"), bench.folder / f"fed-{bench.random.getrandbits(40):x}"
    if kind == "kernel":
        fault = sickness.limited_memory(step, bench.random.randint(2, 12) << 20)
    else:
        # The last step of an epoch is short: its microbatches can be halved once.
        most = 1 if step % STEPS_PER_EPOCH == 0 else 2
        microbatch = bench.random.randint(1, 2 if ranks < 4 else 1)  # of four ranks each has one
        attempts = bench.random.randint(1, most)
        rank = bench.random.randrange(ranks)
        fault = sickness.out_of_memory(kind, step, microbatch, attempts, rank)
    inject = faults.together([sickness.fed_once(record), fault])
    outcome = bench.start(folder, inject=inject, **how).outcome()
    if outcome.exit_code or outcome.hung:
        return [f"exit codes {outcome.exit_codes}: {outcome.last_line()}"]
    found = [line for line in outcome.ledger if line["event"] == "halving"]
    halvings.append(len(found))
    if not found and kind != "kernel":
        return ["nothing was halved"]
    problems = []
    if found:
        step = found[0]["step"]
        one, other = (float.fromhex(each.losses[step]) for each in (outcome, whole))
        differences.append(abs(one / other - 1))
        if differences[-1] > LARGEST_DIFFERENCE:
            problems.append(f"the loss of step {step} differs by {differences[-1]:.1e}")
    problems += _wrong_pairs(bench, record, how, outcome)
    return problems


def _wrong_pairs(
    bench: Workbench, record: Path, how: dict[str, Any], outcome: Outcome
) -> list[str]:
    """Compares what each step was given with what a run without the fault gives it."""
    calm = bench.folder / f"fed-calm-{how['ranks']}-{'model__d_ff' in how}"
    if not list(calm.parent.glob(f"{calm.name}-*")):
        bench.start(bench.new_run("r13-calm"), inject=sickness.fed_once(calm), **how).outcome()
    one, other = _given(record), _given(calm)
    wrong = [step for step in sorted(one.keys() | other.keys()) if one.get(step) != other.get(step)]
    if not one or len(one) != len(outcome.losses):
        return [f"{len(one)} steps were applied"]
    return [f"step {wrong[0]} was given other pairs"] if wrong else []


def _given(record: Path) -> dict[int, Counter[str]]:
    """Returns the digests of the pairs of each step, of all ranks."""
    found: dict[int, Counter[str]] = {}
    for path in record.parent.glob(f"{record.name}-[0-9]"):
        for line in path.read_text().splitlines():
            step, digests = json.loads(line)
            found.setdefault(step, Counter()).update(digests)
    return found


def _gives_up(bench: Workbench, ranks: int) -> list[str]:
    """One pair at a time does not fit: the run ends, says so, and can go on later."""
    folder, step = bench.new_run("r13-never"), bench.random.randint(6, 20)
    how: dict[str, Any] = CALM | {"ranks": ranks}
    inject = sickness.out_of_memory("forward", step, 1, 10**6, bench.random.randrange(ranks))
    outcome = bench.start(folder, inject=inject, **how).outcome()
    if set(outcome.exit_codes) != {SICK} or "even with one pair at a time" not in outcome.log:
        return [f"exit codes {outcome.exit_codes}: {outcome.last_line()}"]
    again = bench.finish(folder, **how)
    return [] if again.exit_code == 0 else [f"started again: {again.last_line()}"]
