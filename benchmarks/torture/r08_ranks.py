"""R8: one of two or four ranks is killed or stopped, in a forward pass, a collective or a save.

The others must end by themselves: within 10 s of a death, within `hang_seconds` of a stop, where
the stopped rank must be gone too; with exit code 75 and a line that names the rank and its pid. A
restart must then come to the bits of an uninterrupted run. Every fourth training has a launcher,
which ends the others too when it notices a death.
"""

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.torture import hits
from benchmarks.torture.victim import SETTINGS, Outcome, Result, Victim, Workbench

COUNTS = {"full": 240, "slice": 2}
SECONDS = 4.0
TITLE = "a rank killed or stopped"
PLACES = ("forward", "collective", "save")
KINDS = [(kind, place) for place in PLACES for kind in (signal.SIGKILL, signal.SIGSTOP)]
STEPS = int(SETTINGS["max_steps"])
DEATH_SECONDS = 10.0
HANG_SECONDS = 6.0
PATIENCE_SECONDS = 30.0
AT_ONCE = 4
"""So many stopped trainings wait side by side, which costs no work."""


@dataclass
class Hit:
    """One training with a rank that was hit."""

    victim: Victim
    ranks: int
    rank: int
    kind: signal.Signals
    place: str
    launched: bool
    began: float = 0.0
    took: float | None = None

    def __str__(self) -> str:
        launched = ", launched" if self.launched else ""
        name = f"{self.kind.name} of rank {self.rank} of {self.ranks} in a {self.place}{launched}"
        return f"{self.victim.run.name} ({name})"


def run(count: int, bench: Workbench) -> Result:
    """Hits `count` times."""
    failures: list[str] = []
    seconds: dict[str, list[float]] = {"SIGKILL": [], "SIGSTOP": []}
    kinds = [KINDS[number % len(KINDS)] for number in range(count)]
    for first in range(0, count, AT_ONCE):
        hits_now = [_start(bench, *kind) for kind in kinds[first : first + AT_ONCE]]
        for hit in hits_now:
            _strike(hit)
        _wait(hits_now)
        for hit in hits_now:
            seconds[hit.kind.name].append(hit.took or 0.0)
            failures += _judge(bench, hit)
    figures = {
        f"{kind}_slowest_end_seconds": round(max(times, default=0.0), 2)
        for kind, times in seconds.items()
    }
    return Result("R8", TITLE, count, failures, {**figures, "hang_seconds": HANG_SECONDS})


def _start(bench: Workbench, kind: signal.Signals, place: str) -> Hit:
    ranks = bench.random.choice((2, 4))
    rank = bench.random.randrange(ranks)
    launched = bench.random.random() < 0.25
    folder = bench.new_run("r08")
    how: dict[str, Any] = {"ranks": ranks, "launcher": launched, "hang_seconds": HANG_SECONDS}
    if place == "save":
        operations = len(bench.reference(ranks=ranks).operations)
        victim = bench.start(folder, stop_at=bench.random.randint(1, operations), **how)
    else:
        inject = hits.in_forward if place == "forward" else hits.in_collective
        count = bench.random.randint(1, STEPS * (4 // ranks))  # shares of a step on each rank
        victim = bench.start(folder, inject=inject(rank, kind, count), **how)
    return Hit(victim, ranks, rank, kind, place, launched)


def _strike(hit: Hit) -> None:
    """Waits until the rank has been hit."""
    pid = hit.victim.ranks[hit.rank]
    if hit.place == "save":
        hit.victim.wait_for_operation(60)
        hit.victim.kill(hit.kind, hit.rank)
    while _state(pid) not in "TZ":
        time.sleep(0.01)
    hit.began = time.monotonic()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def _promised(hit: Hit) -> float:
    return DEATH_SECONDS if hit.kind == signal.SIGKILL else HANG_SECONDS + 1


def _wait(hits_now: list[Hit]) -> None:
    """Waits for the ends of all, which come at about the same time."""
    left = list(hits_now)
    while left:
        now = time.monotonic()
        for hit in list(left):
            if hit.victim.wait(0.01):
                hit.took = time.monotonic() - hit.began
            if hit.took is not None or now - hit.began > _promised(hit) + PATIENCE_SECONDS:
                left.remove(hit)


def _judge(bench: Workbench, hit: Hit) -> list[str]:
    """Returns what was not as promised."""
    problems = []
    if hit.took is None or hit.took > _promised(hit):
        problems.append(f"the ranks took {hit.took or 'too many'} s to end")
    outcome = hit.victim.outcome(0)
    problems += _wrong_end(hit, outcome)
    again = bench.finish(hit.victim.run, ranks=hit.ranks, attempts=2)
    if difference := again.difference(bench.reference(ranks=hit.ranks)):
        problems.append(difference)
    return [f"{hit}: {problem}" for problem in problems]


def _wrong_end(hit: Hit, outcome: Outcome) -> list[str]:
    problems = [f"orphans {outcome.orphans}"] if outcome.orphans else []
    if "Traceback" in outcome.log:
        problems.append("a traceback")
    name = f"rank {hit.rank} (pid {hit.victim.ranks[hit.rank]} on "
    if name not in outcome.log:
        problems.append(f"no line names it: {outcome.last_line()}")
    expected = [-signal.SIGKILL if rank == hit.rank else 75 for rank in range(hit.ranks)]
    if outcome.exit_codes != ([1] if hit.launched else expected):
        problems.append(f"exit codes {outcome.exit_codes}")
    return problems
