"""The trainer survives a slice of the torture: each scenario of `make torture`, with few faults.

`benchmarks/torture/` says what each does, `make torture` runs the full counts.
"""

import sys

import pytest

from tests import slices

SCENARIOS = slices.names("torture")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, /proc, pidfd")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return slices.found_by("torture", tmp_path_factory)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_slice_of_the_torture_is_survived(found, name):
    assert slices.survived(found[name]) or name == "R18"


def test_no_sample_was_lost_or_fed_twice(found):
    figures = found["R18"]["figures"]
    assert figures["runs"] >= 3
    assert figures["samples_applied"] == 364 * figures["runs"]
