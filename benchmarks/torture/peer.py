"""One trainer of others on a workbench: started, killed inside its saves, compared with itself.

In: a name from `peer_trainers`. Out: `Peer`.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.torture import faults, fed, peer_trainers
from benchmarks.torture.victim import Victim, Workbench


@dataclass
class Peer:
    """One trainer on a workbench."""

    name: str
    bench: Workbench
    pairs: Path
    save_seconds: float = 0.0
    seconds: float = 0.0
    weights: str = ""
    losses: dict[int, list[Any]] = field(default_factory=dict)
    samples: dict[int, list[Any]] = field(default_factory=dict)

    def start(self, run: Path, steps: int = 24, **how: Any) -> Victim:
        """Starts a run, or goes on with it."""

        def act(log: Path) -> int:
            return peer_trainers.train(self.name, run, self.pairs, log, steps)

        return self.bench.spawn(run, act, env=dict(os.environ), **how)

    def new_run(self) -> Path:
        """Returns a run folder that does not exist."""
        words = self.name.replace(",", "").replace(" ", "-").lower()
        return self.bench.new_run(f"peer-{words}")

    def difference(self, run: Path) -> list[str]:
        """Returns in what a finished run differs from the uninterrupted one: weights, losses."""
        found = []
        if (run / peer_trainers.FINAL).read_text() != self.weights:
            found.append("weights")
        if self.seen(run, ".losses") != self.losses:
            found.append("losses")
        return found

    def seen(self, run: Path, suffix: str) -> dict[int, list[Any]]:
        """Returns step -> what was noted there, over all starts of the run."""
        attempts = self.bench.attempts(run)
        return fed.history([[file.with_suffix(suffix) for file in files] for files in attempts])

    def measure(self) -> None:
        """Runs without a fault, twice, the second time with the duration of its saves."""
        owner, method = peer_trainers.saving(self.name)
        run = self.new_run()
        first = self.start(run).outcome()
        log = self.bench.folder / "save-seconds"
        log.unlink(missing_ok=True)
        again = self.new_run()
        outcome = self.start(again, inject=timed(owner, method, log)).outcome()
        for one in (first, outcome):
            if one.exit_code:
                raise RuntimeError(f"{self.name} fails without a fault:\n{one.log[-2000:]}")
        self.seconds = outcome.seconds
        self.save_seconds = max(map(float, log.read_text().split()))
        self.weights = (run / peer_trainers.FINAL).read_text()
        self.losses, self.samples = self.seen(run, ".losses"), self.seen(run, ".fed")


def _wrapped(
    owner: type, method: str, before: Callable[[], None], after: Callable[[], None]
) -> None:
    plain = getattr(owner, method)

    def saving(*arguments: Any, **named: Any) -> Any:
        before()
        result = plain(*arguments, **named)
        after()
        return result

    setattr(owner, method, saving)


def timed(owner: type, method: str, log: Path) -> faults.Inject:
    """Appends the seconds of each save to `log`."""

    def inject(_rank: int) -> None:
        started = [0.0]

        def after() -> None:
            with log.open("a") as file:
                file.write(f"{time.monotonic() - started[0]}\n")

        _wrapped(owner, method, lambda: started.__setitem__(0, time.monotonic()), after)

    return inject


def telling(owner: type, method: str, number: int, descriptor: int) -> faults.Inject:
    """Writes a byte when save `number` begins and one when it has ended."""

    def inject(_rank: int) -> None:
        count = [0]

        def before() -> None:
            count[0] += 1
            tell()

        def tell() -> None:
            if count[0] == number:
                os.write(descriptor, b".")

        _wrapped(owner, method, before, tell)

    return inject
