"""A model of others as a plain Hugging Face folder: what a chat needs, and nothing of a training.

In: a folder with a whole model, or a model in memory. Out: its config, weights, tokenizer, licence
and README in another folder. As long as nothing is to be changed, files are copied bit for bit; no
program and no pickle is, nor what would point to programs.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from chatlm import log, untrusted
from chatlm.adapters.base import Hold
from chatlm.adapters.opened import open_model
from chatlm.checkpoint.paths import MANIFEST, MODEL_CONFIG, WEIGHTS
from chatlm.errors import CheckpointError, ConfigError
from chatlm.export import folder, precision

TEXTS = ("*.md", "LICENSE*", "LICENCE*", "NOTICE*", "MODEL_LICENSE*")
"""What others ask to be passed on with their weights."""
_LEFT_OUT = ("state.json", "import.json", MANIFEST, *WEIGHTS)
_KEPT = (".json", ".model", ".txt", ".jinja")
_CONFIGS = (MODEL_CONFIG, "tokenizer_config.json")
_DEFAULT_SHARD = "4GB"


def export(source: Path, out: Path, dtype: str, max_shard_size: str) -> str:
    """Writes the folder; returns the precision of most of its weights.

    Args:
        source: a whole model.
        out: the folder to write.
        dtype: auto (that of the files, which are copied then), or one of `precision.DTYPES`.
        max_shard_size: of a file of weights; another one than the usual has them written anew.

    Raises:
        CheckpointError: the source is damaged.
        ConfigError: `out` is taken, or transformers does not know the model.
        StorageError: the disk is too small, or failed.
    """
    folder.require_free(out)
    held = precision.of_files(source)
    wanted = held if dtype == "auto" else precision.DTYPES[dtype]
    files = precision.weight_files(source)
    opened = open_model(source, Hold(torch.device("cpu"), held))  # what is damaged is not passed on
    inner: Any = opened.model.inner
    is_copy = wanted == held and max_shard_size == _DEFAULT_SHARD
    size = sum(path.stat().st_size for path in files) * wanted.itemsize // held.itemsize
    with folder.written(out, size) as part:
        if is_copy:
            names = [path.name for path in files]
            names += [WEIGHTS[1]] if len(files) > 1 else []
            for name in [*names, *_small_files(source)]:
                folder.copy_file(source, name, part)
        else:
            for name, parameter in inner.named_parameters():
                parameter.data = rounded(parameter.data, wanted, name)
            save(inner, opened.form.tokenizer, part, max_shard_size)
            if (source / folder.CHAT_FILE).is_file():
                folder.copy_file(source, folder.CHAT_FILE, part)
        _without_programs(part)
        copy_texts(source, part)
        folder.write_manifest(part, source)
    return precision.name(wanted)


def save(model: Any, tokenizer: Any, part: Path, max_shard_size: str) -> None:
    """Writes a model of transformers and its tokenizer, and nothing that points to programs."""
    model.save_pretrained(part, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(part)
    _without_programs(part)


def local_folder(name: str) -> Path:
    """Returns where a model lies; one of the Hub comes from its cache, or is fetched.

    Raises:
        CheckpointError: it is not there.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", *TEXTS]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise CheckpointError(
            f"the base {untrusted.shown(name)} is no folder here, and cannot be had from the Hub "
            "either: bring it back, or name its place in adapter_config.json "
            "(base_model_name_or_path)"
        ) from error


def require_unquantised(base: Path) -> None:
    """Refuses a base whose files hold packed weights, into which nothing can be merged.

    Raises:
        CheckpointError: its config.json is damaged.
        ConfigError: they do.
    """
    try:
        fields = untrusted.read_object(base / MODEL_CONFIG)
    except (OSError, ValueError) as error:
        why = untrusted.reason(error)
        raise CheckpointError(f"{base / MODEL_CONFIG} cannot be read ({why})") from error
    if fields.get("quantization_config"):
        raise ConfigError(
            f"{base} holds quantised weights, into which nothing can be merged: name the full base "
            "in adapter_config.json (base_model_name_or_path)"
        )


def copy_texts(source: Path, part: Path) -> None:
    """Copies licence and README, where the folder has them."""
    paths = {path for pattern in TEXTS for path in source.glob(pattern) if path.is_file()}
    for path in sorted(paths):
        shutil.copyfile(path, part / path.name)
    if not paths:
        log.info(f"{source} has no licence and no README that could be passed on")


def rounded(weight: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """Returns a weight in another precision.

    Raises:
        ConfigError: one of its numbers does not fit, or is none.
    """
    found = weight.to(dtype)
    if not torch.isfinite(found).all():
        raise ConfigError(
            f"{name} has numbers that {precision.name(dtype)} cannot hold: take dtype=bf16 or fp32"
        )
    return found


def _small_files(source: Path) -> list[str]:
    """Returns the names of the configs and of the tokenizer's files."""
    return sorted(
        path.name
        for path in source.iterdir()
        if path.suffix in _KEPT and path.name not in _LEFT_OUT and path.is_file()
    )


def _without_programs(part: Path) -> None:
    """Takes what names a model's Python files out of its configs: they are not copied."""
    for name in _CONFIGS:
        path = part / name
        fields = untrusted.read_object(path) if path.is_file() else {}
        if fields.pop("auto_map", None) is not None:
            path.write_text(f"{json.dumps(fields, indent=2, ensure_ascii=False)}\n", "utf-8")
