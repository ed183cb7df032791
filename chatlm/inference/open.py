"""From a folder to a running engine.

In: a checkpoint, or a folder that `utils.export_model` made. Out: the engine that fits. An exported
model is opened without torch. Where the newest model lies is `chatlm.checkpoint.paths`'s business.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from chatlm import untrusted
from chatlm.checkpoint.paths import is_exported
from chatlm.errors import CheckpointError, ConfigError
from chatlm.inference.engine import Engine, Limits
from chatlm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from chatlm.inference.torch_engine import TorchEngine

CHAT_FILE = "chat.json"
MOST_CHAT_BYTES = 1 << 16
_LEAST = {"max_source_tokens": 2, "max_new_tokens": 1, "history_turns": 0}
_MOST = 1 << 20


def open_engine(
    folder: Path, device: str = "auto", *, threads: int = 0, dtype: str = "auto"
) -> Engine:
    """Returns the engine of a folder.

    Args:
        folder: a checkpoint, or an exported model (it has ct2.json).
        device: "auto", "cpu", "cuda", "mps" or one of them with a number.
        threads: that compute on a CPU; 0: all cores.
        dtype: of a checkpoint's weights, as `open_torch_engine` says.

    Raises:
        CheckpointError: a file is missing or damaged, or model and tokenizer do not match.
        ConfigError: there is no such device or dtype, or an exported model is to have a dtype.
    """
    if is_exported(folder):
        if dtype != "auto":
            raise ConfigError(
                f"dtype={dtype}: {folder} was exported in the precision that its ct2.json names; "
                "leave dtype out, or export the checkpoint anew"
            )
        from chatlm.inference import ct2_files
        from chatlm.inference.ct2_engine import open_ct2_engine

        exported = ct2_files.read(folder)  # first of all: what is damaged is not looked into
        limits, tokenizer = read_limits(folder), Tokenizer.load(folder)
        return open_ct2_engine(exported, limits, tokenizer, device, threads=threads)
    return open_torch_engine(folder, device, threads=threads, dtype=dtype)


def open_torch_engine(
    folder: Path,
    device: str = "auto",
    *,
    threads: int = 0,
    dtype: str = "auto",
    max_streams: int = 0,
) -> "TorchEngine":
    """Returns the engine of a checkpoint folder.

    Args:
        folder: with config.json, model.safetensors, the tokenizer, and chat.json (what the chat has
            to know of the training), without which the limits of a base run are taken.
        device: "auto", "cpu", "cuda", "mps" or one of them with a number.
        threads: that compute on a CPU; 0: all cores.
        dtype: of the weights: "fp32", "bf16", or "auto": bf16 on a CUDA GPU that has it.
        max_streams: answers at the same time; 0: what suits the device.

    Raises:
        CheckpointError: a file is missing or damaged, or model and tokenizer do not match.
        ConfigError: there is no such device or dtype.
    """
    limits = read_limits(folder)
    tokenizer = Tokenizer.load(folder)

    import torch

    from chatlm.inference.torch_engine import TorchEngine, torch_device, torch_dtype
    from chatlm.model.hf import load_pretrained

    if threads:
        torch.set_num_threads(threads)
    place = torch_device(device)
    kind = torch_dtype(dtype, place)
    model = load_pretrained(folder)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids but the model only "
            f"{model.config.vocab_size}; copy the tokenizer that the model was trained with"
        )
    model = model.to(place, kind)
    return TorchEngine(model, tokenizer, name=str(folder), limits=limits, max_streams=max_streams)


def read_limits(folder: Path) -> Limits:
    """Returns what chat.json says, defaults where it is silent or missing.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / CHAT_FILE
    if not path.is_file():
        return Limits()
    try:
        saved = untrusted.read_object(path, MOST_CHAT_BYTES)
        known = {key: saved[key] for key in vars(Limits()) if key in saved}
        for key, value in known.items():
            if type(value) is not int or not _LEAST[key] <= value <= _MOST:
                raise ValueError(f"{key} cannot be {untrusted.shown(value)}")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; copy the checkpoint anew") from error
    return Limits(**known)
