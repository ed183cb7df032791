"""One log for the whole package: one line an event, on stderr, from the main process only.

In: messages. Out: lines on stderr, made safe to print; stdout carries only what a program was asked
for. It does not write files; `metrics.jsonl` belongs to the trainer.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from chatlm.errors import StorageError
from chatlm.sanitize import sanitize

_LOGGER = logging.getLogger("chatlm")


class _ToStderr(logging.Handler):
    """Writes to what `sys.stderr` is at that moment, so that redirection works at any time."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(sanitize(self.format(record)), file=sys.stderr, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StorageError(
                f"cannot write the log to stderr ({error.strerror}): free some space, or send it "
                "elsewhere, and go on with resume=True"
            ) from error


def _configured() -> logging.Logger:
    """Returns the package's logger, with its one handler attached on first use."""
    if not _LOGGER.handlers:
        handler = _ToStderr()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        _LOGGER.addHandler(handler)
        _LOGGER.propagate = False
        # Only rank 0 reports what every rank does; warnings of the others still get through.
        _LOGGER.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    return _LOGGER


def info(message: str) -> None:
    """Writes one event."""
    _configured().info(message)


def warning(message: str) -> None:
    """Writes one event that the user should act on or at least know of."""
    _configured().warning(f"warning: {message}")


@contextmanager
def only_warnings() -> Iterator[None]:
    """Leaves events out for a while: they would come between the lines that a user types."""
    logger = _configured()
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def without_future_warnings() -> Iterator[None]:
    """Leaves out what libraries tell each other of names that will go: no user can mend it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def of_this_process(message: str) -> None:
    """Writes one event that only this process knows of, whichever rank it is."""
    _configured().error(f"warning: {message}")
