"""Which tensors a run moves and what they look like, without making them.

In: the settings. Out: names and shapes. Takes no memory.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType

import torch

from chatlm import optim
from chatlm.config import TrainConfig
from chatlm.model.config import ModelConfig
from chatlm.model.t5 import T5
from chatlm.optim import groups

Shape = tuple[int, ...]


def trainable_shapes(config: TrainConfig) -> Mapping[str, Shape]:
    """Returns the shape of every tensor that a run moves, by name."""
    return _shapes(config.model, config.frozen_parts())


@functools.lru_cache(maxsize=8)
def _shapes(shape: ModelConfig, frozen: tuple[str, ...]) -> Mapping[str, Shape]:
    with torch.device("meta"):
        model = T5(shape)
    optim.freeze(model, frozen)
    return MappingProxyType(
        {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    )


def is_for_muon(config: TrainConfig, name: str, shape: Shape) -> bool:
    """Tells whether a run steps a tensor with Muon; with AdamW otherwise."""
    if config.optimizer != "muon":
        return False
    return groups.is_for_muon(name, torch.empty(shape, device="meta"))
