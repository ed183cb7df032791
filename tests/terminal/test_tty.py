"""Ctrl-C as a signal: one at a time."""

import signal
import time

import pytest

from chatlm.terminal import tty


def test_a_second_ctrl_c_does_not_break_into_the_end_of_the_first(monkeypatch):
    ended = []
    with tty.Interrupts() as interrupts:
        for _ in range(2):  # the next answer can be stopped at once
            with pytest.raises(KeyboardInterrupt), interrupts.allowed():
                try:
                    signal.raise_signal(signal.SIGINT)
                finally:
                    signal.raise_signal(signal.SIGINT)
                    ended.append(True)
        assert ended == [True, True]
        monkeypatch.setattr(tty, "AT_ONCE_SECONDS", 0.01)
        later = []
        with pytest.raises(KeyboardInterrupt), interrupts.allowed():
            try:
                signal.raise_signal(signal.SIGINT)
            finally:  # what hangs can be left
                time.sleep(0.02)
                signal.raise_signal(signal.SIGINT)
                later.append(True)
        assert later == []
        assert not interrupts.take()
