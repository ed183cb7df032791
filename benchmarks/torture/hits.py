"""Signals that a rank sends to itself at a place in a training: in a forward pass, in a collective.

In: a rank, a signal, the how manieth time. Out: functions of a rank for `Workbench.start(inject=)`.
The other ranks are then in the same forward pass, or wait for this one.
"""

import os
from typing import Any

from benchmarks.torture.faults import Inject

_COLLECTIVES = ("isend", "all_reduce", "broadcast_object_list")


def in_forward(rank: int, number: int, count: int) -> Inject:
    """Sends signal `number` when rank `rank` enters the model for the `count`th time."""

    def inject(here: int) -> None:
        if here != rank:
            return
        from torch.nn.modules.module import register_module_forward_pre_hook

        from chatlm.model.t5 import T5

        hit = _counted(number, count)
        register_module_forward_pre_hook(
            lambda module, _: hit() if isinstance(module, T5) and module.training else None
        )

    return inject


def in_collective(rank: int, number: int, count: int) -> Inject:
    """Sends signal `number` when rank `rank` turns to the others for the `count`th time."""

    def inject(here: int) -> None:
        if here != rank:
            return
        from torch import distributed

        hit = _counted(number, count)
        for name in _COLLECTIVES:
            setattr(distributed, name, _after(hit, getattr(distributed, name)))

    return inject


def _after(hit: Any, call: Any) -> Any:
    def hit_and_call(*words: Any, **named: Any) -> Any:
        hit()
        return call(*words, **named)

    return hit_and_call


def _counted(number: int, count: int) -> Any:
    calls = 0

    def hit() -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), number)

    return hit
