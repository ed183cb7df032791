"""What all tests share: one thread, no network, and shapes that are checked.

Imports no torch: the tests of the rooms without it stay quick. The hook below checks jaxtyping's
annotations with beartype whenever one of the tensor rooms is imported.
"""

import os
import sys

import pytest
from jaxtyping import install_import_hook

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

TENSOR_ROOMS = ["chatlm.model", "chatlm.generate", "chatlm.objectives"]

install_import_hook(TENSOR_ROOMS, "beartype.beartype")


@pytest.fixture(autouse=True)
def _one_thread():
    """Hold torch, where a test has imported it, to one thread."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
