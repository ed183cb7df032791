"""T5: equal to transformers' in every number, and the laws that hold beyond it."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm.errors import ConfigError
from chatlm.model.cache import FIRST_CAPACITY, Cache
from chatlm.model.config import FEED_FORWARDS, POSITIONS, ModelConfig
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


def flat(ids, mask, labels):
    """Return the batch as the training forward takes it: pairs one behind the other."""
    sources, targets = mask.bool(), labels != IGNORE_INDEX
    offsets = (
        F.pad(kept.sum(dim=1).cumsum(0), (1, 0)).to(torch.int32) for kept in (sources, targets)
    )
    return (ids[sources], labels[targets], *offsets)


def shifted(labels):
    """Return the decoder's input for padded labels."""
    before = F.pad(labels, (1, -1), value=0)
    return before.masked_fill(before == IGNORE_INDEX, 0)


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
    hidden = ours.decode(shifted(labels), ours.encode(ids, mask), mask)
    assert_near(ours.logits(hidden), expected.logits)
    output = ours(*flat(ids, mask, labels))
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


def test_every_target_is_shifted_right_on_its_own(small_config):
    model = T5(small_config())
    labels = torch.tensor([7, 8, 1, 9, 1, IGNORE_INDEX, 5, 1])
    offsets = torch.tensor([0, 3, 5, 8, 8, 8], dtype=torch.int32)
    assert model.shift_right(labels, offsets).tolist() == [0, 7, 8, 0, 9, 0, 0, 5]


def test_the_loss_counts_only_labels_that_are_kept(small_config):
    config = small_config()
    model = T5(config)
    ids, labels, *offsets = flat(*batch(config, (6, 4), (5, 3)))
    output = model(ids, labels, *offsets)
    assert output.num_tokens.item() == 8
    assert output.num_tokens.dtype == torch.int64
    labels[2:] = IGNORE_INDEX
    assert model(ids, labels, *offsets).num_tokens.item() == 2
    nothing = model(ids, torch.full_like(labels, IGNORE_INDEX), *offsets)
    assert (nothing.loss_sum.item(), nothing.num_tokens.item()) == (0.0, 0)


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.integers(0, 9),
    st.sampled_from(POSITIONS),
)
def test_cached_in_steps_of_any_size_is_uncached(steps, seed, position):
    config = ModelConfig(
        vocab_size=30,
        d_model=16,
        d_kv=4,
        d_ff=24,
        num_heads=2,
        num_layers=1,
        num_decoder_layers=2,
        position=position,
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
def test_padding_changes_no_real_token(twins, small_config, as_bool):
    config = small_config()
    model, _ = twins(config)
    ids, mask, _ = batch(config, (7, 4), (1, 1))
    targets = torch.randint(config.vocab_size, (2, 5))
    noise = torch.randint(3, config.vocab_size, (2, 5))
    padded_ids = torch.cat([ids, noise], dim=1)
    padded_mask = torch.cat([mask, torch.zeros_like(noise)], dim=1)
    if as_bool:
        padded_mask = padded_mask.bool()
    short = model.decode(targets, model.encode(ids, mask), mask)
    long = model.decode(targets, model.encode(padded_ids, padded_mask), padded_mask)
    assert_near(long, short)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("route", ["math", "sdpa"])
def test_packed_loss_and_gradients_are_those_pair_by_pair(twins, small_config, route, position):
    config = small_config(position=position)
    model, _ = twins(config)
    model.attention = route
    ids, mask, labels = batch(config, (7, 4, 1), (2, 5, 3))
    rows = [model(*flat(ids[i : i + 1], mask[i : i + 1], labels[i : i + 1])) for i in range(3)]
    apart = torch.stack([row.loss_sum for row in rows]).sum()
    expected = torch.autograd.grad(apart, tuple(model.parameters()))
    packed = model(*flat(ids, mask, labels))
    assert_near(packed.loss_sum, apart)
    assert packed.num_tokens == sum(int(row.num_tokens) for row in rows)
    gradients = torch.autograd.grad(packed.loss_sum, tuple(model.parameters()))
    for ours, theirs in zip(gradients, expected, strict=True):
        assert_near(ours, theirs)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("route", ["math", "sdpa", "flex"])
def test_filler_behind_the_pairs_changes_nothing(twins, small_config, route, position):
    config = small_config(position=position)
    model, _ = twins(config)
    model.attention = route
    ids, labels, sources, targets = flat(*batch(config, (7, 4), (2, 5)))
    filled = (
        F.pad(ids, (0, 5)),
        F.pad(labels, (0, 6), value=IGNORE_INDEX),
        F.pad(sources, (0, 3), value=len(ids) + 5),
        F.pad(targets, (0, 3), value=len(labels) + 6),
    )
    with torch.no_grad():
        plain, with_filler = model(ids, labels, sources, targets), model(*filled)
    assert with_filler.num_tokens == plain.num_tokens
    assert_near(with_filler.loss_sum, plain.loss_sum)


@pytest.mark.parametrize("position", POSITIONS)
def test_all_routes_give_one_loss_and_one_gradient(twins, small_config, position):
    config = small_config(position=position)
    model, _ = twins(config)
    inputs = flat(*batch(config, (40, 9, 25), (30, 1, 33)))
    results = {}
    for route in ("math", "sdpa"):
        model.attention = route
        loss = model(*inputs).loss_sum
        results[route] = (loss, *torch.autograd.grad(loss, tuple(model.parameters())))
    for ours, theirs in zip(results["sdpa"], results["math"], strict=True):
        assert_near(ours, theirs)
    model.attention = "flex"
    with torch.no_grad():  # FlexAttention has no backward pass on a CPU
        assert_near(model(*inputs).loss_sum, results["math"][0])


def test_distances_beyond_the_table_of_flex_attention_are_told_apart(twins, small_config):
    config = small_config(relative_attention_max_distance=400, relative_attention_num_buckets=32)
    model, _ = twins(config)
    inputs = flat(*batch(config, (390,), (380,)))
    with torch.no_grad():
        expected = model(*inputs).loss_sum
        model.attention = "flex"
        assert_near(model(*inputs).loss_sum, expected)


@pytest.mark.parametrize("position", POSITIONS)
def test_the_training_forward_is_the_padded_one(twins, small_config, position):
    config = small_config(position=position)
    model, _ = twins(config)
    ids, mask, labels = batch(config, (7, 4, 1), (2, 5, 3))
    hidden = model.decode(shifted(labels), model.encode(ids, mask), mask)
    expected = F.cross_entropy(
        model.logits(hidden).flatten(0, 1), labels.flatten(), reduction="sum"
    )
    assert_near(model(*flat(ids, mask, labels)).loss_sum, expected)


def test_an_unknown_route_is_named(small_config):
    config = small_config()
    model = T5(config)
    model.attention = "flash"
    with pytest.raises(ConfigError, match="attention=flash"):
        model(*flat(*batch(config, (3,), (2,))))


def test_bf16_autocast_is_finite_and_near(twins, small_config):
    config = small_config()
    model, _ = twins(config)
    inputs = flat(*batch(config, (7, 4, 3), (2, 5, 3)))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(*inputs)
    output.loss_sum.backward()
    assert output.loss_sum.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert_near(output.loss_sum, model(*inputs).loss_sum, 3e-2)


def test_a_model_in_bf16_is_finite(twins, small_config):
    config = small_config()
    model, _ = twins(config)
    output = model.bfloat16()(*flat(*batch(config, (7, 4, 3), (2, 5, 3))))
    output.loss_sum.backward()
    assert torch.isfinite(output.loss_sum)


def test_a_frozen_table_gets_no_gradient_and_the_rest_is_unchanged(twins, small_config):
    config = small_config()
    model, _ = twins(config)
    inputs = flat(*batch(config, (7, 4), (2, 5)))
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
    inputs = flat(*batch(config, (7, 4), (2, 5)))
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
