"""Muon under DeepSpeed's ZeRO, which shards what Muon needs whole.

In: the parameter groups of our Muon. Out: DeepSpeed's own Muon over the same groups. DeepSpeed
gathers every matrix when its gradient is complete and orthogonalises it there, by the polynomials
that we use, so that only flat shards reach the optimizer's step.

Clipping is not available with it: DeepSpeed takes the gradient norm after orthogonalising, when it
says how many weights there are and nothing about gradients. Muon's step does not depend on the size
of a gradient, and AdamW's hardly does.
"""

from collections.abc import Iterable
from typing import Any

import torch


def zero_muon(
    groups: Iterable[dict[str, Any]],
    *,
    momentum: float,
    betas: tuple[float, float],
    epsilon: float,
) -> torch.optim.Optimizer:
    """Returns DeepSpeed's Muon; it marks the parameters for DeepSpeed to tell them apart."""
    # DeepSpeed is slow to import, compiles when this module is, and is not needed without it.
    from deepspeed.runtime.zero.muon import original_muon
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    if not torch.cuda.is_available():
        # A CPU that has half precision would round there, and give other weights than one process.
        original_muon.ns_compute_dtype = _fp32
    made = []
    for group in groups:
        use_muon = group["muon"]
        (parameter,) = group["params"]
        parameter.use_muon = use_muon
        # "gram" is their method that computes in fp16 on a GPU, not in bf16.
        rest = (
            {"momentum": momentum, "ns_method": "gram"}
            if use_muon
            else {"betas": betas, "eps": epsilon}
        )
        made.append({"lr": 0.0, "use_muon": use_muon} | group | rest)
    return MuonWithAuxAdam(made)


def _fp32(_ns_method: str) -> torch.dtype:
    return torch.float32
