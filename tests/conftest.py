"""What all tests share: one thread, no network, and shapes that are checked.

Imports no torch: the tests of the rooms without it stay quick. The hook below checks jaxtyping's
annotations with beartype whenever one of the tensor rooms is imported.
"""

import os
import sys

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

TENSOR_ROOMS = ["chatlm.model", "chatlm.generate", "chatlm.objectives"]
# Of chatlm.glm those modules whose signatures transformers does not look at.
TENSOR_ROOMS += ["chatlm.glm.layers", "chatlm.glm.positions", "chatlm.glm.rotary"]

install_import_hook(TENSOR_ROOMS, "beartype.beartype")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give all tests of a file to one process: they share what is costly to make.

    Spread test by test, several processes would each train, export and start what a file needs.
    Another `--dist` than what `-n` alone means stays as it was asked for.
    """
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.fixture(autouse=True)
def _one_thread():
    """Hold torch, where a test has imported it, to one thread and to all floats."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def twins():
    """Return a function: config -> (our T5, Hugging Face's T5 with the same weights), in eval mode.

    With rotary positions, which theirs does not have, the second is None.

    The weights are seeded; every parameter, norms included, has a value of its own. A `gain` above
    1 makes them livelier than a fresh T5's, whose tied table likes to repeat its input.
    """
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    from chatlm.model.hf import key_table
    from chatlm.model.t5 import T5

    def make(config, seed=0, gain=1.0):
        torch.manual_seed(seed)
        ours = T5(config)
        with torch.no_grad():
            for name, weight in ours.named_parameters():
                if "norm" in name:
                    weight.mul_(1 + 0.3 * torch.rand_like(weight))
                elif name != "embedding.weight":
                    weight.mul_(gain)
        if config.is_rotary:  # there is no other side
            return ours.eval(), None
        theirs = T5ForConditionalGeneration(T5Config(**config.to_hf()))
        table = key_table(config)
        state = {table[key]: tensor for key, tensor in ours.state_dict().items()}
        missing, unexpected = theirs.load_state_dict(state, strict=False)
        assert not unexpected
        assert all("embed_tokens" in key or "lm_head" in key for key in missing)
        return ours.eval(), theirs.eval()

    return make


@pytest.fixture
def small_config():
    """Return a function that makes a small ModelConfig, with any field overridden."""
    from chatlm.model.config import ModelConfig

    def make(**overrides):
        shape = {
            "vocab_size": 61,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_heads": 3,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 12,
        }
        return ModelConfig(**{**shape, **overrides})

    return make


@pytest.fixture(scope="session")
def sums(tmp_path_factory):
    """Return a data folder of sums to train on, which all tests share and none changes."""
    from tests import tiny_data

    return tiny_data.make(tmp_path_factory.mktemp("sums"))


@pytest.fixture
def run_on_sums(sums, tmp_path, monkeypatch):
    """Return a function (name, settings) that trains in tmp_path and returns the run folder."""
    from tests.trainings import train_tiny

    monkeypatch.chdir(tmp_path)

    def go(name, **changes):
        return train_tiny(f"out/{name}", **{"data": sums} | changes)

    return go
