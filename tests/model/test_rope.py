"""Rotary positions: products depend on distances only, lengths stay, places can start later."""

import math

import torch

from chatlm.model.offsets import positions
from chatlm.model.rope import rotate, rotation

TOKENS, HEADS, WIDTH = 12, 3, 8


def states(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_picture_of_one_token():
    """Dimension i turns with i + K/2, the first pair by 1 radian a token, the next by 1/100."""
    turned = rotate(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), rotation(torch.tensor([3]), 4))
    slow = 3 / 10_000**0.5
    expected = [math.cos(3), math.cos(slow), math.sin(3), math.sin(slow)]
    torch.testing.assert_close(turned[0, 0], torch.tensor(expected))


def test_the_first_token_of_each_pair_stays_as_it_is():
    row = states(TOKENS, HEADS, WIDTH)
    places = positions(torch.tensor([0, 5, 9, 12], dtype=torch.int32), TOKENS)
    turned = rotate(row, rotation(places, WIDTH))
    for start in (0, 5, 9):
        assert torch.equal(turned[start], row[start])


def test_scores_depend_on_the_distance_alone():
    query, key = states(1, 1, WIDTH), states(1, 1, WIDTH, seed=1)
    places = torch.arange(200)
    queries = rotate(query.expand(200, 1, WIDTH), rotation(places, WIDTH))[:, 0]
    keys = rotate(key.expand(200, 1, WIDTH), rotation(places, WIDTH))[:, 0]
    scores = queries @ keys.t()
    for distance in (-150, -1, 0, 7, 199):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    assert scores[0].std() > 0.1


def test_turning_keeps_the_length_and_so_the_scale_of_the_scores():
    row = states(TOKENS, HEADS, WIDTH)
    turned = rotate(row, rotation(torch.arange(TOKENS) + 900, WIDTH))
    torch.testing.assert_close(turned.norm(dim=-1), row.norm(dim=-1))


def test_flat_rows_and_batches_turn_alike():
    batch = states(2, TOKENS, HEADS, WIDTH)
    by = rotation(torch.arange(TOKENS), WIDTH)
    flat = rotation(torch.arange(TOKENS).repeat(2), WIDTH)
    assert torch.equal(rotate(batch, by).flatten(0, 1), rotate(batch.flatten(0, 1), flat))


def test_tokens_decoded_later_go_on_from_the_cache():
    row = states(TOKENS, HEADS, WIDTH)
    at_once = rotate(row, rotation(torch.arange(TOKENS), WIDTH))
    later = rotate(row[7:], rotation(torch.arange(7, TOKENS), WIDTH))
    assert torch.equal(at_once[7:], later)


def test_half_precision_is_turned_in_fp32_and_returned_as_it_came():
    row = states(TOKENS, HEADS, WIDTH).bfloat16()
    by = rotation(torch.arange(TOKENS) + 1000, WIDTH)
    turned = rotate(row, by)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotate(row.float(), by).bfloat16())
