"""What the tests of engines share with those of adapters."""

from tests.adapters.conftest import make_tokenizer  # noqa: F401 - a fixture
