"""The flex route: its blocks and its scores are those of attention pair by pair."""

import pytest
import torch
from attention_cases import (
    CASES,
    HEADS,
    Case,
    alike,
    inputs,
    matrix,
    offsets,
    reference,
    states,
)
from torch.nn.attention.flex_attention import create_block_mask

from chatlm.model.flex import (
    flex_cross_attention,
    flex_self_attention,
    make_block_mask,
    make_cross_block_mask,
)
from chatlm.model.offsets import pair_numbers
from chatlm.model.position import RelativeBias

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

LENGTHS = {
    "several": (5, 2, 9, 1),
    "whole blocks": (128, 256, 128),
    "long ones": (300, 50, 700, 1, 129),
    "empty ones": (0, 100, 0, 0, 200, 0),
    "one token": (1,),
}


def lists(counts, columns):
    return [
        sorted(row[:count])
        for count, row in zip(counts[0, 0].tolist(), columns[0, 0].tolist(), strict=True)
    ]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_blocks_are_those_that_asking_every_score_finds(lengths, causal):
    num_tokens = sum(lengths)
    mask = make_block_mask(offsets(lengths), num_tokens, causal)
    numbers = pair_numbers(offsets(lengths), num_tokens)

    def visible(batch, head, q, kv):
        same = numbers[q] == numbers[kv]
        return same & (q >= kv) if causal else same

    asked = create_block_mask(visible, None, None, num_tokens, num_tokens, device="cpu")
    assert mask.shape == asked.shape
    assert asked.full_kv_num_blocks is not None
    for kind in ("kv", "full_kv", "q", "full_q"):
        ours, theirs = (
            lists(getattr(one, f"{kind}_num_blocks"), getattr(one, f"{kind}_indices"))
            for one in (mask, asked)
        )
        assert ours == theirs, kind


def test_most_blocks_of_a_long_row_of_short_pairs_are_never_computed():
    mask = make_block_mask(offsets((64,) * 128), 8192, causal=False)
    assert mask.sparsity() > 98


def test_cross_blocks_leave_out_none_that_has_a_visible_score():
    queries, keys = (10, 0, 200, 3, 90), (150, 7, 0, 30, 300)
    mask = make_cross_block_mask(offsets(queries), offsets(keys), sum(queries), sum(keys))
    seen = pair_numbers(offsets(queries), sum(queries))[:, None] == pair_numbers(
        offsets(keys), sum(keys)
    )
    computed = mask.to_dense()[0, 0].bool().repeat_interleave(128, 0).repeat_interleave(128, 1)
    assert not (seen & ~computed[: len(seen), : seen.shape[1]]).any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["empty pairs between", "pairs over several blocks"])
def test_self_attention_with_bias_equals_pair_by_pair(name, causal):
    case = alike(CASES[name])
    parts = inputs(case)
    longest = max(case.queries)
    table = torch.randn(HEADS, 2 * longest - 1, generator=torch.Generator().manual_seed(9))
    mask = make_block_mask(offsets(case.queries), sum(case.queries), causal)
    expected = reference(*parts, case, 0.5, matrix(table, longest, longest), causal)
    gathered = flex_self_attention(*parts, mask, table, 0.5)
    torch.testing.assert_close(gathered, expected, rtol=1e-5, atol=1e-5)


def test_a_table_shorter_than_the_filler_serves_all_real_pairs():
    """Distances beyond the table share its ends: no real pair has any."""
    case = Case((5, 7, 140), (5, 7, 140))
    parts = inputs(case)
    table = torch.randn(HEADS, 2 * 7 - 1, generator=torch.Generator().manual_seed(9))
    mask = make_block_mask(offsets(case.queries), 152, causal=True)
    query, key, value = (part[:12] for part in parts)
    real = Case((5, 7), (5, 7))
    expected = reference(query, key, value, real, 1.0, matrix(table, 7, 7), causal=True)
    gathered = flex_self_attention(*parts, mask, table, 1.0)
    torch.testing.assert_close(gathered[:12], expected, rtol=1e-5, atol=1e-5)
    assert gathered.isfinite().all()


def test_far_distances_share_a_bucket_so_a_table_up_to_it_serves_longer_pairs(small_config):
    config = small_config(num_heads=HEADS, relative_attention_max_distance=20)
    case = Case((50, 3), (50, 3))
    mask = make_block_mask(offsets(case.queries), 53, causal=False)
    bias = RelativeBias(config, bidirectional=True).requires_grad_(False)
    short, long = (
        flex_self_attention(*inputs(case), mask, bias(farthest, farthest), 1.0)
        for farthest in (20, 49)
    )
    torch.testing.assert_close(short, long, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["no keys for a query", "no query for a key", "pairs over several blocks"]
)
def test_cross_attention_equals_pair_by_pair(name):
    case = CASES[name]
    parts = inputs(case)
    mask = make_cross_block_mask(
        offsets(case.queries), offsets(case.keys), sum(case.queries), sum(case.keys)
    )
    gathered = flex_cross_attention(*parts, mask, 1.0)
    torch.testing.assert_close(gathered, reference(*parts, case, 1.0), rtol=1e-5, atol=1e-5)


def test_the_bias_table_gets_the_gradient_of_every_score_that_used_it():
    """Queries, keys and values get none on a CPU, but the table does, by the code that traces it
    for a GPU."""
    case = Case((5, 2, 9, 1), (5, 2, 9, 1))
    parts = inputs(case)
    mask = make_block_mask(offsets(case.queries), 17, causal=True)
    table = torch.randn(HEADS, 17, generator=torch.Generator().manual_seed(9))
    grads = []
    for attend in (
        lambda bias: flex_self_attention(*parts, mask, bias, 1.0),
        lambda bias: reference(*parts, case, 1.0, matrix(bias, 9, 9), causal=True),
    ):
        leaf = table.clone().requires_grad_()
        attend(leaf * 1.0).backward(states(case.queries, 8))
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)
