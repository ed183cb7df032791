"""Which tensor gets which optimizer, and the rate of each step.

In: a model's named parameters and the settings. Out: one optimizer whose parameter groups hold one
tensor each, with its `name`. Two recipes:

muon: Muon for the matrices of the layers; AdamW for the embedding table, with a rate of its own,
and for norms and relative-bias tables, whose axes are not two spaces that vectors move between.

adamw: AdamW for all. With `rms_scaled` every tensor's rate is multiplied by its root mean square,
as Adafactor does (Shazeer and Stern 2018, section 8, eps2 = 1e-3): T5 initialises the table with
standard deviation 1 and projections with 0.03, and a relative step suits both. Differs from
Adafactor in keeping Adam's full second moment.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from chatlm.config import TrainConfig
from chatlm.errors import ConfigError
from chatlm.optim.muon import EPSILON, Muon
from chatlm.optim.zero import zero_muon

MIN_RMS = 1e-3
MOMENTUM = 0.95
TABLE = "embedding.weight"


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


def make_optimizer(
    named: Iterable[tuple[str, Tensor]],
    config: TrainConfig,
    *,
    deepspeed: bool = False,
    muon: type[Muon] = Muon,
) -> torch.optim.Optimizer:
    """Returns the optimizer over the trainable tensors, one parameter group each.

    A group holds `name`; `rate_factor`, its share of `learning_rate`; and `weight_decay`, which
    matrices get and vectors (norm scales) do not.

    Args:
        named: the tensors by name.
        config: the settings.
        deepspeed: DeepSpeed will shard the tensors, so take its Muon instead of ours.
        muon: our Muon, or one that knows what to do with matrices in pieces.
    """
    groups = [
        {
            "params": [tensor],
            "name": name,
            "weight_decay": config.weight_decay if tensor.ndim > 1 else 0.0,
            "rate_factor": 1.0,
        }
        for name, tensor in named
        if tensor.requires_grad
    ]
    betas = (config.beta1, config.beta2)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=EPSILON, fused=True)
    for group in groups:
        group["muon"] = is_for_muon(group["name"], group["params"][0])
        if group["name"] == TABLE:
            group["rate_factor"] = config.embedding_learning_rate / config.learning_rate
    if deepspeed:
        return zero_muon(groups, momentum=MOMENTUM, betas=betas, epsilon=EPSILON)
    return muon(groups, momentum=MOMENTUM, betas=betas)


def is_for_muon(name: str, tensor: Tensor) -> bool:
    """Tells whether a tensor is a matrix inside a layer."""
    return tensor.ndim == 2 and ".layers." in name


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
        group["lr"] = learning_rate * group["rate_factor"] * scales[group["name"]]
