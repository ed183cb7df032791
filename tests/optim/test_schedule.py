"""The learning rate is a pure function of the share of the run that is done."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm import optim
from chatlm.config import SCHEDULES


def share(done, **changes):
    settings = {"warmup": 0.1, "final": 0.05, "schedule": "cosine", "decay": 0.2} | changes
    return optim.rate_share(done, **settings)


def test_cosine_rises_falls_and_ends_where_it_should():
    assert share(0.05) == pytest.approx(0.5)
    assert share(0.1) == pytest.approx(1.0)
    assert share(0.55) == pytest.approx(0.525)
    assert share(1.0) == pytest.approx(0.05)
    assert share(0.0, warmup=0.0) == pytest.approx(1.0)


def test_wsd_rises_stays_and_falls_in_a_line():
    rates = [share(done, schedule="wsd") for done in (0.05, 0.1, 0.5, 0.8, 0.9, 1.0)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.525, 0.05])


def test_a_wsd_run_can_be_made_longer_from_before_its_decay():
    """What was done before the decay holds for a run of twice the length, too."""
    for samples in (200, 500, 790):
        short = share(samples / 1000, schedule="wsd")
        assert short == share(samples / 2000, schedule="wsd", warmup=0.05) == 1.0


def test_a_decay_that_fills_the_run_starts_behind_the_warm_up():
    rates = [share(done, schedule="wsd", decay=1.0) for done in (0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0.5, 1.0, 0.525, 0.05])


def test_constant_stays():
    assert share(0.05, schedule="constant") == pytest.approx(0.5)
    assert share(0.7, schedule="constant") == share(1.0, schedule="constant") == 1.0


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1), st.floats(0, 0.5))
def test_after_the_warm_up_the_rate_only_falls(schedule, one, other, decay, warmup):
    early, late = (
        share(done, schedule=schedule, decay=decay, warmup=warmup)
        for done in sorted((max(warmup, one), max(warmup, other)))
    )
    assert 1.0 >= early >= late - 1e-12
    assert late >= 0.05 - 1e-12
