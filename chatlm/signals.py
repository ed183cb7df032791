"""A polite end of a run.

In: SIGINT, SIGTERM, SIGHUP. Out: a request that the loop reads at a step's end. The first signal
asks; a second one ends the process at once, and the newest checkpoint on disk stays whole.
"""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import NoReturn

from chatlm import log

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Holds the signal that asked the run to stop; a context manager that restores handlers."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        log.info(
            f"{signal.Signals(number).name}: finishing the step and saving; a second signal "
            "ends the run at once"
        )

    def exit(self) -> NoReturn:
        """Ends the process with the exit code that shells give to this signal."""
        sys.exit(128 + (self.signal or signal.SIGTERM))
