"""Ctrl-C as a signal: one at a time."""

import signal
import time

import pytest

from chatlm.terminal import tty


def press_twice(interrupts, pause, ended):
    """Press Ctrl-C, and again while what the first one ends is being closed."""
    with interrupts.allowed():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            time.sleep(pause)
            signal.raise_signal(signal.SIGINT)
            ended.append(True)


def test_a_second_ctrl_c_does_not_break_into_the_end_of_the_first(monkeypatch):
    ended, later = [], []
    with tty.Interrupts() as interrupts:
        for _ in range(2):  # the next answer can be stopped at once
            with pytest.raises(KeyboardInterrupt):
                press_twice(interrupts, 0.0, ended)
        assert ended == [True, True]
        monkeypatch.setattr(tty, "AT_ONCE_SECONDS", 0.01)
        with pytest.raises(KeyboardInterrupt):  # what hangs can be left
            press_twice(interrupts, 0.02, later)
        assert later == []
        assert not interrupts.take()
