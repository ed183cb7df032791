"""The optimizer and its learning rate.

In: a model's named parameters and the share of the run that is done. Out: an AdamW whose parameter
groups hold one tensor each, and the rate of each group. The schedule is a pure function of the
samples seen, so it does not depend on the number of processes or on resuming.

With `rms_scaled` every tensor's rate is multiplied by its root mean square, as Adafactor does
(Shazeer and Stern 2018, section 8, eps2 = 1e-3): T5 initialises embeddings with standard deviation
1 and projections with 0.03, and a relative step suits both. Differs from Adafactor in keeping
Adam's full second moment.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from chatlm.config import TrainConfig
from chatlm.errors import ConfigError

MIN_RMS = 1e-3


def rate_share(done: float, *, warmup: float, final: float, schedule: str) -> float:
    """Returns the share of the peak rate, in [0, 1].

    Args:
        done: samples seen over samples of the whole run, in [0, 1].
        warmup: share of the run over which the rate rises linearly from 0.
        final: share of the peak that is left at the end (cosine).
        schedule: "cosine" or "constant".
    """
    if done < warmup:
        return done / warmup
    if schedule == "constant":
        return 1.0
    rest = min(1.0, (done - warmup) / (1.0 - warmup))
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * rest))


def freeze(model: nn.Module, parts: Iterable[str]) -> int:
    """Stops the named children of the model from moving; returns how many weights that concerns.

    Freezing `embedding` also freezes the output head: they are one tensor.

    Raises:
        ConfigError: nothing would be left to train.
    """
    for part in parts:
        model.get_submodule(part).requires_grad_(False)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"freeze={','.join(parts)} leaves no weight to train")
    return frozen


def make_optimizer(named: Iterable[tuple[str, Tensor]], config: TrainConfig) -> torch.optim.AdamW:
    """Returns AdamW over the trainable tensors, one parameter group each, `name` in the group.

    Matrices get weight decay, vectors (norm scales) none.
    """
    groups = [
        {
            "params": [tensor],
            "name": name,
            "weight_decay": config.weight_decay if tensor.ndim > 1 else 0.0,
        }
        for name, tensor in named
        if tensor.requires_grad
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=1e-8, fused=True)


@torch.no_grad()
def tensor_scales(named: Mapping[str, Tensor], *, rms_scaled: bool) -> dict[str, float]:
    """Returns what each tensor's rate is multiplied with: its root mean square, at least 1e-3."""
    if not rms_scaled:
        return dict.fromkeys(named, 1.0)
    squares = [torch.linalg.vector_norm(t, dtype=torch.float32) ** 2 for t in named.values()]
    sizes = torch.tensor([tensor.numel() for tensor in named.values()])
    rms = (torch.stack(squares).cpu() / sizes).sqrt()
    return dict(zip(named, rms.clamp_min(MIN_RMS).tolist(), strict=True))


def set_rates(
    optimizer: torch.optim.Optimizer, learning_rate: float, scales: Mapping[str, float]
) -> None:
    """Gives every parameter group its rate for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * scales[group["name"]]
