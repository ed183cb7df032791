"""One server for all tests that do it no harm."""

from collections.abc import Iterator

import pytest
from served import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server(step=0.002) as server:
        yield server
