"""Masks as pictures: x = may attend, . = may not."""

import torch

from chatlm.model.masks import additive_bias, causal_mask, padding_mask


def picture(mask):
    """Return the last two dimensions of a mask as lines."""
    rows = mask.flatten(0, -3).squeeze(0).tolist()
    return [" ".join("x" if seen else "." for seen in row) for row in rows]


def test_padding_hides_the_padded_keys_from_everyone():
    mask = padding_mask(torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]))
    assert mask.shape == (2, 1, 1, 4)
    assert picture(mask[:1]) == ["x x x ."]
    assert picture(mask[1:]) == ["x . . ."]


def test_padding_reads_bool_and_int_alike():
    tokens = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert torch.equal(padding_mask(tokens), padding_mask(tokens.bool()))


def test_causal_hides_the_future():
    assert picture(causal_mask(4, 4)) == [
        "x . . .",
        "x x . .",
        "x x x .",
        "x x x x",
    ]


def test_causal_queries_are_the_last_positions():
    assert picture(causal_mask(2, 5)) == [
        "x x x x .",
        "x x x x x",
    ]
    assert picture(causal_mask(1, 4)) == ["x x x x"]


def test_bias_keeps_what_is_seen_and_buries_what_is_not():
    low = torch.finfo(torch.float32).min
    mask, bias = torch.tensor([[[[True, False]]]]), torch.tensor([[[[3.0, 5.0]]]])
    assert additive_bias(mask, bias).tolist() == [[[[3.0, low]]]]
    assert additive_bias(mask).tolist() == [[[[0.0, low]]]]


def test_a_query_that_sees_nothing_attends_evenly_in_every_precision():
    mask, bias = torch.zeros(1, 1, 1, 4, dtype=torch.bool), torch.full((1, 1, 1, 4), -40.0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert additive_bias(mask, bias, dtype).softmax(-1).flatten().tolist() == [0.25] * 4


def test_gradient_flows_only_to_what_is_seen():
    mask, bias = torch.tensor([[[[True, False]]]]), torch.zeros(1, 1, 1, 2, requires_grad=True)
    additive_bias(mask, bias).sum().backward()
    assert bias.grad is not None
    assert bias.grad.flatten().tolist() == [1.0, 0.0]
