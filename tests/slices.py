"""A slice of a harness in `benchmarks/`, run once in a process of its own that forks.

In: which harness, its settings. Out: scenario -> what it found, which the tests judge. Of several
test processes one runs the slice, the others wait for its file.
"""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
Found = dict[str, dict[str, Any]]


def names(harness: str) -> list[str]:
    """Returns the ids of a harness's scenarios, in order, without importing them."""
    paths = sorted((ROOT / "benchmarks" / harness).glob("[a-z][0-9][0-9]_*.py"))
    return [f"{path.stem[0].upper()}{int(path.stem[1:3])}" for path in paths]


def found_by(harness: str, factory: pytest.TempPathFactory, *settings: str) -> Found:
    """Returns what a slice of all scenarios finds."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    out = folder / f"{harness}.json"
    with (folder / f"{harness}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            told = [f"scenarios={','.join(names(harness))}", "counts=slice", f"out={out}"]
            command = [sys.executable, "-m", f"benchmarks.{harness}.run", *told, *settings]
            env = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
            assert out.exists(), done.stderr[-3000:]
    return json.loads(out.read_text())["scenarios"]


def survived(result: dict[str, Any]) -> int:
    """Returns how many faults a scenario survived; skips a test whose scenario cannot run here."""
    if result["skipped"]:
        pytest.skip(result["skipped"])
    assert not result["failures"], "\n".join([*result["failures"], result["repeat"]])
    return result["faults"]
