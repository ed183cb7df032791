"""What is done about the bad steps of a run: the ledger's lines, the file of pairs, the way back.

In: each step with its loss and norm, the same on every process. Out: whether its gradient may be
taken, and the checkpoint to go back to. All processes call it alike; the main process writes, and
decides where files have to be looked at. The verdicts are `verdicts`', the gradients the caller's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import ujson

from chatlm import log, run_folder
from chatlm.checkpoint import retention
from chatlm.checkpoint.paths import step_name, whole_steps
from chatlm.dataset.batches import Step
from chatlm.dataset.prepare import Prepared
from chatlm.health import inspection, verdicts
from chatlm.health.inspection import BadStep
from chatlm.health.verdicts import Health, Verdict
from chatlm.run_folder import LEDGER

T = TypeVar("T")


class Decide(Protocol):
    """Calls a function on the main process and returns what it returned on all. Collective.

    A ChatLMError that it raises there is raised on all.
    """

    def __call__(self, make: Callable[[], T]) -> T:
        """Returns what `make` returned on the main process."""
        ...


@dataclass
class Care:
    """Takes care of one run.

    Attributes:
        run: The run folder.
        data: The training pairs and their tokenizer.
        is_main: Whether this is the main process.
        decide: How the processes come to know what the main process found.
        pair_losses: Returns the loss of each pair of a step alone, on the main process. Collective.
        health: The verdicts so far.
    """

    run: Path
    data: Prepared
    is_main: bool
    decide: Decide
    pair_losses: Callable[[Step], list[float | None]]
    health: Health
    _inspected: Path = field(default=Path(inspection.FOLDER), init=False)

    def examine(
        self, step: Step, loss: float, norm: float, learning_rate: float, microbatch_tokens: int
    ) -> Verdict:
        """Returns what is wrong with a step; a bad one is written down. Collective.

        Args:
            step: the step; the first has index 0 and is called 1.
            loss: nats a target token, over all processes.
            norm: of the gradient of all processes, before clipping.
            learning_rate: of the step, for the file of pairs.
            microbatch_tokens: likewise.
        """
        number = step.index + 1
        threshold = self.health.threshold()
        why = self.health.judge(number, loss, norm)
        if why is Verdict.GOOD:
            return why
        log.warning(verdicts.warning(number, why, loss, norm, threshold))
        self._append(self.health.skip(number, why, loss, norm, step.rows.tolist()))
        bad = BadStep(number, why.value, loss, norm, learning_rate, microbatch_tokens)
        self._inspect(bad, step)
        return why

    def way_back(self) -> int | None:
        """Returns the checkpoint to load now, or None: go on with the next step. Collective.

        The ledger has been told; newer checkpoints, which may hold sick weights, are set aside.

        Raises:
            SickRunError: the run does not get well; its pairs have been written down.
        """
        if self.health.wants_rewind():
            to = self.decide(self._choose)
            if to is not None:
                return to
        if self.health.is_exhausted():
            error = self.health.given_up(str(self._inspected))
            self._append(self.health.stop(str(error)))
            raise error
        return None

    def _choose(self) -> int | None:
        try:
            to = self.health.target(whole_steps(self.run))
        except verdicts.SickRunError as error:
            self._append(self.health.stop(str(error)))
            raise
        if to is None:
            return None
        first, last = self.health.streak[0], self.health.streak[-1]
        log.warning(
            f"{len(self.health.streak)} steps in a row were spikes: back to {step_name(to)}, and "
            f"over the steps {first} to {last}"
        )
        self._append(self.health.rewind(to))
        set_aside(self.run, to)
        return to

    def _inspect(self, bad: BadStep, step: Step) -> None:
        ends = self.health.is_exhausted() or self.health.wants_rewind()
        if not self.decide(lambda: ends or inspection.has_room(self.run)):
            return
        losses = self.pair_losses(step)
        self._inspected = inspection.path_of(self.run, bad.step)
        if self.is_main:
            inspection.write(self.run, bad, self.data.train, self.data.tokenizer, step.rows, losses)

    def _append(self, line: Mapping[str, Any]) -> None:
        if self.is_main:
            run_folder.append(self.run, LEDGER, line)


def read_ledger(run: Path) -> list[dict[str, Any]]:
    """Returns the lines of ledger.jsonl; one that a kill cut is left out."""
    path = run / LEDGER
    if not path.exists():
        return []
    found: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(ujson.loads(line))
        except ValueError:
            log.warning(f"{path} has a line that was cut short; it is passed over")
    return found


def set_aside(run: Path, step: int) -> None:
    """Renames the checkpoints after `step`, so that nobody resumes from sick weights.

    The newest of those that were set aside stay, for a person to look at.

    Raises:
        StorageError: one cannot be renamed or deleted.
    """
    for newer in whole_steps(run):
        if newer > step:
            retention.set_aside(run, newer)
    retention.prune_sick(run)
