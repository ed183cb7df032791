"""What the optimizer remembers, as a file of a checkpoint.

In: whole tensors by `<tensor name>|<moment>`. Out: optimizer.safetensors and back. Gathering them,
laying them out and checking that they fit the optimizer is the engine's.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from chatlm.checkpoint import tensors
from chatlm.checkpoint.manifest import Entry, expected
from chatlm.errors import CheckpointError

OPTIMIZER = "optimizer.safetensors"
DEEPSPEED = "deepspeed"
"""Where format 1 kept DeepSpeed's own files."""


def write_moments(folder: Path, moments: Mapping[str, Tensor]) -> Entry:
    """Writes the moments, which are contiguous and on the CPU; returns what the file must be."""
    return tensors.write(folder / OPTIMIZER, moments)


def read_moments(folder: Path) -> dict[str, Tensor]:
    """Returns the moments of a checkpoint, on the CPU.

    Raises:
        CheckpointError: there are none, or they are not what the manifest says.
    """
    if not (folder / OPTIMIZER).is_file():
        why = "it was saved under DeepSpeed by an older ChatLM" if _is_deepspeed(folder) else "lost"
        raise CheckpointError(
            f"{folder} has no {OPTIMIZER} ({why}): it cannot be resumed, but its weights can be "
            "used with finetune=True init_from="
        )
    return tensors.read(folder / OPTIMIZER, expected(folder, OPTIMIZER))


def _is_deepspeed(folder: Path) -> bool:
    return (folder / DEEPSPEED).is_dir()
