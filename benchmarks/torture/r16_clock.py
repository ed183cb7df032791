"""R16: the clock is wrong, is put back while a training runs, and file times mean nothing.

A run is killed, all times of its files are shuffled, and it goes on under another wrong clock: it
must go on from the newest checkpoint, end with the bits of an undisturbed run, and never tell of a
negative time that is left or was spent.
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.torture import faults, whole
from benchmarks.torture.outcome import checkpoint_steps, json_lines
from benchmarks.torture.victim import Outcome, Result, Workbench

COUNTS = {"full": 24, "slice": 1}
SECONDS = 2.6
TITLE = "wrong clocks and shuffled file times"
DAY = 86_400.0
CLOCKS: dict[str, Callable[[int], float]] = {
    "a day behind": lambda _: -DAY,
    "ten years ahead": lambda _: 3652 * DAY,
    "put back while it runs": lambda asked: 0.0 if asked < 20 else -DAY,
    "going backwards": lambda asked: -60.0 * asked,
}
"""How many seconds a clock is wrong when it is asked for the n-th time."""


def run(count: int, bench: Workbench) -> Result:
    """Runs under `count` wrong clocks, a pair of them each."""
    reference = bench.reference()
    failures = []
    names = list(CLOCKS)
    for number in range(count):
        first, second = names[number % len(names)], bench.random.choice(names)
        found = _wrong(bench, first, second, reference)
        failures += [f"a clock {first}, then one {second}: {one}" for one in found]
    return Result("R16", TITLE, count, failures, {"clocks": len(CLOCKS)})


def _wrong(bench: Workbench, first: str, second: str, reference: Outcome) -> list[str]:
    folder = bench.new_run("r16")
    operations = len(reference.operations)
    place = bench.random.randint(operations // 3, operations * 2 // 3)
    kill = faults.die_at(folder, place)
    killed = bench.start(folder, inject=faults.together([_clock(first), kill])).outcome()
    newest = max(checkpoint_steps(folder), default=0)
    _shuffle_times(bench, folder)
    outcome = bench.start(folder, inject=_clock(second)).outcome()
    wrong = whole.wrong_at_the_end(folder, outcome, reference)
    if f"step_{newest:06d}" not in outcome.log:
        wrong.append(f"it did not go on from step {newest}")
    left = re.findall(r"(-[\d.]+) min left", killed.log + outcome.log)
    wrong += [f"{one} minutes left" for one in left]
    keys = ("seconds", "tokens_per_second")
    records = json_lines(folder / "metrics.jsonl")
    return wrong + [f"{key} = {r[key]}" for r in records for key in keys if r.get(key, 0) < 0]


def _clock(name: str) -> faults.Inject:
    """Makes this process's clock wrong; what counts seconds since the machine's start is right."""

    def inject(_: int) -> None:
        wrong, asked = CLOCKS[name], 0
        seconds, nanoseconds, local = time.time, time.time_ns, time.localtime

        def offset() -> float:
            nonlocal asked
            asked += 1
            return wrong(asked)

        clock: Any = time
        clock.time = lambda: seconds() + offset()
        clock.time_ns = lambda: nanoseconds() + int(offset() * 1e9)
        clock.localtime = lambda at=None: local(clock.time() if at is None else at)

    return inject


def _shuffle_times(bench: Workbench, folder: Path) -> None:
    for path in folder.rglob("*"):
        at = bench.random.uniform(0, 4e9)
        os.utime(path, (at, at))
