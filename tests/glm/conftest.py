"""What the tests of ChatGLM share."""

import pytest

from tests.glm.small import small_model, write_folder
from tests.glm.vocabulary import published_layout


@pytest.fixture(scope="session", autouse=True)
def _registered():
    from chatlm.glm import register

    register()


@pytest.fixture
def make_model():
    """Return the function that makes a small model."""
    return small_model


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Return a folder with the published layout of ids."""
    return write_folder(tmp_path_factory.mktemp("glm") / "published", model=published_layout())
