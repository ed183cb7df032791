"""Trainings in this process, as tests need them: tiny settings, and an accelerate that is fresh.

In: settings. Out: run folders below the current folder.
"""

from pathlib import Path

from accelerate.state import AcceleratorState, GradientState

import train
from tests import tiny_data


def forget_accelerate() -> None:
    """Takes back what accelerate keeps in singletons of this process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def train_with(**settings: object) -> None:
    """Trains with just these settings, by the door; `__` stands for a dot."""
    forget_accelerate()
    try:
        given = {key.replace("__", "."): value for key, value in settings.items()}
        assert train.main(["train", *(f"{key}={value}" for key, value in given.items())]) == 0
    finally:
        forget_accelerate()


def train_tiny(out: str, **changes: object) -> Path:
    """Trains in the current folder; returns the run's folder, `out`.

    Args:
        out: where the run lies.
        changes: settings that differ from `tiny_data.SETTINGS`; `__` stands for a dot.
    """
    train_with(**tiny_data.SETTINGS | {"out": out} | changes)
    return Path.cwd() / out
