"""Models of others to plan with."""

from pathlib import Path

import pytest

from tests.adapters import small
from tests.adapters.conftest import make_tokenizer  # noqa: F401


@pytest.fixture(scope="session")
def bases(tmp_path_factory, make_tokenizer) -> dict[str, Path]:  # noqa: F811
    """Return a tiny base of each kind."""
    tokenizer = make_tokenizer(template=None, texts=small.TEXTS)
    kinds = ("causal", "seq2seq", "llama", "chatglm")
    return small.bases(tmp_path_factory.mktemp("bases"), tokenizer, kinds)
