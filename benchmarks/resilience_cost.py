"""What it costs to be hard to kill: step time with everything on, without saves, and with all off.

    python -m benchmarks.resilience_cost
    python -m benchmarks.resilience_cost preset=small interval=20 rounds=9

Three trainings of the same pairs take turns on one machine: each computes `interval` steps, then
waits for the others, in an order that changes from round to round. So a turn of the first holds one
asynchronous save, begun and ended within it, and a disturbance of the machine hits all. `on` is the
trainer as it is; `unsaved` saves nothing; `off` also examines no loss, keeps no ledger of samples
and measures no step. Wall time, and CPU time of all threads (the one that writes, too), are medians
of the rounds' ratios to `off`. A save costs what `on` takes more than `unsaved`; what that is at
another interval follows. On a busy machine these differences drown; beside them stands the CPU time
that the parts of the care take by themselves, as a share of all CPU time of `on`. Prints a table
and one line of JSON.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.torture.victim import ROOT, Victim, Workbench, train_by_door
from chatlm import cli

NEVER = 10**9
REALISTIC_STEPS = 500
"""`save_every_steps` as it is by default."""


@dataclass(frozen=True)
class Settings:
    """Settings of `benchmarks/resilience_cost.py`."""

    data: str = field(default=str(ROOT / "data" / "starter"), metadata={"help": "pairs"})
    preset: str = field(default="starter", metadata={"help": "shape of the model"})
    batch_size: int = field(default=128, metadata={"help": "pairs a step"})
    interval: int = field(default=50, metadata={"help": "steps of a turn; one save in each"})
    rounds: int = field(default=7, metadata={"help": "turns of each side"})


@dataclass
class Side:
    """One training that takes turns: what it is told, what is taken out of it, what it took."""

    name: str
    settings: Mapping[str, object]
    strip: Callable[[], None]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    parts: list[dict[str, list[float]]] = field(default_factory=list)
    victim: Victim | None = None
    go: int = -1
    told: int = -1

    def turn(self, *, counts: bool) -> None:
        """Lets the training compute one interval."""
        os.write(self.go, b".")
        line = os.read(self.told, 4096)
        if not line:
            assert self.victim is not None
            raise RuntimeError(f"{self.name} broke off:\n{self.victim.outcome().log[-2000:]}")
        if counts:
            took = json.loads(line)
            self.wall.append(took["wall"])
            self.cpu.append(took["cpu"])
            self.parts.append(took["parts"])


def take_turns(interval: int, go: int, told: int) -> None:
    """Makes this process tell after `interval` steps what they took, and wait for its next turn."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    steps = 0
    began = (0.0, 0.0)
    parts = account()

    def after_step(*_: object) -> None:
        nonlocal steps, began
        steps += 1
        if steps % interval == 0:
            wall, cpu = time.monotonic() - began[0], time.process_time() - began[1]
            os.write(told, json.dumps({"wall": wall, "cpu": cpu, "parts": parts}).encode())
            if not os.read(go, 1):
                os._exit(0)
            for part in parts.values():
                part[:] = [0.0, 0.0]
            began = time.monotonic(), time.process_time()

    register_optimizer_step_post_hook(after_step)


def account() -> dict[str, list[float]]:
    """Measures each part of the care by itself: name -> [wall, CPU] seconds from now on."""
    from chatlm import lineage
    from chatlm.checkpoint.saver import Saver
    from chatlm.health.care import Care
    from chatlm.saving import Checkpoints

    places: list[tuple[str, Any, str]] = [
        ("examine", Care, "examine"),
        ("way back", Care, "way_back"),
        ("ledger", lineage, "extended"),
        ("save, loop", Checkpoints, "save"),
        ("save, wait", Saver, "wait_until_taken"),
        ("save, writer", Saver, "_write_beside"),
    ]
    parts: dict[str, list[float]] = {}
    for name, owner, method in places:
        parts[name] = [0.0, 0.0]
        setattr(owner, method, _measured(getattr(owner, method), parts[name]))
    return parts


def _measured(function: Callable[..., Any], sums: list[float]) -> Callable[..., Any]:
    def measured(*arguments: Any, **named: Any) -> Any:
        wall, cpu = time.monotonic(), time.thread_time()
        try:
            return function(*arguments, **named)
        finally:
            sums[0] += time.monotonic() - wall
            sums[1] += time.thread_time() - cpu

    return measured


def nothing() -> None:
    """Takes nothing out."""


def patches() -> list[tuple[Any, str, Callable[..., Any]]]:
    """Returns what care there is in the trainer: where, under which name, and a way without it."""
    from chatlm import lineage
    from chatlm.health.care import Care
    from chatlm.health.verdicts import Verdict
    from chatlm.neighbours.watchdog import Watchdog

    return [
        (Care, "examine", lambda *_: Verdict.GOOD),
        (Watchdog, "step", lambda _: nullcontext()),
        (lineage, "extended", lambda chain, _: chain),
    ]


def take_everything_out() -> None:
    """Takes the care out of the trainer of this process."""
    for owner, name, function in patches():
        setattr(owner, name, function)


def start(bench: Workbench, settings: Settings, side: Side) -> None:
    """Starts a training, which computes one interval to get warm."""
    go, side.go = os.pipe()
    side.told, told = os.pipe()

    def prepare(_rank: int) -> None:
        os.close(side.go)
        side.strip()
        take_turns(settings.interval, go, told)

    run = bench.new_run(side.name)
    shared: dict[str, Any] = {
        "data": settings.data,
        "preset": settings.preset,
        "batch_size": settings.batch_size,
        "max_steps": NEVER,
        "eval_every_steps": NEVER,
        "eval_answers": 0,
        "device": "cpu",
        "threads": 1,
        "out": run,
    }
    argv = ["train", *(f"{key}={value}" for key, value in {**shared, **side.settings}.items())]
    env = dict(os.environ)
    side.victim = bench.spawn(run, lambda _: train_by_door(argv), env=env, inject=prepare)
    os.close(go)
    os.close(told)
    os.read(side.told, 4096)


def measure(settings: Settings) -> list[Side]:
    """Lets the sides take turns."""
    every = {"save_every_steps": settings.interval}
    never = {"save_every_steps": NEVER}
    sides = [
        Side("on", every, nothing),
        Side("unsaved", never, nothing),
        Side("off", never, take_everything_out),
    ]
    with tempfile.TemporaryDirectory() as folder, Workbench(Path(folder)) as bench:
        for side in sides:
            start(bench, settings, side)
        for turn in range(settings.rounds + 1):
            for side in bench.random.sample(sides, len(sides)):
                side.turn(counts=turn > 0)
    return sides


def figures(settings: Settings, sides: Sequence[Side]) -> dict[str, Any]:
    """Returns the medians and what follows from them."""
    found: dict[str, Any] = {"interval": settings.interval, "rounds": settings.rounds}
    for kind in ("wall", "cpu"):
        times = {side.name: getattr(side, kind) for side in sides}
        step = statistics.median(times["off"]) / settings.interval
        save = statistics.median(a - b for a, b in zip(times["on"], times["unsaved"], strict=True))
        care = _excess(times["unsaved"], times["off"])
        found[kind] = {
            "seconds_a_step": {
                name: statistics.median(own) / settings.interval for name, own in times.items()
            },
            "excess_on": _excess(times["on"], times["off"]),
            "excess_unsaved": care,
            "seconds_a_save": save,
            f"excess_at_{REALISTIC_STEPS}_steps": care + save / (REALISTIC_STEPS * step),
        }
    found["share"] = shares(settings, on := sides[0])
    found["milliseconds"] = {
        name: [1000 * statistics.median(one[name][kind] for one in on.parts) for kind in (0, 1)]
        for name in (on.parts[0] if on.parts else ())
    }
    return found


def shares(settings: Settings, on: Side) -> dict[str, float]:
    """Returns the parts' share of the CPU time of the training that has them all.

    Both are of the same process in the same turns: a busy machine disturbs them alike, and much
    less than the difference of two trainings.
    """
    per_save = [sum(one[name][1] for name in one if "save" in name) for one in on.parts]
    per_step = [sum(one[name][1] for name in one if "save" not in name) for one in on.parts]
    if not per_save:
        return {}
    care = statistics.median(a / b for a, b in zip(per_step, on.cpu, strict=True))
    save = statistics.median(a / b for a, b in zip(per_save, on.cpu, strict=True))
    realistic = care + save * settings.interval / REALISTIC_STEPS
    return {"care": care, "save": save, f"all_at_{REALISTIC_STEPS}_steps": realistic}


def _excess(one: Sequence[float], other: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True)) - 1


def show(found: Mapping[str, Any]) -> None:
    """Prints a table."""
    interval = found["interval"]
    table = Table(
        "time",
        "off",
        "unsaved",
        f"on, a save every {interval} steps",
        "a save",
        f"on, every {REALISTIC_STEPS}",
    )
    for kind in ("wall", "cpu"):
        own = found[kind]
        table.add_row(
            kind,
            f"{1000 * own['seconds_a_step']['off']:.1f} ms",
            f"{own['excess_unsaved']:+.1%}",
            f"{own['excess_on']:+.1%}",
            f"{1000 * own['seconds_a_save']:.0f} ms",
            f"{own[f'excess_at_{REALISTIC_STEPS}_steps']:+.1%}",
        )
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(
        ", ".join(f"{name} {share:.2%}" for name, share in found["share"].items()), "of CPU time"
    )


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    if "--help" in argv:
        print(f"{__doc__}\n{cli.help_text(Settings)}")
        return
    found = figures(settings := cli.parse(argv, Settings), measure(settings))
    show(found)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
