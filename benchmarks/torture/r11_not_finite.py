"""R11: NaN and infinities in data, logits and gradients, of one rank, at any step.

A single bad step must be skipped by all ranks alike: whatever was not finite, on whichever rank,
weights, moments and losses must end with the same bits as when something else was at that step. So
many in a row as end a run must leave it at a checkpoint from before the first, with the pairs of
the last written down; started again without the fault it must end with the bits of a run that
nothing happened to. No file of any checkpoint may ever hold a value that is not finite.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.torture import sickness
from benchmarks.torture.victim import SETTINGS, Outcome, Result, Workbench

COUNTS = {"full": 66, "slice": 2}
SECONDS = 2.0
TITLE = "NaN and infinities in data, logits and gradients"
LAST = int(SETTINGS["max_steps"])
STEPS = (1, LAST // 2, LAST)
KINDS = ("data", "logits", "gradient")
VALUES = (math.nan, math.inf, -math.inf)
MOST_BAD_STEPS = 3
IN_A_ROW = 9
"""One run in so many has too many bad steps in a row."""
SICK = 70


def run(count: int, bench: Workbench) -> Result:
    """Injects `count` times."""
    failures: list[str] = []
    figures = {"single": 0, "in_a_row": 0, "checkpoints_read": 0}
    expected: dict[int, Outcome] = {}
    for number, (step, kind, value, ranks) in zip(range(count), _cases(bench), strict=False):
        rank = bench.random.randrange(ranks)
        case = f"{kind} {value} at step {step} of rank {rank} of {ranks}"
        if number % IN_A_ROW == IN_A_ROW - 1:
            figures["in_a_row"] += 1
            problems = _in_a_row(bench, kind, value, ranks, rank, figures)
        else:
            figures["single"] += 1
            problems = _single(bench, step, kind, value, ranks, rank, expected, figures)
        failures += [f"{case}: {one}" for one in problems]
    return Result("R11", TITLE, count, failures, figures)


def _cases(bench: Workbench) -> Iterator[tuple[int, str, float, int]]:
    """Yields (step, kind, value, ranks): all of them, in random order, again and again."""
    while True:
        cases = [
            (step, kind, value, ranks)
            for step in STEPS
            for kind in KINDS
            for value in VALUES
            for ranks in (1, 2)
        ]
        bench.random.shuffle(cases)
        yield from cases


def _single(
    bench: Workbench,
    step: int,
    kind: str,
    value: float,
    ranks: int,
    rank: int,
    expected: dict[int, Outcome],
    figures: dict[str, int],
) -> list[str]:
    folder = bench.new_run("r11")
    inject = sickness.not_finite(kind, value, {step}, rank)
    outcome = bench.start(folder, ranks=ranks, inject=inject, observe=False).outcome()
    if outcome.exit_code or outcome.hung:
        return [f"exit codes {outcome.exit_codes}: {outcome.last_line()}"]
    first = expected.setdefault(step, outcome)
    difference = outcome.difference(first)
    problems = [difference] if difference else []
    problems += bad_values(folder, figures)
    if skipped(outcome) != [step]:
        problems.append(f"the ledger has {skipped(outcome)} as skipped")
    if outcome.weights == bench.reference(observe=False).weights:
        problems.append("the weights are those of a run that skipped nothing")
    return problems


def _in_a_row(
    bench: Workbench, kind: str, value: float, ranks: int, rank: int, figures: dict[str, int]
) -> list[str]:
    folder = bench.new_run("r11-row")
    first = bench.random.randint(6, LAST - MOST_BAD_STEPS)
    steps = range(first, first + MOST_BAD_STEPS + 1)
    how: dict[str, Any] = {"ranks": ranks, "observe": False, "max_bad_steps": MOST_BAD_STEPS}
    inject = sickness.not_finite(kind, value, steps, rank)
    outcome = bench.start(folder, inject=inject, **how).outcome()
    problems = bad_values(folder, figures)
    if set(outcome.exit_codes) != {SICK}:
        return [f"exit codes {outcome.exit_codes} instead of {SICK}: {outcome.last_line()}"]
    last = first + MOST_BAD_STEPS - 1
    if skipped(outcome) != list(range(first, last + 1)):
        problems.append(f"the ledger has {skipped(outcome)} as skipped, bad were {list(steps)}")
    if outcome.steps and outcome.steps[-1] >= first:
        problems.append(f"the newest checkpoint is of step {outcome.steps[-1]}")
    problems += _wrong_inspection(folder, last, outcome)
    again = bench.finish(folder, **how)
    difference = again.difference(bench.reference(ranks=ranks, observe=False))
    return problems + ([f"started again: {difference}"] if difference else [])


def _wrong_inspection(folder: Path, step: int, outcome: Outcome) -> list[str]:
    """Returns what is wrong with the file that holds the pairs of the last bad step."""
    path = folder / "inspect" / f"step_{step:06d}.json"
    if not path.is_file():
        return [f"{path.name} is missing"]
    pairs = json.loads(path.read_text())["pairs"]
    rows = next(line["rows"] for line in reversed(outcome.ledger) if line["event"] == "skip")
    whole = all(pair["prompt"] and pair["response"] for pair in pairs)
    if [pair["row"] for pair in pairs] != rows or not whole:
        return [f"{path.name} does not hold the pairs of the step"]
    return []


def skipped(outcome: Outcome) -> list[int]:
    """Returns the steps whose gradients were thrown away, in the ledger's order."""
    return [line["step"] for line in outcome.ledger if line["event"] == "skip"]


def bad_values(run: Path, figures: dict[str, int]) -> list[str]:
    """Returns a line for each checkpoint's file that holds a value that is not finite."""
    import torch
    from safetensors.torch import load_file

    found = []
    for file in sorted(run.glob("*step_*/*.safetensors")):
        figures["checkpoints_read"] += 1
        if any(not torch.isfinite(tensor).all() for tensor in load_file(file).values()):
            found.append(f"{file.relative_to(run)} holds a value that is not finite")
    return found
