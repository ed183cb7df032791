"""R1: kill -9 at any time and inside saves, restart, kill again, until the run ends.

Three of five kills come at a uniformly random time, two of five inside a save: half of those just
before a file operation, half while one is under way. A run is started again each time with the
command that would also start it anew. At its end weights, moments and every loss must have the
bits of an uninterrupted run of as many processes, and no kill may have cost more than one save
interval and what was computed while an unfinished save was being written.
"""

import math
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.torture import faults, fed, whole
from benchmarks.torture.outcome import checkpoint_steps
from benchmarks.torture.victim import SETTINGS, Outcome, Result, Victim, Workbench

if TYPE_CHECKING:
    import torch

COUNTS = {"full": 200, "slice": 8}
SECONDS = 1.3
TITLE = "kill -9 at random times and inside saves"
INTERVAL = int(SETTINGS["save_every_steps"])
LONGEST_CHAIN = 12
RANKS = (1, 1, 1, 1, 1, 1, 1, 2, 2, 4)
LONGEST_DELAY = 0.002
CHANGED_STEP = 20


@dataclass
class Kills:
    """What is still to be done, and what has been seen."""

    left: list[str]
    done: dict[str, int] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    started_anew: int = 0
    chains: int = 0
    orphans: int = 0

    def figures(self) -> dict[str, object]:
        """Returns the figures by name."""
        return {
            "kills": self.done,
            "runs": self.chains,
            "largest_loss_in_steps": max(self.lost, default=0),
            "save_interval_in_steps": INTERVAL,
            "started_anew": self.started_anew,
            "orphans": self.orphans,
        }


def run(count: int, bench: Workbench) -> Result:
    """Kills `count` times."""
    inside = count * 2 // 5
    kinds = ["random"] * (count - inside) + ["save"] * inside
    bench.random.shuffle(kinds)
    kills = Kills(kinds)
    failures = _blind(bench)
    while kills.left:
        ranks = bench.random.choice(RANKS)
        folder = bench.new_run("r01")
        failures += [
            f"{folder.name} ({ranks} ranks): {one}" for one in chain(bench, folder, ranks, kills)
        ]
    return Result("R1", TITLE, sum(kills.done.values()), failures, kills.figures())


def _blind(bench: Workbench) -> list[str]:
    """Checks the check: one bit of one weight, changed once in a whole run, has to be seen."""

    def change_a_bit(_rank: int) -> None:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        steps = 0

        def change(optimizer: "torch.optim.Optimizer", *_: object) -> None:
            nonlocal steps
            steps += 1
            if steps == CHANGED_STEP:
                weight = optimizer.param_groups[-1]["params"][0].detach().view(-1)
                weight[:1] = weight[:1].nextafter(weight.new_tensor(math.inf))

        register_optimizer_step_post_hook(change)

    outcome = bench.start(bench.new_run("r01-changed"), inject=change_a_bit).outcome()
    seen = outcome.exit_code == 0 and outcome.difference(bench.reference())
    return [] if seen else ["a run with one changed bit is not told from one without"]


def chain(bench: Workbench, folder: Path, ranks: int, kills: Kills) -> list[str]:
    """Starts one run until it ends, killed again and again; returns what was wrong."""
    reference = bench.reference(ranks=ranks)
    kills.chains += 1
    problems = []
    for _ in range(LONGEST_CHAIN):
        if not kills.left:
            break
        kind = kills.left[-1]
        outcome, killed = _attempt(bench, folder, ranks, kind, reference)
        kills.orphans += len(outcome.orphans) if not killed else 0
        if not killed:
            return problems + _wrong_at_the_end(folder, outcome, reference)
        kills.left.pop()
        kills.done[kind] = kills.done.get(kind, 0) + 1
        problems += _too_much_lost(bench, folder, kills)
        kills.started_anew += not checkpoint_steps(folder)
    return problems + _wrong_at_the_end(folder, bench.finish(folder, ranks=ranks), reference)


def _attempt(
    bench: Workbench, folder: Path, ranks: int, kind: str, reference: Outcome
) -> tuple[Outcome, bool]:
    """Returns the outcome of one start, and whether it was killed."""
    if kind == "random":
        victim = bench.start(folder, ranks=ranks)
        killed = not victim.wait(bench.random.uniform(0, reference.seconds))
    else:
        number = bench.random.randint(1, len(reference.operations) // 2)
        victim, killed = _killed_in_save(bench, folder, ranks, number)
    if killed:
        victim.kill()
    return victim.outcome(), killed


def _killed_in_save(bench: Workbench, folder: Path, ranks: int, number: int) -> tuple[Victim, bool]:
    """Starts the run and waits for operation `number` of its saves, or its end."""
    if bench.random.random() < 0.5:
        victim = bench.start(folder, ranks=ranks, inject=faults.die_at(folder, number))
        victim.wait_rank(0, 60)
        return victim, victim.code(0) == -signal.SIGKILL
    victim = bench.start(folder, ranks=ranks, stop_at=number)
    if not victim.wait_for_operation(60):
        return victim, False
    return victim, not victim.wait(bench.random.uniform(0, LONGEST_DELAY))


def _too_much_lost(bench: Workbench, folder: Path, kills: Kills) -> list[str]:
    """Checks how much work the last kill cost."""
    newest = max(checkpoint_steps(folder), default=0)
    applied = max(fed.history(bench.attempts(folder)[-1:]), default=newest)
    kills.lost.append(max(0, applied - newest))
    # Of a save that was under way when step `applied` was computed nothing can be asked.
    if newest < applied // INTERVAL * INTERVAL - INTERVAL:
        return [f"killed after step {applied}, but the newest checkpoint is of step {newest}"]
    return []


def _wrong_at_the_end(folder: Path, outcome: Outcome, reference: Outcome) -> list[str]:
    left = [f"orphans {outcome.orphans}"] if outcome.orphans else []
    return left + whole.wrong_at_the_end(folder, outcome, reference)
