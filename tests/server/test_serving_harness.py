"""The harness that counts faults of the server: its arithmetic, its file, and one scenario."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving import run, s6_canaries
from benchmarks.serving.clients import Exchange, quantile
from benchmarks.serving.s4_key_timing import mann_whitney
from chatlm.errors import ConfigError


def test_a_shift_is_seen_and_chance_is_not() -> None:
    draw = np.random.default_rng(0)
    times = draw.lognormal(size=(2, 2000))
    assert mann_whitney(times[0], times[1]) > 0.01
    assert mann_whitney(times[0], times[1] * 1.1) < 0.01
    assert mann_whitney(times[0], times[0]) == pytest.approx(1)


def test_quantiles_and_ends() -> None:
    values = [float(one) for one in range(101)]
    random.Random(0).shuffle(values)
    assert (quantile(values, 0.5), quantile(values, 0.99)) == (50, 99)
    assert quantile([3.0], 0.99) == 3
    finished, broken = b"HTTP/1.1 200 OK data: [DONE]", b'HTTP/1.1 200 OK data: {"error":{}}'
    assert [Exchange(data, 0).is_ended_well for data in (finished, broken, b"")] == [1, 1, 0]
    assert [Exchange(data, 0).status for data in (finished, b"")] == [200, 0]


def test_a_scenario_is_added_to_the_file_of_all(tmp_path: Path) -> None:
    out = tmp_path / "serving.json"
    out.write_text(json.dumps({"A9": {"kept": True}}))
    assert run.main(["scenario=s6", f"out={out}"]) == 0
    saved = json.loads(out.read_text())
    assert list(saved) == ["A9", "S6"]
    assert saved["S6"]["what"] == (s6_canaries.__doc__ or "").splitlines()[0]
    assert saved["S6"]["figures"]["canaries"] == 100
    assert saved["S6"]["kept"]
    with pytest.raises(ConfigError, match="no scenario X1"):
        run.main(["scenario=X1"])
