"""The sdpa route: padding inside attention gives what each pair gives alone, gradients too."""

import pytest
import torch
from attention_cases import CASES, HEADS, Case, alike, inputs, matrix, offsets, reference, states

from chatlm.model.padded import padded_attention


def attend(query, key, value, case, bias=None, causal=False, scale=1.0, dropout_rate=0.0, more=0):
    """Attend with limits that are `more` above the longest pair."""
    return padded_attention(
        query,
        key,
        value,
        offsets(case.queries),
        offsets(case.keys),
        max(case.queries) + more,
        max(case.keys) + more,
        bias,
        causal,
        scale,
        dropout_rate,
    )


@pytest.mark.parametrize("more", [0, 5])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_cross_attention_equals_pair_by_pair(case, more):
    parts = inputs(case)
    torch.testing.assert_close(
        attend(*parts, case, more=more), reference(*parts, case, 1.0), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_self_attention_and_its_gradients_equal_pair_by_pair(case, causal):
    case = alike(case)
    longest = max(case.queries)
    grads = []
    table = torch.randn(HEADS, 2 * longest - 1, generator=torch.Generator().manual_seed(9))
    upstream = states(case.queries, 8)
    for function in (attend, reference):
        parts = inputs(case, grad=True)
        by_distance = table.clone().requires_grad_()
        bias = matrix(by_distance, longest, longest)
        gathered = function(*parts, case, bias=bias, causal=causal, scale=0.5)
        gathered.backward(upstream)
        grads.append([gathered.detach(), *(part.grad for part in parts), by_distance.grad])
    for ours, expected in zip(*grads, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_packed_equals_one_pair_at_a_time_to_the_last_digit_that_rounding_leaves():
    case = CASES["several"]
    parts = inputs(case)
    packed = attend(*parts, case)
    rows = zip(
        parts[0].split(case.queries), *(part.split(case.keys) for part in parts[1:]), strict=True
    )
    alone = [
        attend(query, key, value, Case((len(query),), (len(key),)), more=2)
        for query, key, value in rows
    ]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["several", "no keys for a query", "filler longer than all"])
def test_bf16_stays_within_its_rounding(name):
    case = CASES[name]
    parts = inputs(case, torch.bfloat16)
    exact = reference(*(part.float() for part in parts), case=case, scale=1.0)
    gathered = attend(*parts, case)
    assert gathered.dtype == torch.bfloat16
    torch.testing.assert_close(gathered.float(), exact, rtol=2e-2, atol=2e-2)


def test_a_query_without_keys_gathers_zeros_and_sends_no_gradient():
    case = CASES["no keys for a query"]
    parts = inputs(case, grad=True)
    gathered = attend(*parts, case)
    gathered.sum().backward()
    assert not gathered[3:].any()
    assert parts[0].grad is not None
    assert not parts[0].grad[3:].any()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in parts)


def test_dropout_drops_weights_and_keeps_the_mean():
    case = Case((40,) * 40, (40,) * 40)
    query, key, value = inputs(case)
    torch.manual_seed(0)
    gathered = attend(query, key, torch.ones_like(value), case, dropout_rate=0.3)
    assert gathered.std() > 0.01
    assert abs(gathered.mean().item() - 1) < 0.01
