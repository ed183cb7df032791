"""The harness sees what it is to see: lost samples, other bits, damage; and README quotes it."""

import json
from pathlib import Path

import pytest

from benchmarks.torture import faults, fed, report
from benchmarks.torture.outcome import Outcome

ROOT = Path(__file__).parents[2]
ROWS = {"a": 0, "b": 1, "c": 2, "d": 3}


def test_samples_that_come_once_an_epoch_are_right():
    steps = {1: ["a", "b"], 2: ["c", "d"], 3: ["d", "a"], 4: ["b", "c"], 5: ["a"]}
    assert fed.wrong_counts(steps, ROWS, 2) == []


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ({1: ["a", "b"], 2: ["c", "a"]}, "epoch 0: 1 samples lost, 1 repeated"),
        ({1: ["a", "b"], 2: ["c"]}, "epoch 0: 1 samples lost, 0 repeated"),
        ({1: ["a", "b"], 2: ["c", "d"], 3: ["a", "a"]}, "epoch 1: 0 samples lost, 1 repeated"),
        ({1: ["a", "b"], 3: ["c", "d"]}, "step 2 was never applied"),
    ],
)
def test_a_lost_or_repeated_sample_is_seen(steps, problem):
    assert problem in fed.wrong_counts(steps, ROWS, 2)


def test_work_that_was_done_again_counts_once(tmp_path):
    lines = [[[1, ["a"]], [2, ["b"]], [3, ["c"]]], [[2, ["b"]], [3, ["d"]]]]
    attempts = []
    for number, steps in enumerate(lines):
        path = tmp_path / f"{number}.fed"
        path.write_text("".join(json.dumps(step) + "\n" for step in steps))
        attempts.append([path])
    assert fed.history(attempts) == {1: ["a"], 2: ["b"], 3: ["d"]}


def outcome(**changes):
    plain = {
        "run": Path("run"),
        "exit_codes": [0],
        "log": "",
        "steps": [8],
        "weights": "ab",
        "moments": "cd",
        "losses": {1: (0.5).hex(), 2: (0.25).hex()},
        "metrics": [{"step": 1}, {"step": 2}],
    }
    return Outcome(**(plain | changes))


def test_two_runs_of_the_same_bits_do_not_differ():
    assert outcome().difference(outcome()) == ""


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"exit_codes": [75]}, "exit codes"),
        ({"steps": [4]}, "last checkpoints"),
        ({"weights": "xx"}, "weights"),
        ({"moments": "xx"}, "moments"),
        ({"losses": {1: (0.5).hex(), 2: (0.25 + 2**-54).hex()}}, "loss of step 2"),
        ({"losses": {1: (0.5).hex()}}, "loss of step 2"),
        ({"metrics": [{"step": 1}]}, "metrics.jsonl"),
    ],
)
def test_a_run_with_one_other_bit_differs(changes, word):
    assert word in outcome(**changes).difference(outcome())


def test_file_operations_of_saves_are_told_from_those_of_logs():
    saves = ["step_000004", ".tmp-step_000004/model.safetensors", "best", ".tmp-best"]
    logs = ["metrics.jsonl", ".tmp-metrics.jsonl", "ledger.jsonl", ".lock", "config.yaml"]
    assert all(map(faults.is_of_a_save, saves))
    assert not any(map(faults.is_of_a_save, logs))


@pytest.mark.parametrize("page", report.PAGES)
def test_readme_prints_what_the_harness_found(page):
    record = json.loads((ROOT / "benchmarks" / "torture.json").read_text())
    text = (ROOT / page).read_text()
    expected = report.replaced(text, report.readme_lines(record, report.PAGES[page]))
    assert text == expected, "run python -m benchmarks.torture.report"


def test_figures_of_the_file_add_up():
    record = json.loads((ROOT / "benchmarks" / "torture.json").read_text())
    scenarios = record["scenarios"].values()
    assert record["faults"] == sum(one["faults"] for one in scenarios)
    assert record["failures"] == sum(len(one["failures"]) for one in scenarios)
