"""The benchmark of `train.py plan` compares every case that it was asked for."""

import json

import pytest

from benchmarks import plan_accuracy
from tests import programs


def test_a_case_has_predicted_and_measured_figures(capfd):
    done = programs.run(plan_accuracy.main, ["cases=starter:256", "optimizers=adamw"], capfd)
    found = json.loads(done.stdout.splitlines()[-1])
    (case,) = found["cases"]
    assert (case["model"], case["optimizer"], case["tokens"]) == ("starter", "adamw", 256)
    ratio = case["memory_predicted"] / case["memory_measured"]
    assert case["memory_error"] == pytest.approx(ratio - 1)
    assert case["holds"] == (abs(case["memory_error"]) <= 0.1 and abs(case["step_error"]) <= 0.25)
    assert done.returncode == int(not case["holds"])
    parts = case["memory_parts"]
    assert parts["weights"] == parts["gradients"] == 4 * 1_496_832
    assert min(case["microbatch_measured"], case["optimizer_measured"]) > 0
