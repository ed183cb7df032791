"""A checkpoint as a plain Hugging Face folder: what a chat needs, and nothing of the training.

In: a checkpoint. Out: its config, weights, tokenizer and chat.json in another folder, bit for bit.
"""

from pathlib import Path

from chatlm.checkpoint.paths import MODEL_CONFIG, WEIGHTS
from chatlm.export import folder
from chatlm.model.hf import GENERATION_CONFIG_FILE, load_pretrained
from chatlm.tokenizer import CONFIG_FILE, MODEL_FILE, NAMES_FILE, TOKENIZER_FILE, Tokenizer

_FILES = (
    MODEL_CONFIG,
    GENERATION_CONFIG_FILE,
    *WEIGHTS,
    TOKENIZER_FILE,
    CONFIG_FILE,
    NAMES_FILE,
    MODEL_FILE,
    folder.CHAT_FILE,
)


def export(checkpoint: Path, out: Path) -> None:
    """Writes the folder.

    Raises:
        CheckpointError: the checkpoint is damaged.
        ConfigError: `out` is taken.
        StorageError: the disk failed.
    """
    folder.require_checkpoint(checkpoint)
    Tokenizer.load(checkpoint)
    load_pretrained(checkpoint)  # what cannot be loaded is not passed on
    names = [name for name in _FILES if (checkpoint / name).is_file()]
    names += [path.name for path in sorted(checkpoint.glob("model-*-of-*.safetensors"))]
    size = sum((checkpoint / name).stat().st_size for name in names)
    with folder.written(out, size) as part:
        for name in names:
            folder.copy_file(checkpoint, name, part)
        folder.write_manifest(part, checkpoint)
