"""One count of operations for the whole project, held to what torch counts in a real T5."""

import numpy as np
import pytest

from chatlm.model.config import ModelConfig
from chatlm.plan import flops

GATED = ModelConfig(
    vocab_size=101,
    d_model=24,
    d_kv=8,
    d_ff=40,
    num_heads=2,
    num_layers=2,
    num_decoder_layers=3,
    feed_forward_proj="gated-gelu",
)
PLAIN = ModelConfig(
    vocab_size=77, d_model=16, d_kv=8, d_ff=64, num_heads=4, num_layers=3, num_decoder_layers=1
)


@pytest.mark.parametrize("config", [GATED, PLAIN])
def test_a_pair_has_the_operations_that_torch_counts_but_for_the_hidden_half(config):
    """Torch computes all T x T scores of the decoder; needed are those that a token may see."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import T5Config, T5ForConditionalGeneration

    source, target = 7, 11
    model = T5ForConditionalGeneration(T5Config(**config.to_hf()))
    model.set_attn_implementation("eager")
    model.train()
    with FlopCounterMode(display=False) as forward:
        loss = model(
            input_ids=torch.ones(1, source, dtype=torch.long),
            labels=torch.ones(1, target, dtype=torch.long),
            use_cache=False,
        ).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    inner = config.num_heads * config.d_kv
    hidden = config.num_decoder_layers * 2 * inner * target * target
    assert forward.get_total_flops() == flops.forward_flops(config, [source], [target]) + hidden
    assert backward.get_total_flops() == 2 * forward.get_total_flops()
    assert flops.training_flops(config, [source], [target]) == 3 * (
        forward.get_total_flops() - hidden
    )


def test_pairs_add_up():
    sources, targets = np.array([3, 9, 1]), np.array([8, 2, 30])
    one_by_one = sum(
        flops.training_flops(GATED, [int(s)], [int(t)])
        for s, t in zip(sources, targets, strict=True)
    )
    assert flops.training_flops(GATED, sources, targets) == pytest.approx(one_by_one, rel=1e-12)


def test_the_default_model_takes_what_was_published_for_it():
    """77.6 GFLOP for a pair of 24 and 103 tokens, 148 for one of 64 and 180."""
    base = ModelConfig()
    assert flops.training_flops(base, [24], [103]) == pytest.approx(77.6e9, rel=1e-3)
    assert flops.training_flops(base, [64], [180]) == pytest.approx(148e9, rel=2e-3)


def test_products_hold_every_weight_but_norms_and_biases_once():
    """Every weight of a linear map is used once a token; the table is the head's."""
    for config in (GATED, PLAIN):
        weights = sum(p.inner * p.columns * p.times for p in flops.linear_products(config, 1, 1))
        layers = 2 * config.num_layers + 3 * config.num_decoder_layers + 2
        tables = 2 * config.relative_attention_num_buckets * config.num_heads
        assert weights == config.num_parameters() - layers * config.d_model - tables
