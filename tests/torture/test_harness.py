"""The harness sees what it is to see: lost samples, other bits, damage; and README quotes it."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import harness
from benchmarks.harness import Result
from benchmarks.torture import faults, fed, report
from benchmarks.torture.outcome import Outcome
from chatlm.errors import ConfigError

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


# ---- what both harnesses share ------------------------------------------------------------------


def scenario(**more):
    made = ModuleType("scenario")
    made.__dict__.update({"TITLE": "kills", "COUNTS": {"full": 200, "slice": 4}} | more)
    return made


def record(name, faults=1, skipped="", **more):
    return {"id": name, "faults": faults, "failures": [], "skipped": skipped} | more


def test_what_is_asked_for_comes_in_the_order_of_the_harness():
    known = {"R1": scenario(), "R3": scenario(), "PEERS": scenario()}

    def asked(*names):
        return harness.asked(harness.Settings(scenarios=list(names)), known, ["PEERS"])

    assert asked() == ["R1", "R3"]
    assert asked("r3", "r1", "peers") == ["R1", "R3", "PEERS"]
    with pytest.raises(ConfigError, match="no scenario R9; there are R1, R3, PEERS"):
        asked("R1", "R9")


def test_a_count_is_a_name_or_a_number():
    found = [harness.count_of(scenario(), counts) for counts in ("full", "slice", "17")]
    assert found == [200, 4, 17]
    with pytest.raises(ConfigError, match="counts=half: full, slice, or a number"):
        harness.count_of(scenario(), "half")


def test_all_scenarios_of_a_folder_are_found():
    found = harness.discovered(ROOT / "benchmarks" / "security")
    assert list(found) == ["S1", "S2", "S3", "S5"]
    assert all(one.COUNTS["slice"] < one.COUNTS["full"] for one in found.values())


def test_a_scenario_that_breaks_off_has_failed_and_says_how_to_repeat_it(capfd):
    def work():
        raise OSError("no space")

    found = harness.recorded("R1", scenario(), work, "do it again")
    assert (found["id"], found["title"], found["repeat"]) == ("R1", "kills", "do it again")
    assert found["failures"] == ["the scenario broke off: OSError('no space')"]
    assert "no space" in capfd.readouterr().err
    whole = harness.recorded("R1", scenario(), lambda: Result("R1", "kills", 3), "")
    assert (whole["faults"], whole["failures"], "repeat" in whole) == (3, [], False)


def test_the_file_keeps_what_was_not_asked_for_or_could_not_run(tmp_path):
    out = tmp_path / "found.json"
    found = [record("R10", 5), record("R2", 7, failures=["lost"]), record("R3", 0, "no strace")]
    harness.write(out, harness.merged(out, found, ["torch"], "attacks") | {"peers": {"a": 1}})
    again = [record("R10", 0, "no root"), record("R2", 8)]
    harness.write(out, harness.merged(out, again, ["torch"], "attacks"))
    kept = json.loads(out.read_text())
    assert list(kept["scenarios"]) == ["R2", "R3", "R10"]
    assert [one["faults"] for one in kept["scenarios"].values()] == [8, 0, 5]
    assert (kept["attacks"], kept["failures"], kept["peers"]) == (13, 0, {"a": 1})
    assert kept["machine"].keys() == {"system", "python", "torch"}
