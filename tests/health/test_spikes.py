"""The detector's laws: silent on what trainings do by themselves, loud on what they do not."""

import math
import random

import pytest

from chatlm.health import spikes
from chatlm.health.spikes import SpikeDetector

VOCAB = 1000
GUESSING = math.log(VOCAB)


def feed(losses):
    """Returns the detector after the losses, and the numbers of those that it called spikes."""
    detector, found = SpikeDetector(VOCAB), []
    for number, loss in enumerate(losses, 1):
        if loss > detector.threshold():
            found.append(number)
        else:
            detector.add(loss)
    return detector, found


def falling(count, *, seed=0, noise=0.15):
    """Returns losses as a small training has them: a fast fall, a slow one, noise."""
    random.seed(seed)
    curve = (0.5 + 3 * math.exp(-step / 20) + 2.5 * math.exp(-step / 200) for step in range(count))
    return [loss + random.gauss(0, noise) for loss in curve]


@pytest.mark.parametrize("seed", range(8))
def test_a_falling_noisy_curve_raises_no_alarm(seed):
    assert feed(falling(1000, seed=seed))[1] == []


@pytest.mark.parametrize("seed", range(8))
def test_single_pairs_of_very_unequal_loss_raise_no_alarm(seed):
    random.seed(seed)
    assert feed([min(random.expovariate(1.0) + 0.2, GUESSING) for _ in range(300)])[1] == []


@pytest.mark.parametrize("step", [12, 40, 300])
def test_a_jump_is_found_at_once_and_each_time(step):
    losses = [*falling(step), 9.0, 9.5, 9.2, *falling(step + 20)[step:]]
    assert feed(losses)[1] == [step + 1, step + 2, step + 3]


def test_what_was_found_is_not_remembered():
    detector, found = feed([*falling(100), 50.0])
    assert found == [101]
    assert max(detector.losses) < 6


def test_a_rise_of_less_than_a_nat_is_never_a_spike():
    detector, _ = feed([1.0] * 50)
    assert detector.threshold() == 1.0 + spikes.LEAST_RISE


def test_too_few_losses_raise_no_alarm():
    detector, _ = feed([5.0] * (spikes.LEAST_LOSSES - 1))
    assert detector.threshold() == math.inf
    detector.add(5.0)
    assert detector.threshold() < math.inf


def test_saved_and_loaded_it_finds_the_same_to_the_bit():
    whole, _ = feed(falling(70))
    again = SpikeDetector.from_hex(VOCAB, whole.as_hex())
    assert again.threshold().hex() == whole.threshold().hex()
    for loss in falling(90)[70:]:
        whole.add(loss)
        again.add(loss)
    assert again.as_hex() == whole.as_hex()
    assert len(again.as_hex()) == spikes.WINDOW
