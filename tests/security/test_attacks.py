"""A slice of the attacks is refused: each scenario of `benchmarks/security`, with few of them.

All scenarios run once, in one process of their own that forks the attacked; the tests read what it
found. `python -m benchmarks.security.run` runs the full counts.
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
    f"S{int(path.stem[1:3])}" for path in (ROOT / "benchmarks" / "security").glob("s[0-9]*_*.py")
)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, /proc, pseudo-terminals")
pytest.importorskip("pyte", reason="the referee of terminals: pip install pyte")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Returns scenario -> result; of several test processes one runs them, the others wait."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    out = folder / "security.json"
    with (folder / "security.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            argv = ["counts=slice", "jobs=1", f"out={out}"]
            command = [sys.executable, "-m", "benchmarks.security.run", *argv]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert out.exists(), done.stderr[-3000:]
    return json.loads(out.read_text())["scenarios"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_slice_of_the_attacks_is_refused(found, name):
    result = found[name]
    if result["skipped"]:
        pytest.skip(result["skipped"])
    assert not result["failures"], "\n".join([*result["failures"], result["repeat"]])
    assert result["faults"]


def test_nothing_ran_and_nothing_was_opened_outside(found):
    assert found["S1"]["figures"]["executions"] == 0
    assert found["S1"]["figures"]["shapes"] >= 20
    if not found["S2"]["skipped"]:
        assert found["S2"]["figures"]["opens_outside"] == 0
    assert found["S3"]["figures"]["attacks"] >= 500
    assert found["S5"]["figures"]["crashed"] == 0
