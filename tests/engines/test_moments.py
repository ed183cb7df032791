"""Names, shapes and copies of what an optimizer remembers, without any engine."""

import pytest
import torch

from chatlm.engines import moments
from chatlm.errors import CheckpointError

SHAPES = {"matrix": torch.Size((2, 3)), "norm": torch.Size((3,))}
KINDS = {"matrix": moments.MUON, "norm": moments.ADAMW}


def whole():
    return {
        "matrix|momentum": torch.rand(2, 3),
        "norm|exp_avg": torch.rand(3),
        "norm|exp_avg_sq": torch.rand(3),
        "norm|step": torch.tensor(4.0),
    }


def test_moments_are_sorted_by_their_tensor():
    found = moments.by_tensor(whole(), SHAPES, KINDS)
    assert {name: set(own) for name, own in found.items()} == {
        "matrix": {"momentum"},
        "norm": {"exp_avg", "exp_avg_sq", "step"},
    }


def test_before_the_first_update_there_are_none():
    assert moments.by_tensor({}, SHAPES, KINDS) == {}


def without(key):
    return {name: value for name, value in whole().items() if not name.startswith(key)}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (without("matrix"), "another set of weights (matrix, ...)"),
        (whole() | {"bias|exp_avg": torch.rand(1)}, "another set of weights (bias, ...)"),
        (without("norm|step"), "other moments of norm (exp_avg, exp_avg_sq)"),
        (whole() | {"matrix|exp_avg": torch.rand(2, 3)}, "(exp_avg, momentum) than this optimizer"),
        (whole() | {"norm|exp_avg": torch.rand(4)}, "norm|exp_avg has the shape (4,), not (3,)"),
        (whole() | {"norm|step": torch.rand(3)}, "norm|step has the shape (3,), not ()"),
    ],
)
def test_moments_of_something_else_are_refused_in_one_line(given, told):
    with pytest.raises(CheckpointError) as refusal:
        moments.by_tensor(given, SHAPES, KINDS)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_copies_are_memory_of_their_own_in_fp32():
    source = torch.rand(3, 4, dtype=torch.bfloat16)
    before = source.float()
    copies = moments.copied([("one", source.mT)], keep=True)
    source.zero_()
    assert copies["one"].dtype == torch.float32
    assert torch.equal(copies["one"], before.mT)


def test_a_process_that_keeps_nothing_takes_part_all_the_same():
    asked = []

    def gathered():
        for name in ("one", "two"):
            asked.append(name)
            yield name, torch.rand(2)

    assert moments.copied(gathered(), keep=False) == {}
    assert asked == ["one", "two"]
