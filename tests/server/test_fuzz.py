"""Requests of all kinds, made from the server's description: no status that it does not name.

Some hundred here; `make torture-serving` sends the promised count.
"""

import pytest
from fuzzed import fuzz


@pytest.mark.parametrize("has_key", [False, True])
def test_nothing_fails_and_nothing_undocumented_comes_back(has_key: bool) -> None:
    counts = fuzz(200, has_key=has_key)
    assert counts.cases >= 200
    assert counts.failures == {}
    assert (counts.server_errors, counts.bypasses) == (0, 0)
    assert (counts.without_key > 120) == has_key
    assert set(counts.statuses) >= {200, 400, 404, 406}, "too few kinds of cases"
