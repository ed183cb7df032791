"""From a folder to a running engine.

In: a checkpoint, or a folder that `utils.export_model` made. Out: the engine that fits. An exported
model is opened without torch. Where the newest model lies is `chatlm.checkpoint.paths`'s business.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from chatlm.errors import CheckpointError
from chatlm.inference.engine import Engine, Limits
from chatlm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from chatlm.inference.torch_engine import TorchEngine

CHAT_FILE = "chat.json"
CT2_FILE = "ct2.json"


def open_engine(folder: Path, device: str = "auto", *, threads: int = 0) -> Engine:
    """Returns the engine of a folder.

    Args:
        folder: a checkpoint, or an exported model (it has ct2.json).
        device: "auto", "cpu", "cuda", "mps" or one of them with a number.
        threads: that compute on a CPU; 0: all cores.

    Raises:
        CheckpointError: a file is missing or damaged, or model and tokenizer do not match.
        ConfigError: there is no such device.
    """
    if (folder / CT2_FILE).is_file():
        from chatlm.inference.ct2_engine import open_ct2_engine

        limits, tokenizer = read_limits(folder), Tokenizer.load(folder)
        return open_ct2_engine(folder, limits, tokenizer, device, threads=threads)
    return open_torch_engine(folder, device, threads=threads)


def open_torch_engine(folder: Path, device: str = "auto", *, threads: int = 0) -> "TorchEngine":
    """Returns the engine of a checkpoint folder.

    Args:
        folder: with config.json, model.safetensors, the tokenizer, and chat.json (what the chat has
            to know of the training), without which the limits of a base run are taken.
        device: "auto", "cpu", "cuda", "mps" or one of them with a number.
        threads: that compute on a CPU; 0: all cores.

    Raises:
        CheckpointError: a file is missing or damaged, or model and tokenizer do not match.
        ConfigError: there is no such device.
    """
    limits = read_limits(folder)
    tokenizer = Tokenizer.load(folder)

    import torch

    from chatlm.inference.torch_engine import TorchEngine, torch_device
    from chatlm.model.hf import load_pretrained

    if threads:
        torch.set_num_threads(threads)
    model = load_pretrained(folder)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids but the model only "
            f"{model.config.vocab_size}; copy the tokenizer that the model was trained with"
        )
    model = model.to(torch_device(device))
    return TorchEngine(model, tokenizer, name=str(folder), limits=limits)


def read_limits(folder: Path) -> Limits:
    """Returns what chat.json says, defaults where it is silent or missing.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / CHAT_FILE
    if not path.is_file():
        return Limits()
    try:
        saved = dict(json.loads(path.read_text(encoding="utf-8")))
        known = {key: int(saved[key]) for key in vars(Limits()) if key in saved}
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; copy the checkpoint anew") from error
    return Limits(**known)
