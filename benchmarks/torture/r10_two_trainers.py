"""R10: two trainers are started for one run folder, within half a second.

With a name (`out=`) exactly one of them trains, and the other ends within 5 s with one line that
names the first one's pid and host. Without, each gets a folder of its own, or is refused. The one
that trains comes to the bits of a training that was alone. Then it is killed, and a third one gets
the folder at once.
"""

import os
import re
import signal
from pathlib import Path
from typing import Any

from benchmarks.torture.victim import Outcome, Result, Victim, Workbench

COUNTS = {"full": 50, "slice": 1}
SECONDS = 3.5
TITLE = "two trainers started for one run folder"
LONGEST_SECONDS = 5.0
APART_SECONDS = 0.5


def run(count: int, bench: Workbench) -> Result:
    """Starts `count` pairs, every third one without a name."""
    failures: list[str] = []
    refused: list[float] = []
    for number in range(count):
        apart = bench.random.uniform(0, APART_SECONDS)
        problems = _unnamed(bench, apart) if number % 3 == 2 else _named(bench, apart, refused)
        failures += [f"pair {number} ({1000 * apart:.0f} ms apart): {one}" for one in problems]
    figures = {"slowest_refusal_seconds": round(max(refused, default=0.0), 2)}
    return Result("R10", TITLE, count, failures, figures)


def _named(bench: Workbench, apart: float, refused: list[float]) -> list[str]:
    whole = bench.reference()
    run = bench.new_run("r10")
    first = bench.start(run, resume=False)
    first.wait(apart)
    second = bench.start(run, resume=False)
    for victim in (first, second):
        victim.wait()
    both = [(victim, victim.outcome()) for victim in (first, second)]
    both.sort(key=lambda pair: pair[1].exit_code)
    (winner, trained), (loser, other) = both
    refused.append(other.seconds)
    problems = _wrong_refusal(winner, loser, other)
    if difference := trained.difference(whole):
        problems.append(difference)
    return problems + _freed_by_a_kill(bench, whole)


def _wrong_refusal(winner: Victim, loser: Victim, outcome: Outcome) -> list[str]:
    problems = []
    if outcome.exit_code != 2:
        problems.append(f"the other one ends with {outcome.exit_code}: {outcome.last_line()}")
    if outcome.seconds > LONGEST_SECONDS:
        problems.append(f"the other one took {outcome.seconds:.1f} s")
    errors = [line for line in outcome.log.splitlines() if line.startswith("error: ")]
    name = f"(pid {winner.ranks[0]} on {os.uname().nodename}, since "
    if len(errors) != 1 or name not in errors[0] or "Traceback" in outcome.log:
        problems.append(f"pid {loser.ranks[0]} does not name {name}: {outcome.last_line()}")
    return problems


def _freed_by_a_kill(bench: Workbench, whole: Outcome) -> list[str]:
    run = bench.new_run("r10-killed")
    victim = bench.start(run)
    victim.wait(bench.random.uniform(0.2, 0.8) * whole.seconds)
    victim.kill(signal.SIGKILL)
    third = bench.start(run)
    victim.outcome()
    return [f"after a kill: {one}" for one in [third.outcome().difference(whole)] if one]


def _unnamed(bench: Workbench, apart: float) -> list[str]:
    run = bench.new_run("r10-unnamed")
    how: dict[str, Any] = {"resume": False, "out": "", "max_steps": 8}
    first = bench.start(run, **how)
    first.wait(apart)
    second = bench.start(run, **how)
    outcomes = [victim.outcome() for victim in (first, second)]
    folders = [re.findall(r"run folder (\S+)", outcome.log)[-1:] for outcome in outcomes]
    problems = [
        f"exit code {outcome.exit_code}: {outcome.last_line()}"
        for outcome in outcomes
        if outcome.exit_code
    ]
    if folders[0] == folders[1]:
        problems.append(f"both train in {folders[0]}")
    for outcome, folder in zip(outcomes, folders, strict=True):
        found = [bench.folder / one for one in folder]
        if not outcome.exit_code and not any(map(_is_whole, found)):
            problems.append(f"{found} is not a whole run")
    return problems


def _is_whole(run: Path) -> bool:
    return (run / "step_000008" / "MANIFEST.json").is_file()
