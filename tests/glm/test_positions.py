"""Positions and masks as pictures: x = may attend, . = may not. 7 8 9 = [MASK] [gMASK] <sop>."""

import pytest
import torch

from chatlm.glm.positions import SpecialIds, layout, require_form
from chatlm.glm.rotary import rotate, rotation

SPECIAL = SpecialIds(sop=9, mask=7, gmask=8)


def laid_out(rows, mask=None):
    """Return positions and pictures of the rows."""
    ids = torch.tensor(rows)
    found = layout(ids, None if mask is None else torch.tensor(mask), SPECIAL)
    pictures = [
        [" ".join("x" if seen else "." for seen in line) for line in row[0].tolist()]
        for row in found.mask
    ]
    return found.position_ids.tolist(), pictures


def test_the_context_sees_itself_and_the_answer_sees_what_came_before():
    positions, (picture,) = laid_out([[1, 2, 8, 9, 3, 4]])
    assert positions == [[[0, 1, 2, 2, 2, 2], [0, 0, 0, 1, 2, 3]]]
    assert picture == [
        "x x x . . .",
        "x x x . . .",
        "x x x . . .",
        "x x x x . .",
        "x x x x x .",
        "x x x x x x",
    ]


def test_left_padding_counts_from_the_first_real_token():
    positions, (picture,) = laid_out([[0, 0, 1, 8, 9, 3]], [[0, 0, 1, 1, 1, 1]])
    assert positions == [[[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 2]]]
    assert picture == [
        "x . x x . .",  # padding: seen by nobody, and not empty
        ". x x x . .",
        ". . x x . .",
        ". . x x . .",
        ". . x x x .",
        ". . x x x x",
    ]


def test_right_padding_is_hidden():
    positions, (picture,) = laid_out([[1, 8, 9, 3, 0]], [[1, 1, 1, 1, 0]])
    assert positions == [[[0, 1, 1, 1, 0], [0, 0, 1, 2, 0]]]
    assert picture == [
        "x x . . .",
        "x x . . .",
        "x x x . .",
        "x x x x .",
        "x x x x x",
    ]


def test_the_answer_stands_at_the_mask_token_wherever_that_is():
    positions, _ = laid_out([[1, 7, 2, 9, 3], [7, 8, 2, 9, 3]])
    assert positions == [
        [[0, 1, 2, 1, 1], [0, 0, 0, 1, 2]],
        [[0, 1, 2, 1, 1], [0, 0, 0, 1, 2]],  # [gMASK] goes before [MASK]
    ]


def test_ids_of_padding_and_of_the_answer_do_not_shape_the_sequence():
    positions, _ = laid_out([[9, 8, 1, 8, 9, 8, 9]], [[0, 0, 1, 1, 1, 1, 1]])
    assert positions == [[[0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 2, 3]]]


def test_the_last_tokens_see_all():
    whole = layout(torch.tensor([[1, 8, 9, 3, 4]]), None, SPECIAL)
    last = layout(torch.tensor([[1, 8, 9, 3, 4]]), None, SPECIAL, num_last=2)
    assert torch.equal(last.position_ids, whole.position_ids[..., 3:])
    assert torch.equal(last.mask, whole.mask[:, :, 3:])
    assert last.mask.shape == (1, 1, 2, 5)


@pytest.mark.parametrize(
    ("rows", "mask", "row"),
    [
        ([[1, 8, 9], [1, 8, 3]], None, 1),  # no <sop>
        ([[1, 2, 9]], None, 0),  # no mask token
        ([[1, 9, 8]], None, 0),  # behind it
        ([[8, 9, 1]], [[1, 0, 1]], 0),  # padding
    ],
)
def test_rows_of_another_form_are_named(rows, mask, row):
    ids = torch.tensor(rows)
    given = None if mask is None else torch.tensor(mask)
    with pytest.raises(ValueError, match=rf"row {row} of input_ids has no \[gMASK\] <sop> \(8 9\)"):
        require_form(ids, given, SPECIAL)


@pytest.mark.parametrize(("place", "error"), [(64, 0.01), (512, 0.07), (2047, 0.16)])
def test_fp16_angles_are_off_by_as_much_as_the_published_ones(place, error):
    position_ids = torch.tensor([[[place], [0]]])
    rounded, exact = (rotation(position_ids, 128, name).cos for name in ("fp16", "fp32"))
    assert (rounded - exact).abs().max().item() == pytest.approx(error, abs=0.006)


def test_each_half_turns_with_its_own_position():
    torch.manual_seed(0)
    states = torch.randn(1, 1, 2, 8)
    by = rotation(torch.tensor([[[5], [0]]]), 8, "fp32")
    found = rotate(states, by)
    assert torch.equal(found[..., 4:], states[..., 4:])
    assert not torch.allclose(found[..., :4], states[..., :4])
    assert torch.allclose(found.norm(dim=-1), states.norm(dim=-1))


def test_products_depend_on_distances_alone():
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8)

    def product(first, second):
        turned = (
            rotate(states, rotation(torch.tensor([[[a], [b]]]), 8, "fp32"))
            for states, (a, b) in ((query, first), (key, second))
        )
        return torch.mul(*turned).sum()

    assert torch.allclose(product((3, 7), (1, 2)), product((13, 27), (11, 22)), atol=1e-5)
    assert not torch.allclose(product((3, 7), (1, 2)), product((4, 7), (1, 2)), atol=1e-3)
