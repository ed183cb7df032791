"""From a folder to a running engine.

In: a checkpoint of ours, a folder that `utils.export_model` made, adapters on a model of others, or
such a model as a whole. Out: the engine that fits. An exported model is opened without torch. Where
the newest model lies is `chatlm.checkpoint.paths`'s business.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from chatlm import untrusted
from chatlm.checkpoint.kinds import kind_of, tokenizer_of
from chatlm.checkpoint.paths import MODEL_CONFIG, is_adapter, is_exported
from chatlm.errors import CheckpointError, ConfigError
from chatlm.inference.engine import Codec, Engine, Limits
from chatlm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from chatlm.inference.language_engine import LanguageEngine
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
        folder: a checkpoint, an exported model (it has ct2.json), or a model of others.
        device: "auto", "cpu", "cuda", "mps" or one of them with a number.
        threads: that compute on a CPU; 0: all cores.
        dtype: of a checkpoint's weights, as `open_torch_engine` says.

    Raises:
        CheckpointError: a file is missing or damaged, or model and tokenizer do not match.
        ConfigError: there is no such device or dtype, an exported model is to have a dtype, or
            transformers does not know the model.
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
    if _is_of_others(folder):
        return open_language_engine(folder, device, threads=threads, dtype=dtype)
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


def open_language_engine(
    folder: Path, device: str = "auto", *, threads: int = 0, dtype: str = "auto"
) -> "LanguageEngine":
    """Returns the engine of a model of others.

    Args:
        folder: with adapters (adapter_config.json names their base), or with a whole model.
        device: as `open_torch_engine` says.
        threads: that compute on a CPU; 0: all cores.
        dtype: of the weights, as `open_torch_engine` says; adapters are fp32 in any case.

    Raises:
        CheckpointError: a file is missing or damaged, or base and adapters do not fit.
        ConfigError: there is no such device or dtype, or transformers does not know the model.
    """
    limits = read_limits(folder)

    import torch
    from transformers.utils import logging as reports

    from chatlm import log
    from chatlm.adapters.base import Hold
    from chatlm.adapters.opened import open_model
    from chatlm.inference.language_engine import LanguageEngine
    from chatlm.inference.torch_engine import torch_device, torch_dtype

    if threads:
        torch.set_num_threads(threads)
    place = torch_device(device)
    reports.disable_progress_bar()
    with log.only_warnings():
        opened = open_model(folder, Hold(place, torch_dtype(dtype, place)))
    return LanguageEngine(opened, name=str(folder), limits=limits)


def read_codec(folder: Path) -> Codec:
    """Returns the text side of a model; its weights are not opened.

    Raises:
        CheckpointError: the tokenizer is missing or damaged.
    """
    if not _is_of_others(folder):
        return Tokenizer.load(folder)
    from chatlm.adapters.forms import open_form
    from chatlm.inference.language_codec import codec_of

    return codec_of(open_form(tokenizer_of(folder)))


def read_limits(folder: Path) -> Limits:
    """Returns what chat.json says, and the config of a model of others; else defaults.

    Raises:
        CheckpointError: a file is damaged.
    """
    has_file = (folder / CHAT_FILE).is_file()
    if not _is_of_others(folder):
        return _trained_limits(folder / CHAT_FILE) if has_file else Limits()
    from chatlm.inference.language_limits import limits_of

    return limits_of(folder, _trained_limits(folder / CHAT_FILE) if has_file else None)


def _is_of_others(folder: Path) -> bool:
    """Tells whether a folder holds adapters or a model of others, and not only a part of one."""
    if is_adapter(folder):
        return True
    return (folder / MODEL_CONFIG).is_file() and kind_of(folder) == "other"


def _trained_limits(path: Path) -> Limits:
    try:
        saved = untrusted.read_object(path, MOST_CHAT_BYTES)
        known = {key: saved[key] for key in _LEAST if key in saved}
        for key, value in known.items():
            if type(value) is not int or not _LEAST[key] <= value <= _MOST:
                raise ValueError(f"{key} cannot be {untrusted.shown(value)}")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; copy the checkpoint anew") from error
    return Limits(**known)
