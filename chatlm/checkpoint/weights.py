"""The model of a checkpoint, from bytes that are checked while they are read.

In: a checkpoint folder, or any folder of Hugging Face's. Out: a T5.
"""

from pathlib import Path

from chatlm.checkpoint import tensors
from chatlm.checkpoint.manifest import expected
from chatlm.checkpoint.paths import MANIFEST
from chatlm.model import hf
from chatlm.model.t5 import T5


def load_model(folder: Path) -> T5:
    """Returns the model of a folder; where there is a manifest, just what it says.

    Raises:
        CheckpointError: a file is missing, damaged, or of another architecture.
    """
    if not (folder / MANIFEST).is_file():
        return hf.load_pretrained(folder)
    return hf.load_pretrained(folder, lambda path: tensors.read(path, expected(folder, path.name)))
