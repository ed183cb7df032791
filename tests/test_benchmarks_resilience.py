"""The cost of resilience follows from the times of turns as its module says."""

import pytest

from benchmarks import resilience_cost
from benchmarks.resilience_cost import Settings, Side


def sides(on, unsaved, off):
    made = []
    for name, times in (("on", on), ("unsaved", unsaved), ("off", off)):
        side = Side(name, {}, resilience_cost.nothing)
        side.wall, side.cpu = list(times), [2 * time for time in times]
        made.append(side)
    return made


def test_a_save_costs_what_turns_with_one_take_longer():
    # One turn was disturbed on all sides alike: neither medians nor ratios see it.
    made = sides(on=[10.6, 21.2, 10.6], unsaved=[10.1, 20.2, 10.1], off=[10.0, 20.0, 10.0])
    found = resilience_cost.figures(Settings(interval=50, rounds=3), made)["wall"]
    assert found["excess_on"] == pytest.approx(0.06)
    assert found["excess_unsaved"] == pytest.approx(0.01)
    assert found["seconds_a_save"] == pytest.approx(0.5)
    # 0.5 s in 500 steps of 0.2 s.
    assert found["excess_at_500_steps"] == pytest.approx(0.01 + 0.005)


def test_what_is_taken_out_of_the_trainer_is_there_under_its_name():
    for owner, name, _ in resilience_cost.patches():
        assert callable(getattr(owner, name))


def test_the_share_of_a_save_falls_with_the_interval():
    (on, *_) = sides(on=[10.0], unsaved=[10.0], off=[10.0])  # 20 s of CPU time in 50 steps
    on.parts = [{"examine": [9.0, 0.02], "save, loop": [9.0, 0.1], "save, writer": [9.0, 0.3]}]
    found = resilience_cost.shares(Settings(interval=50), on)
    assert found == pytest.approx({"care": 0.001, "save": 0.02, "all_at_500_steps": 0.003})
