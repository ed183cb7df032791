"""The Hugging Face layout of a checkpoint folder, and the one key table between it and ours.

In: a model or its state, a folder. Out: `config.json`, `generation_config.json` and
`model.safetensors` that `AutoModelForSeq2SeqLM.from_pretrained(folder)` reads, or a `T5`. Does not
import transformers, does not unpickle, and knows nothing of tokenizers or optimizers.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from chatlm import untrusted
from chatlm.checkpoint.paths import HOW_TO_CONVERT, pickles
from chatlm.errors import CheckpointError
from chatlm.model.config import ModelConfig
from chatlm.model.t5 import T5

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

METADATA = {"format": "pt"}
"""What the header of a file of weights has to say for `transformers` to take it."""

TIED_KEYS = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""Copies of `shared.weight` that published checkpoints may carry."""

Read = Callable[[Path], dict[str, Tensor]]
"""Reads a safetensors file, or raises CheckpointError."""

_NAMES_SHOWN = 3
_KINDS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def key_table(config: ModelConfig) -> dict[str, str]:
    """Return {our parameter name: the name in `T5ForConditionalGeneration`}, all of them, once."""
    table = {"embedding.weight": "shared.weight"}
    stacks = (("encoder", config.num_layers), ("decoder", config.num_decoder_layers))
    for stack, num_layers in stacks:
        bias = "relative_attention_bias.weight"
        if not config.is_rotary:
            table[f"{stack}.{bias}"] = f"{stack}.block.0.layer.0.SelfAttention.{bias}"
        table[f"{stack}.norm.weight"] = f"{stack}.final_layer_norm.weight"
        parts = _layer_parts(stack, config)
        for i in range(num_layers):
            for ours, theirs in parts.items():
                table[f"{stack}.layers.{i}.{ours}"] = f"{stack}.block.{i}.layer.{theirs}"
    return table


def _layer_parts(stack: str, config: ModelConfig) -> dict[str, str]:
    """Return the same for the inside of one layer; Hugging Face numbers its sublayers."""
    sublayers = [("attention", "SelfAttention"), ("feed_forward", "DenseReluDense")]
    if stack == "decoder":
        sublayers.insert(1, ("cross_attention", "EncDecAttention"))
    inputs = ("wi_0", "wi_1") if config.is_gated else ("wi",)
    parts = {}
    for i, (ours, theirs) in enumerate(sublayers):
        parts[f"{ours}_norm.weight"] = f"{i}.layer_norm.weight"
        for name in (*inputs, "wo") if ours == "feed_forward" else ("q", "k", "v", "o"):
            parts[f"{ours}.{name}.weight"] = f"{i}.{theirs}.{name}.weight"
    return parts


def save_pretrained(
    model_state: Mapping[str, Tensor] | T5, config: ModelConfig, folder: str | os.PathLike[str]
) -> None:
    """Write config.json, generation_config.json and model.safetensors into `folder`.

    Each file appears whole or not at all. The weights keep their dtype; the tied table is written
    once. The folder is made if it does not exist, other files in it are left alone.

    Raises:
        CheckpointError: The state is not that of a `T5(config)`, or the folder cannot be written.
    """
    state = model_state.state_dict() if isinstance(model_state, T5) else model_state
    weights = to_hugging_face(state, config)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _Whole(folder / WEIGHTS_FILE) as temporary:
            save_file(weights, temporary, metadata=METADATA)
        for name, text in texts(config, state).items():
            with _Whole(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: cannot write the model ({error}); check its permissions and free space"
        ) from error


def to_hugging_face(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return the weights under their names, on the CPU; the tied table once.

    Raises:
        CheckpointError: The state is not that of a `T5(config)`.
    """
    table = key_table(config)
    _check_names(state, set(table), "the state to be saved")
    _check_shapes(state, config, "the state to be saved")
    return {table[key]: tensor.detach().cpu().contiguous() for key, tensor in state.items()}


def texts(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the text files that belong to the weights, by name."""
    dtype = str(state["embedding.weight"].dtype).removeprefix("torch.")
    generation = {
        "_from_model_config": True,
        "decoder_start_token_id": config.pad_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
    contents = {
        GENERATION_CONFIG_FILE: generation,
        CONFIG_FILE: {**config.to_hf(), "dtype": dtype},
    }
    return {
        name: json.dumps(content, indent=2, sort_keys=True) + "\n"
        for name, content in contents.items()
    }


class T5Layout:
    """In which files a `T5` of a shape lies; see `chatlm.checkpoint.layout.Layout`."""

    weights_file = WEIGHTS_FILE

    def __init__(self, config: ModelConfig, read: Callable[[Path], T5] | None = None) -> None:
        """Takes the shape, and what reads a checkpoint's model (by default unchecked)."""
        self.config = config
        self._read = read or load_pretrained

    def tensors(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights under Hugging Face's names, on the CPU."""
        return to_hugging_face(weights, self.config)

    def texts(self, weights: Mapping[str, Tensor]) -> dict[str, str]:
        """Return config.json and generation_config.json."""
        return texts(self.config, weights)

    def read(self, folder: Path) -> Mapping[str, Tensor]:
        """Return the weights of a folder under our names."""
        return dict(self._read(folder).named_parameters())


class _Whole:
    """Gives a temporary name to write to; syncs and renames it to `path` at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is not None:
            self.temporary.unlink(missing_ok=True)
            return
        with self.temporary.open("rb") as file:
            os.fsync(file.fileno())
        self.temporary.replace(self.path)


def load_pretrained(folder: str | os.PathLike[str], read: Read | None = None) -> T5:
    """Return the T5 of a folder in Hugging Face's layout, on the CPU, in fp32, in eval mode.

    Args:
        folder: Where its files are.
        read: What reads a file of tensors; by default the library does.

    Raises:
        CheckpointError: The folder or a file is missing, damaged, or of another architecture.
    """
    folder = Path(folder)
    config = load_config(folder)
    state = load_state(folder, config, read)
    with torch.device("meta"):
        model = T5(config)
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def load_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """Return the config of a folder.

    Raises:
        CheckpointError: There is no readable config.json, or it is not that of a T5.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder}: no such folder; expected one with {CONFIG_FILE} and {WEIGHTS_FILE}"
        )
    try:
        return ModelConfig.from_hf(_read_json(folder / CONFIG_FILE))
    except CheckpointError as error:
        if str(folder) in str(error):
            raise
        raise CheckpointError(f"{folder}: {error}") from error


def load_state(
    folder: str | os.PathLike[str], config: ModelConfig, read: Read | None = None
) -> dict[str, Tensor]:
    """Return the weights of a folder under our names, on the CPU, in fp32.

    Reads model.safetensors, or the shards that model.safetensors.index.json lists.

    Raises:
        CheckpointError: A file is missing or damaged, or the tensors are not those of `config`.
    """
    folder = Path(folder)
    weights: dict[str, Tensor] = {}
    paths = _weight_files(folder)
    _check_size(config, paths)
    for path in paths:
        weights.update((read or _read_safetensors)(path))
    _check_kinds(weights, folder)
    if len(weights) < (num_layers := config.num_layers + config.num_decoder_layers):
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE}: {len(weights)} tensors are too few for the {num_layers} "
            f"layers of {CONFIG_FILE}; config and weights are not of the same model"
        )
    _drop_tied_copies(weights, folder)
    ours = {theirs: ours for ours, theirs in key_table(config).items()}
    _check_names(weights, set(ours), str(folder / WEIGHTS_FILE))
    state = {ours[key]: tensor.float() for key, tensor in weights.items()}
    _check_shapes(state, config, str(folder / WEIGHTS_FILE))
    return state


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return untrusted.read_object(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such file; expected the folder of a saved model, which has one"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error}); copy it anew") from error


def _weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder."""
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    index = folder / INDEX_FILE
    if index.is_file():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index}: has no weight_map; copy the file anew")
        names = {str(name) for name in weight_map.values()}
        if strange := [name for name in names if not _is_shard(name)]:
            raise CheckpointError(
                f"{index}: {untrusted.shown(strange[0])} is no name of a safetensors file beside "
                "it; copy the file anew"
            )
        return [folder / name for name in sorted(names)]
    pickled = pickles(folder)
    advice = (
        f"{pickled[0]} {HOW_TO_CONVERT}"
        if pickled
        else f"expected it, or {INDEX_FILE} and its shards; copy the folder anew"
    )
    raise CheckpointError(f"{folder / WEIGHTS_FILE}: no such file; {advice}")


def _is_shard(name: str) -> bool:
    return untrusted.is_name(name) and name.endswith(".safetensors")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such file; {INDEX_FILE} names it: copy the missing shard"
        ) from error
    except (OSError, SafetensorError) as error:
        kind = untrusted.format_of(path)
        why = f"it is {kind}, which is not opened" if kind else untrusted.reason(error)
        raise CheckpointError(
            f"{path}: damaged or cut short ({why}); copy or save it anew"
        ) from error


def _check_size(config: ModelConfig, paths: list[Path]) -> None:
    """Refuse a config that describes more weights than the files can hold.

    What follows makes a name for each tensor that the config speaks of, and memory for it.
    """
    num_bytes = sum(path.stat().st_size for path in paths if path.exists())
    needed = config.num_parameters() * min(kind.itemsize for kind in _KINDS)
    if needed > num_bytes and all(path.exists() for path in paths):
        kind = untrusted.format_of(paths[0])
        few = f"{num_bytes} bytes are too few for the {config.num_parameters()} parameters that "
        why = f"it is {kind}, which is not opened" if kind else f"{few}{CONFIG_FILE} describes"
        raise CheckpointError(
            f"{paths[0]}: damaged or cut short ({why}); config and weights are not of the same "
            "model: copy or save them anew"
        )


def _check_kinds(weights: Mapping[str, Tensor], folder: Path) -> None:
    for key, tensor in weights.items():
        if tensor.dtype not in _KINDS:
            raise CheckpointError(
                f"{folder / WEIGHTS_FILE}: {untrusted.shown(key)} holds {tensor.dtype}; expected "
                "plain floating-point weights"
            )


def _drop_tied_copies(weights: dict[str, Tensor], folder: Path) -> None:
    """Remove copies of the tied table; a copy that differs is an untied model."""
    for key in TIED_KEYS:
        copy = weights.pop(key, None)
        if copy is None:
            continue
        shared = weights.setdefault("shared.weight", copy)
        if copy.dtype != shared.dtype or not torch.equal(copy, shared):
            raise CheckpointError(
                f"{folder / WEIGHTS_FILE}: {key} differs from shared.weight; expected one tied "
                "table, an untied head cannot be loaded"
            )


def _plain(name: str) -> str:
    """Return a tensor's name as it may stand in a message."""
    return name if untrusted.is_name(name) else untrusted.shown(name)


def _check_names(state: Mapping[str, Tensor], expected: set[str], where: str) -> None:
    missing, extra = sorted(expected - state.keys()), sorted(state.keys() - expected)
    faults = [
        f"{len(names)} tensors {kind} ({', '.join(map(_plain, names[:_NAMES_SHOWN]))}"
        + (", ...)" if len(names) > _NAMES_SHOWN else ")")
        for kind, names in (("missing", missing), ("not expected", extra))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"{where}: {' and '.join(faults)}; expected the weights that {CONFIG_FILE} describes"
        )


def _check_shapes(state: Mapping[str, Tensor], config: ModelConfig, where: str) -> None:
    with torch.device("meta"):
        expected = {key: tensor.shape for key, tensor in T5(config).state_dict().items()}
    for key, tensor in state.items():
        if tensor.shape != expected[key]:
            raise CheckpointError(
                f"{where}: {key} has shape {tuple(tensor.shape)}, expected "
                f"{tuple(expected[key])}; config and weights are not of the same model"
            )
