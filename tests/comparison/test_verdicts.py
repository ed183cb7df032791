"""Wins and losses, and how sure they are."""

import random
from statistics import mean

import pytest

from chatlm.comparison.verdicts import contest, outcome, sign_test


def test_a_win_is_more_than_the_dead_band():
    gains = [1.0, 1.01, -1.0, -1.01, 0.0, 50]
    assert [outcome(gain) for gain in gains] == ["tie", "win", "tie", "loss", "tie", "win"]


@pytest.mark.parametrize(
    ("wins", "losses", "expected"),
    [(0, 0, 1), (1, 0, 1), (5, 0, 2 / 32), (0, 5, 2 / 32), (8, 2, 2 * 56 / 1024), (4, 4, 1)],
)
def test_the_sign_test_by_hand(wins, losses, expected):
    assert sign_test(wins, losses) == pytest.approx(expected)


def test_clear_gains_are_called_so_and_noise_is_not():
    draws = random.Random(1)
    noise = [draws.gauss(0, 10) for _ in range(60)]
    for shift, verdict in ((0, "open"), (9, "better"), (-9, "worse")):
        found = contest([gain + shift for gain in noise])
        assert found.verdict == verdict
        assert found.low < found.mean_gain < found.high
        assert found.mean_gain == pytest.approx(mean(noise) + shift)
        assert found.wins + found.losses + found.ties == 60
    # A normal interval of the mean is about two standard errors to either side.
    assert found.high - found.low == pytest.approx(2 * 1.96 * 10 / 60**0.5, rel=0.25)


def test_the_order_of_the_rows_changes_nothing():
    draws = random.Random(2)
    gains = [draws.uniform(-5, 9) for _ in range(30)]
    shuffled = draws.sample(gains, len(gains))
    assert shuffled != gains
    assert contest(gains) == contest(shuffled)


def test_one_row_has_an_interval_of_no_width():
    found = contest([3.0])
    assert (found.low, found.high, found.mean_gain, found.p_value) == (3, 3, 3, 1)
