"""The gradients of a step, computed again in smaller microbatches when memory runs out.

In: a step and a function that computes its gradients. Out: the step as it was computed in the end.
The pairs of a step stay the same, and gradients of a failed attempt are dropped, so nothing is lost
and nothing counted twice. It computes nothing itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from chatlm import log, run_folder
from chatlm.dataset.batches import Loader, Step, lengths_of
from chatlm.health import memory
from chatlm.health.care import LEDGER
from chatlm.health.memory import MicrobatchTokens, Shortage


class Again(Enum):
    """Who can compute a step again after memory ran out in the middle of it."""

    TOGETHER = "all processes, before they exchange anything"
    NEVER = "none: the processes exchange gradients or weights all the time"


class Discards(Protocol):
    """What is needed of an engine."""

    def discard(self) -> None:
        """Drops the gradients."""
        ...


@dataclass
class Retry:
    """Computes steps of one run.

    Attributes:
        run: The run folder.
        engine: Holds the gradients.
        sizes: The microbatches of each step.
        least_tokens: The smallest setting of microbatch_tokens (one longest pair).
        again: Who can compute a step again.
        is_main: Whether this is the main process.
        any_process: Whether a flag is set on any process. Collective.
        was_halved: Whether steps that were prepared ahead have to be made anew.
    """

    run: Path
    engine: Discards
    sizes: MicrobatchTokens
    least_tokens: int
    again: Again
    is_main: bool
    any_process: Callable[[bool], bool]
    was_halved: bool = field(default=False, init=False)

    def gradients(
        self, step: Step, loader: Loader, compute: Callable[[Step], Tensor]
    ) -> tuple[Step, Tensor]:
        """Returns the step as it was computed, and what `compute` returned for it. Collective.

        Args:
            step: as the loader cut it.
            loader: cuts it anew.
            compute: adds up the gradients of this process's part of a step.

        Raises:
            SickRunError: not even one pair at a time fits.
            NeighbourError: the run has to be started again, with the size that the ledger has.
        """
        while True:
            found = memory.attempt(partial(compute, step))
            if self.again is Again.NEVER:
                if isinstance(found, Shortage):
                    raise self._end(step, loader, found.reason)
                return step, found
            if not self.any_process(isinstance(found, Shortage)):
                assert not isinstance(found, Shortage)
                return step, found
            self.engine.discard()
            reason = found.reason if isinstance(found, Shortage) else "another process"
            del found
            step = self._smaller(step, loader, reason)

    def _smaller(self, step: Step, loader: Loader, reason: str) -> Step:
        number = step.index + 1
        tokens = self._halved(step, loader)
        if tokens is None:
            raise memory.one_pair_is_too_much(number, reason)
        log.warning(memory.message(number, tokens, self.least_tokens, reason))
        self._append(self.sizes.halve(number, tokens))
        self.was_halved = True
        return loader.step(step.index)

    def _end(self, step: Step, loader: Loader, reason: str) -> Exception:
        """Returns the error of a process that leaves the others in the middle of an exchange."""
        number = step.index + 1
        tokens = self._halved(step, loader)
        if tokens is None:
            return memory.one_pair_is_too_much(number, reason)
        # Whichever process it is: the others wait for it and write nothing.
        run_folder.append(self.run, LEDGER, self.sizes.halve(number, tokens))
        return memory.start_again(number, tokens, reason)

    def _halved(self, step: Step, loader: Loader) -> int | None:
        sources, targets = lengths_of(loader.store, step.rows)
        shares = loader.num_shares or loader.num_processes
        return memory.halved(self.sizes.at(step.index + 1), sources, targets, shares)

    def _append(self, line: dict[str, Any]) -> None:
        if self.is_main:
            run_folder.append(self.run, LEDGER, line)
