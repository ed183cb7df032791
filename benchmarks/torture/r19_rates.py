"""R19: the learning rate of every step, for processes and microbatches of any number.

Each case is killed once on its way. The rates that stood in the optimizer and those in
metrics.jsonl are compared with the closed form, written down here once more.
"""

import json
import math
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.torture.faults import Inject
from benchmarks.torture.victim import SETTINGS, Result, Workbench

COUNTS = {"full": 9, "slice": 1}
SECONDS = 3.0
TITLE = "learning-rate trace against the closed form"
MICROBATCH_TOKENS = (256, 128, 64)
"""One microbatch a share, two, and four or more."""
SCHEDULES = ("cosine", "wsd", "constant")
WARMUP, FINAL, DECAY = 0.25, 0.125, 0.5
PAIRS, BATCH = 150, 16
STEPS = 24


def closed_form(step: int, schedule: str) -> float:
    """Returns the rate of a step, counted from 1."""

    def samples(steps: int) -> int:
        epochs, rest = divmod(steps, -(-PAIRS // BATCH))
        return epochs * PAIRS + rest * BATCH

    done = min(1.0, samples(step) / samples(STEPS))
    peak = SETTINGS["learning_rate"]
    if done < WARMUP:
        return peak * (done / WARMUP)
    if schedule == "constant":
        return peak
    if schedule == "cosine":
        left = 0.5 * (1.0 + math.cos(math.pi * min(1.0, (done - WARMUP) / (1.0 - WARMUP))))
    else:
        left = min(1.0, (1.0 - done) / min(DECAY, 1.0 - WARMUP))
    return peak * (FINAL + (1.0 - FINAL) * left)


def run(count: int, bench: Workbench) -> Result:
    """Follows `count` runs, each killed once."""
    cases = [(processes, tokens) for processes in (1, 2, 4) for tokens in MICROBATCH_TOKENS]
    failures: list[str] = []
    compared, farthest = 0, 0.0
    for index, (processes, tokens) in enumerate(bench.random.sample(cases, min(count, 9))):
        schedule = SCHEDULES[index % len(SCHEDULES)]
        folder = bench.new_run("r19")
        changes = {"microbatch_tokens": tokens, "schedule": schedule, "warmup_share": WARMUP}
        changes |= {"final_rate_share": FINAL, "decay_share": DECAY, "rms_scaled": False}
        trace = folder.with_name(f"{folder.name}.rates")
        trace.unlink(missing_ok=True)
        how: dict[str, Any] = {"ranks": processes, **changes, "max_steps": STEPS}
        bench.start(folder, inject=_noting(trace, 13), **how).outcome()
        outcome = bench.finish(folder, inject=_noting(trace, 0), **how)
        name = f"{folder.name} ({processes} processes, microbatch_tokens={tokens}, {schedule})"
        if outcome.exit_code:
            failures.append(f"{name}: {outcome.last_line()}")
            continue
        noted = [json.loads(line) for line in trace.read_text().splitlines()]
        told = {one["step"]: one["learning_rate"] for one in _rates(folder)}
        pairs = [(one["step"], rate) for one in noted for rate in one["rates"]]
        for step, rate in [*pairs, *told.items()]:
            compared += 1
            farthest = max(farthest, abs(rate - closed_form(step, schedule)))
        if set(told) != set(range(1, STEPS + 1)) or {one["step"] for one in noted} != set(told):
            failures.append(f"{name}: not every step has a rate")
    if farthest:
        failures.append(f"a rate is {farthest} beside the closed form")
    figures = {"rates_compared": compared, "largest_deviation": farthest}
    return Result("R19", TITLE, min(count, 9), failures, figures)


def _rates(folder: Path) -> list[Mapping[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for line in lines if "learning_rate" in (record := json.loads(line))]


def _noting(trace: Path, last: int) -> Inject:
    """Notes the rates of all tensors at each step of rank 0, and kills it at step `last`."""

    def inject(rank: int) -> None:
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        def note(optimizer: Any, *_: object) -> None:
            step = 1 + max((int(one["step"]) for one in optimizer.state.values()), default=0)
            rates = sorted({group["lr"] for group in optimizer.param_groups})
            with trace.open("a") as file:
                file.write(json.dumps({"step": step, "rates": rates}) + "\n")
            if step == last:
                os.kill(os.getpid(), signal.SIGKILL)

        if rank == 0:
            register_optimizer_step_pre_hook(note)

    return inject
