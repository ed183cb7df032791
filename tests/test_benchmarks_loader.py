"""The loader's benchmark runs on a small store and tells its layouts apart."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from /proc"
)
def test_the_figures_of_a_small_store(tmp_path):
    argv = ["rows=3000", "steps=2", "batch_sizes=256", "processes=1,2", f"folder={tmp_path}"]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "loader.py", *argv],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["cold"]["pairs"] == 3000
    assert found["cold"]["mib_peak"]["anonymous"] < 100
    cases = {(case["processes"], case["fixed_shapes"]): case for case in found["speed"]}
    assert set(cases) == {(1, False), (1, True), (2, False), (2, True)}
    for (_, fixed_shapes), case in cases.items():
        assert case["tokens_per_cpu_second"] > 0
        assert (case["target_filler"] > 0) == (case["source_filler"] > 0) == fixed_shapes
        assert max(case["target_filler"], case["source_filler"]) < 0.05
    for other in found["losers"]:
        assert other["source_padding"] > cases[1, True]["source_filler"]
        assert other["target_padding"] > cases[1, True]["target_filler"]
    assert list(tmp_path.iterdir()) == []
