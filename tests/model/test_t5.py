"""T5: equal to transformers' in every number, and the laws that hold beyond it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm.model.cache import FIRST_CAPACITY, Cache
from chatlm.model.config import FEED_FORWARDS, ModelConfig
from chatlm.model.hf import key_table
from chatlm.model.t5 import IGNORE_INDEX, T5

SHAPES = [((5,), (4,)), ((7, 3, 1), (2, 6, 1)), ((40, 25), (30, 33))]
"""Source lengths and target lengths of the rows of a batch; the last reaches the last bucket."""


def batch(config, source_lengths, target_lengths, seed=0):
    """Return padded ids, their mask and labels."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(source_lengths), max(source_lengths))
    ids = torch.randint(3, config.vocab_size, shape, generator=generator)
    mask = (torch.arange(shape[1]) < torch.tensor(source_lengths)[:, None]).long()
    shape = (len(target_lengths), max(target_lengths))
    labels = torch.randint(1, config.vocab_size, shape, generator=generator)
    kept = torch.arange(shape[1]) < torch.tensor(target_lengths)[:, None]
    return ids * mask, mask, labels.masked_fill(~kept, IGNORE_INDEX)


def assert_near(ours, theirs, tolerance=1e-5):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("lengths", SHAPES)
@pytest.mark.parametrize("feed_forward_proj", FEED_FORWARDS)
def test_logits_loss_and_gradients_are_those_of_transformers(
    twins, small_config, feed_forward_proj, lengths
):
    config = small_config(feed_forward_proj=feed_forward_proj, num_decoder_layers=3)
    ours, theirs = twins(config)
    ids, mask, labels = batch(config, *lengths)
    expected = theirs(input_ids=ids, attention_mask=mask, labels=labels)
    expected.loss.backward()
    hidden = ours.decode(ours.shift_right(labels), ours.encode(ids, mask), mask)
    assert_near(ours.logits(hidden), expected.logits)
    output = ours(ids, mask, labels)
    (output.loss_sum / output.num_tokens).backward()
    assert_near(output.loss_sum / output.num_tokens, expected.loss)
    their_gradients = {name: p.grad for name, p in theirs.named_parameters()}
    table = key_table(config)
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        assert_near(parameter.grad, their_gradients[table[name]])


def test_every_parameter_has_one_counterpart(twins, small_config):
    config = small_config()
    ours, theirs = twins(config)
    table = key_table(config)
    assert set(table) == {name for name, _ in ours.named_parameters()}
    assert set(table.values()) == {name for name, _ in theirs.named_parameters()}


def test_the_target_is_shifted_right(small_config):
    model = T5(small_config())
    labels = torch.tensor([[7, 8, 1], [9, 1, IGNORE_INDEX], [IGNORE_INDEX, 5, 1]])
    assert model.shift_right(labels).tolist() == [[0, 7, 8], [0, 9, 1], [0, 0, 5]]


def test_every_packed_target_starts_from_pad(small_config):
    model = T5(small_config())
    labels = torch.tensor([[7, 8, 1, 9, 1, IGNORE_INDEX]])
    segments = torch.tensor([[1, 1, 1, 2, 2, 0]])
    assert model.shift_right(labels, segments).tolist() == [[0, 7, 8, 0, 9, 0]]


def test_the_loss_counts_only_labels_that_are_kept(small_config):
    config = small_config()
    model = T5(config)
    ids, mask, labels = batch(config, (6, 4), (5, 3))
    output = model(ids, mask, labels)
    assert output.num_tokens.item() == 8
    assert output.num_tokens.dtype == torch.int64
    nothing = model(ids, mask, torch.full_like(labels, IGNORE_INDEX))
    assert (nothing.loss_sum.item(), nothing.num_tokens.item()) == (0.0, 0)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(0, 9))
def test_cached_in_steps_of_any_size_is_uncached(steps, seed):
    config = ModelConfig(
        vocab_size=30, d_model=16, d_kv=4, d_ff=24, num_heads=2, num_layers=1, num_decoder_layers=2
    )
    torch.manual_seed(seed)
    model = T5(config).eval()
    ids, mask, _ = batch(config, (6, 3), (1, 1), seed)
    targets = torch.randint(30, (2, sum(steps)))
    cache, parts = Cache(), []
    with torch.inference_mode():
        memory = model.encode(ids, mask)
        whole = model.decode(targets, memory, mask)
        for tokens in targets.split(steps, dim=1):
            parts.append(model.decode(tokens, memory, mask, cache))
    assert cache.length == sum(steps)
    assert_near(torch.cat(parts, dim=1), whole)


def test_a_cache_grows_past_its_first_capacity_one_token_at_a_time(twins, small_config):
    config = small_config()
    model, _ = twins(config)
    ids, mask, _ = batch(config, (6, 3), (1, 1))
    targets = torch.randint(config.vocab_size, (2, 2 * FIRST_CAPACITY + 3))
    cache = Cache()
    with torch.inference_mode():
        memory = model.encode(ids, mask)
        parts = [model.decode(column, memory, mask, cache) for column in targets.split(1, dim=1)]
        assert_near(torch.cat(parts, dim=1), model.decode(targets, memory, mask))


def test_a_reordered_cache_continues_the_chosen_rows(twins, small_config):
    config = small_config()
    model, _ = twins(config)
    ids, mask, _ = batch(config, (6,), (1,))
    ids, mask = ids.expand(3, -1), mask.expand(3, -1)
    targets, last = torch.randint(config.vocab_size, (3, 5)), torch.randint(3, 9, (3, 1))
    rows = torch.tensor([2, 0, 2])
    cache = Cache()
    with torch.inference_mode():
        memory = model.encode(ids, mask)
        model.decode(targets, memory, mask, cache)
        cache.reorder(rows)
        continued = model.decode(last, memory, mask, cache)
        afresh = model.decode(torch.cat([targets[rows], last], dim=1), memory, mask)
    assert_near(continued, afresh[:, -1:])


@pytest.mark.parametrize("as_bool", [False, True])
def test_padding_changes_nothing(twins, small_config, as_bool):
    config = small_config()
    model, _ = twins(config)
    ids, mask, labels = batch(config, (7, 4), (6, 3))
    noise = torch.randint(3, config.vocab_size, (2, 5))
    padded_ids = torch.cat([ids, noise], dim=1)
    padded_mask = torch.cat([mask, torch.zeros_like(noise)], dim=1)
    padded_labels = torch.cat([labels, torch.full_like(noise, IGNORE_INDEX)], dim=1)
    if as_bool:
        padded_mask = padded_mask.bool()
    short, long = model(ids, mask, labels), model(padded_ids, padded_mask, padded_labels)
    assert long.num_tokens == short.num_tokens
    assert_near(long.loss_sum, short.loss_sum)


def test_a_batch_is_the_sum_of_its_rows(twins, small_config):
    config = small_config()
    model, _ = twins(config)
    ids, mask, labels = batch(config, (7, 4, 1), (2, 5, 3))
    rows = [model(ids[i : i + 1], mask[i : i + 1], labels[i : i + 1]) for i in range(3)]
    output = model(ids, mask, labels)
    assert_near(output.loss_sum, torch.stack([row.loss_sum for row in rows]).sum())
    assert output.num_tokens == sum(int(row.num_tokens) for row in rows)


def test_packing_changes_neither_loss_nor_gradients(twins, small_config):
    config = small_config()
    model, _ = twins(config)
    ids, mask, labels = batch(config, (7, 4, 3), (2, 5, 3))
    apart = model(ids, mask, labels)
    expected = torch.autograd.grad(apart.loss_sum, tuple(model.parameters()))
    sources, source_segments, targets, target_segments = [], [], [], []
    for i in range(3):
        source, target = ids[i][mask[i] == 1], labels[i][labels[i] != IGNORE_INDEX]
        sources.append(source)
        source_segments.append(torch.full_like(source, i + 1))
        targets.append(target)
        target_segments.append(torch.full_like(target, i + 1))
    tail = torch.tensor([0, 0])
    packed = model(
        torch.cat([*sources, tail])[None],
        torch.cat([*source_segments, tail])[None],
        torch.cat([*targets, tail + IGNORE_INDEX])[None],
        torch.cat([*target_segments, tail])[None],
    )
    assert packed.num_tokens == apart.num_tokens
    assert_near(packed.loss_sum, apart.loss_sum)
    gradients = torch.autograd.grad(packed.loss_sum, tuple(model.parameters()))
    for ours, theirs in zip(gradients, expected, strict=True):
        assert_near(ours, theirs)


def test_bf16_autocast_is_finite_and_near(twins, small_config):
    config = small_config()
    model, _ = twins(config)
    ids, mask, labels = batch(config, (7, 4, 3), (2, 5, 3))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(ids, mask, labels)
    output.loss_sum.backward()
    assert output.loss_sum.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert_near(output.loss_sum, model(ids, mask, labels).loss_sum, 3e-2)


def test_a_model_in_bf16_is_finite(twins, small_config):
    config = small_config()
    model, _ = twins(config)
    output = model.bfloat16()(*batch(config, (7, 4, 3), (2, 5, 3)))
    output.loss_sum.backward()
    assert torch.isfinite(output.loss_sum)


def test_a_frozen_table_gets_no_gradient_and_the_rest_is_unchanged(twins, small_config):
    config = small_config()
    model, _ = twins(config)
    inputs = batch(config, (7, 4), (2, 5))
    model(*inputs).loss_sum.backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    model.embedding.weight.requires_grad_(False)
    model(*inputs).loss_sum.backward()
    for name, parameter in model.named_parameters():
        if name == "embedding.weight":
            assert parameter.grad is None
        else:
            assert torch.equal(parameter.grad, expected[name])


def test_dropout_acts_in_training_only(small_config):
    config = small_config(dropout_rate=0.5)
    model = T5(config)
    inputs = batch(config, (7, 4), (2, 5))
    assert model(*inputs).loss_sum != model(*inputs).loss_sum
    model.eval()
    assert model(*inputs).loss_sum == model(*inputs).loss_sum


@pytest.mark.parametrize("feed_forward_proj", FEED_FORWARDS)
def test_weights_start_from_the_distributions_of_transformers(feed_forward_proj):
    from transformers import T5Config, T5ForConditionalGeneration

    config = ModelConfig(
        vocab_size=500,
        d_model=96,
        d_kv=16,
        d_ff=320,
        num_heads=12,
        num_layers=1,
        num_decoder_layers=1,
        feed_forward_proj=feed_forward_proj,
        initializer_factor=0.7,
    )
    torch.manual_seed(0)
    ours = dict(T5(config).named_parameters())
    theirs = dict(T5ForConditionalGeneration(T5Config(**config.to_hf())).named_parameters())
    for name, their_name in key_table(config).items():
        mine, other = ours[name], theirs[their_name]
        if "norm" in name:
            assert torch.equal(mine, other)
            continue
        # Six standard errors of an estimated deviation and of an estimated mean.
        width = 6 * other.std() / mine.numel() ** 0.5
        assert abs(mine.std() - other.std()) < width
        assert abs(mine.mean()) < width
