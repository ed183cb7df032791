"""Where the weights, gradients and moments of a run lie, and how its processes bring them together.

In: the accelerator that the launch line made, and a model that is whole on every process. Out: an
`Engine`, of which there are four: `Engine` itself, where every process holds everything (one GPU,
or DDP); `TreeSum`, the same on CPUs, with equal bits on any number of processes; `DeepSpeed` (ZeRO
stage 1, 2 or 3); and `FullyShard` (PyTorch's FSDP2). Methods marked as collective are called by all
processes. It computes no loss and decides no step.
"""

from accelerate.utils import DistributedType

from chatlm.config import TrainConfig
from chatlm.engines.deepspeed import DeepSpeed
from chatlm.engines.fully_shard import FullyShard
from chatlm.engines.tree_sum import TreeSum, can_share
from chatlm.engines.whole import Engine
from chatlm.errors import ConfigError
from chatlm.launch import Launch
from chatlm.model.t5 import T5
from chatlm.model.trainee import Trainee

__all__ = ["DeepSpeed", "Engine", "FullyShard", "TreeSum", "make"]


def make(launch: Launch, config: TrainConfig, model: Trainee) -> Engine:
    """Returns the engine that the launch line asks for.

    Raises:
        ConfigError: this model cannot be trained so.
    """
    if launch.accelerator.distributed_type == DistributedType.DEEPSPEED:
        return DeepSpeed(launch.accelerator, config, model)
    if launch.fsdp2:
        if not isinstance(model, T5):
            raise ConfigError(
                "FSDP2 is for our own models: with base= launch with runs/ddp.yaml, or "
                "accelerate.yaml (ZeRO-2)"
            )
        reshard = launch.reshard_after_forward
        return FullyShard(launch.accelerator, config, model, reshard=reshard)
    if can_share(launch.accelerator, config):
        return TreeSum(launch.accelerator, config, model)
    return Engine(launch.accelerator, config, model)
