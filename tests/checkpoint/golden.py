"""Makes the golden checkpoint of today's format: `python -m tests.checkpoint.golden`.

Run once when the format changes, never again for it: the folder of a format is what that format's
ChatLM wrote. Format 1 was written by version 0.1.0 before it had a second one. All of them hold the
snapshot of step 8 of `tiny_snapshot`, as `CONTENT` sums it up.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from chatlm.checkpoint import manifest
from chatlm.checkpoint.saver import write_files
from tests.checkpoint.tiny_snapshot import snapshot

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoints"
STEP = 8


def folder_of(version: int) -> Path:
    """Returns the golden checkpoint of a format."""
    return GOLDEN / f"format_{version}" / f"step_{STEP:06d}"


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Returns a sha256 of names, kinds, shapes and bits."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().numpy().tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    made = folder_of(manifest.FORMAT_VERSION)
    made.mkdir(parents=True)
    write_files(made, snapshot(STEP))
