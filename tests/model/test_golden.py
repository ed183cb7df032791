"""Thirty steps of training: transformers' curve, step by step, and the one on record.

The record was made before the flat layout, with padded batches; speed must not change results.
"""

import json
from itertools import accumulate
from pathlib import Path

import pytest
import torch

from chatlm.model.config import FEED_FORWARDS, ModelConfig
from chatlm.model.t5 import IGNORE_INDEX

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "loss_curves.json").read_text())
STEPS = 30


def batches(config):
    """Yield eight pairs a step: a random source, and its reversal repeated as the target."""
    generator = torch.Generator().manual_seed(7)

    def draw(low, high, count=1):
        return torch.randint(low, high, (count,), generator=generator)

    for _ in range(STEPS):
        pairs = []
        for _ in range(8):
            source = draw(3, config.vocab_size, int(draw(2, 24)))
            target = source.flip(0).repeat(int(draw(1, 12)))[:40]
            pairs.append(([*source.tolist(), 1], [*target.tolist(), 1]))
        yield pairs


def padded(pairs):
    ids = torch.zeros(8, max(len(source) for source, _ in pairs), dtype=torch.long)
    labels = torch.full((8, max(len(target) for _, target in pairs)), IGNORE_INDEX)
    for row, (source, target) in enumerate(pairs):
        ids[row, : len(source)] = torch.tensor(source)
        labels[row, : len(target)] = torch.tensor(target)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def flat(pairs):
    sides = list(zip(*pairs, strict=True))
    ids = [torch.tensor([token for row in side for token in row]) for side in sides]
    offsets = [torch.tensor([0, *accumulate(map(len, side))], dtype=torch.int32) for side in sides]
    return (*ids, *offsets)


def train(model, config, loss_of):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    losses = []
    for pairs in batches(config):
        loss = loss_of(pairs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("feed_forward_proj", FEED_FORWARDS)
def test_thirty_steps_are_those_of_transformers_and_those_on_record(feed_forward_proj):
    from transformers import T5Config, T5ForConditionalGeneration

    from chatlm.model.hf import key_table
    from chatlm.model.t5 import T5

    config = ModelConfig(
        vocab_size=120,
        d_model=48,
        d_kv=8,
        d_ff=96,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=3,
        feed_forward_proj=feed_forward_proj,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
    )
    torch.manual_seed(0)
    ours = T5(config)
    theirs = T5ForConditionalGeneration(T5Config(**config.to_hf()))
    table = key_table(config)
    state = {table[key]: tensor.clone() for key, tensor in ours.state_dict().items()}
    theirs.load_state_dict(state, strict=False)

    def our_loss(pairs):
        output = ours(*flat(pairs))
        return output.loss_sum / output.num_tokens

    found = train(ours, config, our_loss)
    assert found == pytest.approx(GOLDEN[feed_forward_proj], rel=2e-4)
    expected = train(theirs, config, lambda pairs: theirs(**padded(pairs)).loss)
    assert found == pytest.approx(expected, rel=2e-4)
