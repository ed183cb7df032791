"""The benchmark of batching measures an engine, compares answers, and its figures add up."""

import json
from pathlib import Path

import pytest
from tiny_checkpoint import make_checkpoint

from benchmarks import batching
from tests import programs

Captured = pytest.CaptureFixture[str]


def test_speed_and_equality_of_a_tiny_model(tmp_path: Path, capfd: Captured) -> None:
    folder = make_checkpoint(tmp_path)
    argv = [f"model={folder}", "threads=1", "streams=1,3", "new_tokens=5", "rounds=2", "prompts=12"]
    done = programs.run(batching.main, [*argv, "device=cpu", "baseline=True"], capfd)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kind"] == "torch fp32 cpu"
    assert [row["streams"] for row in found["speed"]] == [1, 3, "generate.stream"]
    for row in found["speed"]:
        assert row["tokens_per_second"] > 0
        assert 0 < row["first_token_seconds_median"] <= row["first_token_seconds_worst"]
        assert row["peak_mib"] > 50
    assert (found["same"]["prompts"], found["same"]["equal"]) == (12, 12)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["streams="], "streams= and prompts=0: nothing to measure"),
        (["dtype=int4"], "dtype=int4: expected auto, fp32 or bf16"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, argv: list[str], message: str, capfd: Captured
) -> None:
    folder = make_checkpoint(tmp_path)
    done = programs.run(batching.main, [f"model={folder}", *argv], capfd)
    assert done.returncode == 2
    assert message in done.stderr
