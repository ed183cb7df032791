"""R4: SIGTERM, SIGINT and SIGHUP at any time, one in five inside a save; and two of them.

One signal: the training ends with 143, 130 or 129 within a step and a save (10 s), and a restart
repeats no step, because the checkpoint is of the last one that was taken. A second signal: it ends
within a second. In both cases the restarted training comes to the bits of an uninterrupted one. The
signal goes to all ranks, as Ctrl-C does, or, once they train, to one: before they have found
each other, and without a launcher, the others of one that ends wait for it. A signal that finds the
training done, so that a rank ends with 0, is not counted; the training must be right all the same.
"""

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.torture import fed
from benchmarks.torture.outcome import Outcome, checkpoint_steps
from benchmarks.torture.victim import SETTINGS, Result, Victim, Workbench

COUNTS = {"full": 200, "slice": 4}
SECONDS = 2.5
TITLE = "SIGTERM, SIGINT, SIGHUP, and two of them"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LONGEST_SECONDS, SECOND_SECONDS = 10.0, 1.0
PAUSES_BETWEEN = 0.12, 0.25
"""Seconds: twice within 0.1 is once, as `timeout` sends it."""


@dataclass
class Seen:
    """What has been measured."""

    seconds: list[float] = field(default_factory=list)
    second_seconds: list[float] = field(default_factory=list)
    in_saves: int = 0
    lost: int = 0


def run(count: int, bench: Workbench) -> Result:
    """Sends `count` signals, every fourth time two of them."""
    seen, failures, done, number = Seen(), [], 0, 0
    while done < count and number < 4 * count:
        kind = SIGNALS[number % 3]
        number += 1
        problems = _one(bench, kind, twice=number % 4 == 0, inside=number % 5 == 0, seen=seen)
        if problems is None:
            continue  # the training was quicker than the signal
        done += 1
        failures += problems
    figures = {
        "in_saves": seen.in_saves,
        "slowest_end_seconds": round(max(seen.seconds, default=0.0), 2),
        "slowest_end_after_second_seconds": round(max(seen.second_seconds, default=0.0), 2),
        "steps_lost": seen.lost,
    }
    return Result("R4", TITLE, done, failures, figures)


def _one(
    bench: Workbench, kind: signal.Signals, *, twice: bool, inside: bool, seen: Seen
) -> list[str] | None:
    """Sends one signal or two to one training; returns what was wrong, None if it came too late."""
    # Several ranks have a launcher, whose second signal is the same one if it follows at once.
    ranks = 1 if twice else bench.random.choice((1, 1, 1, 2, 4))
    whole = bench.reference(ranks=ranks)
    folder = bench.new_run("r04")
    stop_at = bench.random.randint(1, len(whole.operations)) if inside else 0
    to = bench.random.choice((None, bench.random.randrange(ranks)))
    victim = bench.start(folder, ranks=ranks, stop_at=stop_at)
    if not _listens(victim):
        return None
    if inside:
        victim.wait_for_operation(60)
    else:
        if to is not None and ranks > 1:
            _wait_for_a_step(bench, folder, victim)
        victim.wait(bench.random.uniform(0, 0.9 * whole.seconds))
    if any(victim.code(rank) is not None for rank in range(ranks)):
        victim.outcome()
        return None
    victim.kill(kind, to)
    began = time.monotonic()
    second = bench.random.choice(SIGNALS)
    if twice:
        if victim.wait(bench.random.uniform(*PAUSES_BETWEEN)):
            victim.outcome()
            return None
        victim.kill(second)
        began = time.monotonic()
    victim.wait(LONGEST_SECONDS + 20)
    took = time.monotonic() - began
    outcome = victim.outcome(0)
    seen.in_saves += inside
    (seen.second_seconds if twice else seen.seconds).append(took)
    codes = {128 + kind} | ({128 + second} if twice else set())
    is_done = SETTINGS["max_steps"] in checkpoint_steps(folder)
    was_done = is_done and 0 in outcome.exit_codes
    codes |= {0} if was_done else set()
    problems = _wrong_end(outcome, codes, took, SECOND_SECONDS if twice else LONGEST_SECONDS)
    if not twice:
        problems += _lost(bench, folder, seen)
    if difference := bench.finish(folder, ranks=ranks).difference(whole):
        problems.append(difference)
    if was_done and not problems:
        return None
    what = f"{kind.name}{f' and {second.name}' if twice else ''} to {ranks} ranks"
    return [f"{folder.name} ({what}): {problem}" for problem in problems]


def _wait_for_a_step(bench: Workbench, folder: Path, victim: Victim) -> None:
    while not fed.history(bench.attempts(folder)) and not victim.wait(0.02):
        pass


def _listens(victim: Victim) -> bool:
    """Waits until all ranks have said what is to be done with a signal; not if one has ended."""
    wanted = 1 << (signal.SIGTERM - 1)
    for pid in victim.ranks:
        while True:
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            except OSError:
                return False
            caught = next((line.split()[1] for line in lines if line.startswith("SigCgt")), "0")
            if int(caught, 16) & wanted:
                break
            time.sleep(0.002)
    return True


def _wrong_end(outcome: Outcome, codes: set[int], took: float, longest: float) -> list[str]:
    problems = [f"orphans {outcome.orphans}"] if outcome.orphans else []
    if took > longest:
        problems.append(f"it took {took:.1f} s to end")
    if set(outcome.exit_codes) - codes:
        problems.append(f"exit codes {outcome.exit_codes}: {outcome.last_line()}")
    if "Traceback" in outcome.log:
        problems.append("a traceback")
    return problems


def _lost(bench: Workbench, folder: Path, seen: Seen) -> list[str]:
    """Compares the newest checkpoint with the last step that was taken."""
    newest = max(checkpoint_steps(folder), default=0)
    taken = max(fed.history(bench.attempts(folder)), default=0)
    seen.lost += taken - newest
    return [] if newest == taken else [f"{taken} steps were taken, the checkpoint has {newest}"]
