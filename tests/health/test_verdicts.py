"""What becomes of bad steps: thrown away one by one, gone back for, or the end of the run."""

import math

import pytest

from chatlm.errors import SickRunError
from chatlm.health.spikes import SpikeDetector
from chatlm.health.verdicts import MOST_REWINDS, SPIKES_IN_A_ROW, Health, Verdict

GOOD, SPIKE, NOT_FINITE = Verdict.GOOD, Verdict.SPIKE, Verdict.NOT_FINITE


def healthy(steps=20, max_bad_steps=5):
    health = Health(max_bad_steps, SpikeDetector(400))
    for step in range(1, steps + 1):
        assert health.judge(step, 2.0 - step / 100, 1.0) is GOOD
    return health


@pytest.mark.parametrize(
    ("loss", "norm"),
    [(math.nan, 1.0), (math.inf, 1.0), (2.0, math.nan), (2.0, math.inf), (-math.inf, 1.0)],
)
def test_what_is_not_finite_is_skipped_from_the_first_step_on(loss, norm):
    health = Health(5, SpikeDetector(400))
    assert health.judge(1, loss, norm) is NOT_FINITE
    assert health.skipped == health.streak == [1]
    assert not health.is_quiet
    assert health.judge(2, 2.0, 1.0) is GOOD
    assert health.is_quiet
    assert health.skipped == [1]


def test_a_bad_step_does_not_enter_the_window():
    health = healthy()
    before = health.detector.as_hex()
    health.judge(21, 9.0, 1.0)
    health.judge(22, math.nan, 1.0)
    assert health.detector.as_hex() == before


def test_as_many_in_a_row_as_allowed_end_the_run_and_one_good_step_forgives_the_rest():
    health = healthy(max_bad_steps=3)
    for step in (21, 22, 24, 25):
        health.judge(step, math.nan, 1.0)
        assert not health.is_exhausted()
        if step == 22:
            health.judge(23, 2.0, 1.0)
    health.judge(26, 2.0, math.inf)
    assert health.is_exhausted()
    assert "step 24 to 26" in str(health.given_up("inspect/step_000026.json"))


def test_spikes_in_a_row_go_back_to_a_checkpoint_that_was_good_for_a_later_step():
    health = healthy()
    for step in range(21, 21 + SPIKES_IN_A_ROW):
        assert not health.wants_rewind()
        assert health.judge(step, 9.0, 1.0) is SPIKE
    assert health.wants_rewind()
    # Checkpoint 20 has the weights that step 21 was computed with: they may be the sick ones.
    assert health.target([12, 16, 20]) == 16
    assert health.target([20]) is None
    assert health.target([]) is None


def rewound(health, to):
    """Returns the health after going back to a checkpoint, with the ledger's line for it."""
    losses = health.detector.as_hex()
    line = health.rewind(to)
    return Health.of(health.max_bad_steps, 400, losses, [], 0, [line]), line


def test_on_the_way_back_the_bad_steps_are_passed_over():
    health = healthy()
    for step in (21, 22, 23):
        health.judge(step, 9.0, 1.0)
    back, line = rewound(health, 16)
    assert (line["event"], line["step"], line["to"]) == ("rewind", 23, 16)
    assert line["skip"] == [21, 22, 23]
    assert back.planned == {21, 22, 23}
    assert back.is_quiet
    for step in (21, 22, 23):
        back.pass_over(step)
    assert back.skipped == [21, 22, 23]


def test_after_going_back_to_a_checkpoint_that_knows_few_losses_it_is_not_blind():
    health = healthy()
    for step in (21, 22, 23):
        health.judge(step, 9.0, 1.0)
    line = health.rewind(4)
    back = Health.of(5, 400, health.detector.as_hex()[:4], [], 0, [line])
    assert back.judge(5, 6.5, 1.0) is GOOD
    assert back.judge(6, 9.0, 1.0) is SPIKE


def test_going_back_to_the_same_place_again_ends_the_run():
    health = healthy()
    for step in (21, 22, 23):
        health.judge(step, 9.0, 1.0)
    back, _ = rewound(health, 16)
    for step in (24, 25, 26):
        back.judge(step, 9.0, 1.0)
    with pytest.raises(SickRunError, match="going back to step 16 did not help"):
        back.target([8, 12, 16])


def test_going_back_again_and_again_ends_the_run():
    health, ledger = healthy(), []
    for number in range(MOST_REWINDS):
        first = 100 * (number + 1)
        for step in (first, first + 1, first + 2):
            health.judge(step, 9.0, 1.0)
        to = health.target([first - 10])
        assert to is not None
        assert to == first - 10
        ledger.append(health.rewind(to))
        health = Health.of(5, 400, health.detector.as_hex(), [], 0, ledger)
    for step in (900, 901, 902):
        health.judge(step, 9.0, 1.0)
    with pytest.raises(SickRunError, match="did not help"):
        health.target([890])
    # Whoever starts the run again after it was given up has mended something.
    ledger.append(health.stop("given up"))
    health = Health.of(5, 400, health.detector.as_hex(), [], 0, ledger)
    for step in (900, 901, 902):
        health.judge(step, 9.0, 1.0)
    assert health.target([890]) == 890
    assert health.planned == {100, 101, 102, 200, 201, 202, 300, 301, 302}


def test_a_resumed_run_knows_its_row_of_bad_steps():
    health = healthy(max_bad_steps=4)
    for step in (21, 22):
        health.judge(step, math.nan, 1.0)
    again = Health.of(4, 400, health.detector.as_hex(), health.skipped, len(health.streak), [])
    assert again.streak == [21, 22]
    again.judge(23, math.nan, 1.0)
    again.judge(24, math.nan, 1.0)
    assert again.is_exhausted()


def test_the_ledger_can_hold_what_is_not_finite():
    health = healthy()
    why = health.judge(21, math.nan, math.inf)
    line = health.skip(21, why, math.nan, math.inf, [4, 2])
    assert (line["loss"], line["norm"], line["rows"]) == ("nan", "inf", [4, 2])
