"""No value that is not finite gets past the check, wherever it hides."""

import math

import pytest
import torch

from chatlm.errors import SickRunError
from chatlm.health import finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("place", [0, 499, 999])
def test_one_bad_value_among_a_thousand_is_found(value, dtype, place):
    tensors = {"good": torch.randn(40, 25, dtype=dtype), "bad": torch.zeros(40, 25, dtype=dtype)}
    assert finite.not_finite(tensors) == []
    tensors["bad"].view(-1)[place] = value
    assert finite.not_finite(tensors) == ["bad"]


def test_whole_numbers_empty_tensors_and_the_largest_floats_are_finite():
    largest = torch.full((9,), torch.finfo(torch.float32).max)
    assert finite.not_finite({"a": torch.arange(5), "b": torch.zeros(0), "c": largest}) == []


def test_the_message_names_the_tensors():
    with pytest.raises(SickRunError, match=r"after step 7 2 tensors .* \(w, m\|exp_avg\)"):
        finite.check(7, {"w": torch.tensor([math.nan])}, {"m|exp_avg": torch.tensor(math.inf)})
