"""The trainer survives a slice of the torture: each scenario of `make torture`, with few faults.

All scenarios run once, in one process of their own that forks the trainings; the tests read what it
found. `benchmarks/torture/` says what each does, `make torture` runs the full counts.
"""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCENARIOS = sorted(
    (f"R{int(path.stem[1:3])}" for path in (ROOT / "benchmarks" / "torture").glob("r[0-9]*_*.py")),
    key=lambda name: int(name[1:]),
)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, /proc, pidfd")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Returns scenario -> result; of several test processes one runs them, the others wait."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    out = folder / "torture.json"
    with (folder / "torture.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            argv = [f"scenarios={','.join(SCENARIOS)}", "counts=slice", f"out={out}"]
            command = [sys.executable, "-m", "benchmarks.torture.run", *argv]
            env = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
            assert out.exists(), done.stderr[-3000:]
    return json.loads(out.read_text())["scenarios"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_slice_of_the_torture_is_survived(found, name):
    result = found[name]
    if result["skipped"]:
        pytest.skip(result["skipped"])
    assert not result["failures"], "\n".join([*result["failures"], result["repeat"]])
    assert result["faults"] or name == "R18"


def test_no_sample_was_lost_or_fed_twice(found):
    figures = found["R18"]["figures"]
    assert figures["runs"] >= 5
    assert figures["samples_applied"] == 364 * figures["runs"]
