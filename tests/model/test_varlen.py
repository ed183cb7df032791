"""The varlen route prepares what the flash kernel wants, and refuses what it cannot take."""

import pytest
import torch
from attention_cases import CASES, inputs, offsets
from torch._subclasses.fake_tensor import FakeTensorMode

from chatlm.errors import ConfigError
from chatlm.model.varlen import varlen_attention


def test_a_cpu_is_refused_in_one_line_that_says_what_to_set():
    case = CASES["several"]
    ends = offsets(case.queries), offsets(case.keys)
    with pytest.raises(ConfigError, match=r"float32 on cpu.*attention=auto") as refusal:
        varlen_attention(*inputs(case), *ends, 9, 7, 1.0, False)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("dtype", "width", "message"),
    [(torch.float32, 64, "precision=bf16"), (torch.bfloat16, 12, "model.d_kv")],
)
def test_what_the_kernel_cannot_take_on_a_gpu_is_refused(dtype, width, message):
    with FakeTensorMode():
        row = torch.empty(17, 3, width, dtype=dtype, device="cuda")
        ends = torch.empty(5, dtype=torch.int32, device="cuda")
        with pytest.raises(ConfigError, match=message):
            varlen_attention(row, row, row, ends, ends, 9, 9, 1.0, False)
