"""What an optimizer remembers, by names that do not depend on who holds it.

In: tensors named `<tensor name>|<moment>`, from a checkpoint or an engine. Out: the same, sorted by
tensor and checked; or copies in this process's own memory. It gathers and places nothing.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from chatlm.errors import CheckpointError

ADAMW = frozenset({"exp_avg", "exp_avg_sq", "step"})
MUON = frozenset({"momentum"})
STEP = "step"
"""AdamW's count of updates, a number in fp32; every other moment has its tensor's shape."""


def key(name: str, moment: str) -> str:
    """Returns the name of a moment in a checkpoint."""
    return f"{name}|{moment}"


def by_tensor(
    moments: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    kinds: Mapping[str, frozenset[str]],
) -> dict[str, dict[str, Tensor]]:
    """Returns the moments of each tensor; none at all if there are none yet.

    Args:
        moments: by `key`.
        shapes: of the tensors that move, whole.
        kinds: which moments each of them has.

    Raises:
        CheckpointError: these are not the moments of these tensors.
    """
    if not moments:
        return {}
    found: dict[str, dict[str, Tensor]] = {}
    for full, value in moments.items():
        name, _, moment = full.rpartition("|")
        found.setdefault(name, {})[moment] = value
    if different := sorted(found.keys() ^ shapes.keys()):
        raise CheckpointError(
            f"its moments belong to another set of weights ({', '.join(different[:3])}, ...): "
            "resume with the same model and freeze settings"
        )
    for name, own in found.items():
        if own.keys() != kinds[name]:
            raise CheckpointError(
                f"it has other moments of {name} ({', '.join(sorted(own))}) than this optimizer "
                f"({', '.join(sorted(kinds[name]))}): resume with the same optimizer setting"
            )
        for moment, value in own.items():
            expected = torch.Size() if moment == STEP else shapes[name]
            if value.shape != expected:
                raise CheckpointError(
                    f"its {key(name, moment)} has the shape {tuple(value.shape)}, not "
                    f"{tuple(expected)}: resume with the same model settings"
                )
    return found


def copied(
    found: Iterable[tuple[str, Tensor]], *, keep: bool, memory: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Returns copies in this process's own CPU memory, in fp32, or none.

    The iterable is used up in any case: what it yields may be gathered from all processes.

    Args:
        found: what is copied.
        keep: whether this process wants the copies.
        memory: copies of before by name, which are written over, for fresh memory takes several
            times as long to fill; this call's are put into it.
    """
    memory = {} if memory is None else memory
    copies: dict[str, Tensor] = {}
    stream = None
    for name, tensor in found:
        if not keep:
            continue
        if tensor.is_cuda:  # copies follow each other without waiting; torch keeps pinned memory
            stream = torch.cuda.current_stream(tensor.device)
        pinned = tensor.is_cuda
        if name not in memory or memory[name].shape != tensor.shape:
            memory[name] = torch.empty(tensor.shape, dtype=torch.float32, pin_memory=pinned)
        copies[name] = memory[name].copy_(tensor, non_blocking=True)
    if stream is not None:
        stream.synchronize()
    return copies
