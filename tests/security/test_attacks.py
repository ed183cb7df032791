"""A slice of the attacks is refused: each scenario of `benchmarks/security`, with few of them.

`make security` runs the full counts.
"""

import sys

import pytest

from tests import slices

SCENARIOS = slices.names("security")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, /proc, pseudo-terminals")
pytest.importorskip("pyte", reason="the referee of terminals: pip install pyte")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return slices.found_by("security", tmp_path_factory, "jobs=1")


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_slice_of_the_attacks_is_refused(found, name):
    assert slices.survived(found[name])


def test_nothing_ran_and_nothing_was_opened_outside(found):
    assert found["S1"]["figures"]["executions"] == 0
    assert found["S1"]["figures"]["shapes"] >= 20
    if not found["S2"]["skipped"]:
        assert found["S2"]["figures"]["opens_outside"] == 0
    assert found["S3"]["figures"]["attacks"] >= 500
    assert found["S5"]["figures"]["crashed"] == 0
