"""Runs that are killed again and again, with other numbers of processes each time, to their end.

In: a workbench, how often to kill, among which numbers of processes to draw. Out: what each run
came to, and how it got there. Half of the kills come at any time, half within a save.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.torture.outcome import checkpoint_steps
from benchmarks.torture.victim import Outcome, Workbench

LONGEST_CHAIN = 8


@dataclass
class Restarts:
    """One run: its last outcome, and the processes of each start."""

    outcome: Outcome
    processes: list[int] = field(default_factory=list)
    kills: int = 0

    @property
    def changes(self) -> int:
        """How often a start had another number of processes than the one before."""
        pairs = zip(self.processes, self.processes[1:], strict=False)
        return sum(one != other for one, other in pairs)


def killed_runs(
    bench: Workbench,
    name: str,
    count: int,
    draw: Sequence[int],
    whole: Outcome,
    **changes: Any,
) -> list[Restarts]:
    """Returns runs that were killed `count` times in all.

    Args:
        bench: starts them.
        name: of the run folders.
        count: kills.
        draw: numbers of processes, one of which is drawn for each start.
        whole: the outcome of an undisturbed run of one process.
        **changes: settings.
    """
    runs: list[Restarts] = []
    while (left := count - sum(run.kills for run in runs)) > 0:
        folder = bench.new_run(name)
        runs.append(_to_the_end(bench, folder, min(left, LONGEST_CHAIN), draw, whole, changes))
    return runs


def _to_the_end(
    bench: Workbench,
    folder: Path,
    most: int,
    draw: Sequence[int],
    whole: Outcome,
    changes: dict[str, Any],
) -> Restarts:
    found: Restarts | None = None
    processes: list[int] = []
    kills = 0
    while True:
        processes.append(bench.random.choice(draw))
        how: dict[str, Any] = {"ranks": processes[-1], **changes}
        if kills == most:
            outcome, killed = bench.finish(folder, **how), False
        else:
            outcome, killed = _killed(bench, folder, whole, how)
        kills += killed
        found = Restarts(outcome, processes, kills)
        if not killed:
            return found


def _killed(
    bench: Workbench, folder: Path, whole: Outcome, how: dict[str, Any]
) -> tuple[Outcome, bool]:
    """Returns the outcome of a start that was killed, unless it ended before."""
    if bench.random.random() < 0.5:
        victim = bench.start(folder, **how)
        # Several processes take longer than one, and a part of the run may be done already.
        left = 1 - max(checkpoint_steps(folder), default=0) / max(whole.steps)
        killed = not victim.wait(bench.random.uniform(0.1, 1) * (0.4 + left) * whole.seconds)
    else:
        number = bench.random.randint(1, max(2, len(whole.operations) // 2))
        victim = bench.start(folder, stop_at=number, **how)
        told = victim.wait_for_operation(60)
        killed = told and not victim.wait(bench.random.uniform(0, 0.002))
    if killed:
        victim.kill()
    return victim.outcome(), killed


def wrong(run: Restarts, whole: Outcome) -> str:
    """Returns in one line what is wrong with the end of a run; '' if nothing is."""
    outcome = run.outcome
    if outcome.hung:
        return f"{outcome.run.name} hangs"
    found = outcome.difference(whole)
    if outcome.orphans:
        found = f"orphans {outcome.orphans}; {found}"
    return f"{outcome.run.name} (processes {run.processes}): {found}" if found else ""
