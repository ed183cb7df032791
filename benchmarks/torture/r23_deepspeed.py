"""R23: DeepSpeed killed, and gone on with under another stage, another process count, or none.

A run of 100 steps is killed again and again, half of the times in the middle of an optimizer step
(all processes at once), half inside a save, and started again with the next launch of a fixed
round: ZeRO-2 on two processes, then on one, ZeRO-1 on two, no DeepSpeed at all, ZeRO-1 on one,
ZeRO-3 on two. Every sample must have been learnt from exactly once an epoch, the same in each step
as without kills, and no loss of a step may be off by more than 1e-3 of it (level E3). A second run
stays with ZeRO-2 on two processes; whether it has the bits of an uninterrupted one is a figure.
"""

import importlib
import math
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.torture import faults, fed
from benchmarks.torture.outcome import checkpoint_steps
from benchmarks.torture.victim import ROOT, STEPS_PER_EPOCH, Outcome, Result, Workbench

COUNTS = {"full": 20, "slice": 0}
SECONDS = 6.0
TITLE = "DeepSpeed killed; processes 2, 1, 2 and stages changed"
ZERO1, ZERO2 = str(ROOT / "runs" / "zero1.yaml"), str(ROOT / "accelerate.yaml")
ZERO3 = str(ROOT / "runs" / "zero3.yaml")
STEADY = {"config": ZERO2, "ranks": 2}
ROUND = (
    STEADY,
    {"config": ZERO2, "ranks": 1},
    {"config": ZERO1, "ranks": 2},
    {"config": "", "ranks": 1},
    {"config": ZERO1, "ranks": 1},
    {"config": ZERO3, "ranks": 2},
)
STEPS = 100
LARGEST_DIFFERENCE = 1e-3
KILLS_OF_ONE_RUN = 10
TENSORS = 26
"""Of the tiny model: DeepSpeed moves them one by one."""
STEADY_SHARE = 4
"""One kill of so many hits the run that stays with its launch."""


def run(count: int, bench: Workbench) -> Result:
    """Kills `count` times."""
    importlib.import_module("deepspeed")  # once, and not in every fork
    whole = bench.reference(max_steps=STEPS, **STEADY)
    failures, differences, bits = [], [], []
    steady = max(1, count // STEADY_SHARE)
    done = 0
    while done < count and not failures:
        left = count - done
        stays = left <= steady
        kills = min(left if stays else left - steady, KILLS_OF_ONE_RUN)
        folder = bench.new_run("r23")
        killed, outcome = _killed(bench, folder, kills, whole, (STEADY,) if stays else ROUND)
        done += killed
        wrong, difference = _wrong(bench, folder, outcome, whole)
        failures += [f"{folder.name}: {one}" for one in wrong]
        differences.append(difference)
        if stays:
            bits.append(outcome.difference(whole) or "equal bits")
    figures: dict[str, Any] = {
        "largest_relative_difference": max(differences),
        "steps": STEPS,
        "same_launch": bits,
    }
    return Result("R23", TITLE, done, failures, figures)


def _killed(
    bench: Workbench,
    folder: Path,
    kills: int,
    whole: Outcome,
    launches: Sequence[Mapping[str, Any]],
) -> tuple[int, Outcome]:
    """Starts a run until it ends, killed so often; returns how often it was, and its outcome."""
    for number in range(kills):
        how = launches[number % len(launches)]
        # Near enough for the kills to be spread over the run.
        ahead = (STEPS - max(checkpoint_steps(folder), default=0)) / (kills - number + 1)
        after = bench.random.uniform(0.2, 1) * ahead
        if number % 2:
            operations = math.ceil(after * len(whole.operations) / STEPS)
            inject = faults.die_at(folder, operations)
        else:
            each = TENSORS if how["config"] else 1
            inject = _die_in_step(how["ranks"] - 1, math.ceil(after * each))
        victim = bench.start(folder, inject=inject, max_steps=STEPS, **how)
        victim.wait_rank(0, 120)
        victim.kill()
        outcome = victim.outcome()
        if outcome.exit_code != -signal.SIGKILL:  # it failed, or ended before it was killed
            return number, outcome
    how = launches[kills % len(launches)]
    return kills, bench.finish(folder, max_steps=STEPS, **how)


def _die_in_step(rank: int, number: int) -> faults.Inject:
    """Kills all processes at once when `rank` has moved so many tensors (DeepSpeed: one by one)."""

    def inject(here: int) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        moved = 0

        def count(*_: object) -> None:
            nonlocal moved
            moved += 1
            if moved == number:
                os.killpg(0, signal.SIGKILL)

        if here == rank:
            register_optimizer_step_post_hook(count)

    return inject


def _wrong(
    bench: Workbench, folder: Path, outcome: Outcome, whole: Outcome
) -> tuple[list[str], float]:
    """Returns what was not as promised, and the largest relative difference of a loss."""
    if outcome.exit_code:
        return [f"exit codes {outcome.exit_codes}: {outcome.last_line()}"], 0.0
    steps = fed.history(bench.attempts(folder))
    expected = fed.history(bench.attempts(whole.run)[-1:])
    wrong = fed.wrong_counts(steps, bench.rows(), STEPS_PER_EPOCH)
    wrong += [
        f"step {step} learnt from other samples than without kills"
        for step in range(1, STEPS + 1)
        if sorted(steps.get(step, ())) != sorted(expected[step])
    ]
    pairs = [(outcome.losses.get(step), whole.losses[step]) for step in whole.losses]
    if any(own is None for own, _ in pairs):
        return [*wrong, "metrics.jsonl lacks steps"], 0.0
    both = [(float.fromhex(str(own)), float.fromhex(other)) for own, other in pairs]
    difference = max(abs(own - other) / other for own, other in both)
    if difference > LARGEST_DIFFERENCE:
        wrong.append(f"a loss is off by {difference:.1e} of it")
    return wrong, difference
