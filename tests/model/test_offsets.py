"""Offsets say which pair a token belongs to, and where in it it stands."""

import torch

from chatlm.model.offsets import pair_numbers, positions


def test_picture_of_pairs_with_empty_ones_and_tokens_behind_the_last():
    offsets = torch.tensor([0, 3, 3, 4, 6, 6], dtype=torch.int32)
    assert pair_numbers(offsets, 8).tolist() == [0, 0, 0, 2, 3, 3, 5, 5]
    assert positions(offsets, 8).tolist() == [0, 1, 2, 0, 0, 1, 0, 1]


def test_empty_pairs_in_front_own_nothing():
    offsets = torch.tensor([0, 0, 0, 2], dtype=torch.int32)
    assert pair_numbers(offsets, 2).tolist() == [2, 2]
    assert positions(offsets, 2).tolist() == [0, 1]


def test_nothing_is_read_back_from_the_device():
    """On the meta device a value that is asked for raises, as it would wait on a GPU."""
    offsets = torch.tensor([0, 3, 4], dtype=torch.int32, device="meta")
    assert pair_numbers(offsets, 5).shape == (5,)
    assert positions(offsets, 5).shape == (5,)
