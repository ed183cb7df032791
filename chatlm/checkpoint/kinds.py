"""What kind of model lies in a folder, and so who opens it.

In: a folder that `chatlm.checkpoint.paths.resolve_model` returned. Out: its kind, and where the
rest of a folder with adapters lies. Imports no torch.
"""

from pathlib import Path
from typing import Literal, TypeAlias

from chatlm import untrusted
from chatlm.checkpoint.paths import ADAPTER_FILES, MODEL_CONFIG, is_adapter, is_exported
from chatlm.errors import CheckpointError
from chatlm.model.config import ROTARY_MODEL_TYPE

Kind: TypeAlias = Literal["own", "ct2", "adapter", "other"]
"""Our T5; a model for CTranslate2; adapters on a model of others; a model of others as a whole."""
ADAPTER_CONFIG = ADAPTER_FILES[0]
_OWN = ("t5", ROTARY_MODEL_TYPE)
FORM = "chatlm_form"
"""Of a config.json: how a model of others was asked while it was tuned. A T5 that was asked in
another way than ours are is no model of ours."""


def kind_of(folder: Path) -> Kind:
    """Returns the kind of a folder.

    Raises:
        CheckpointError: its config.json is damaged.
    """
    if is_adapter(folder):
        return "adapter"
    if is_exported(folder):
        return "ct2"
    path = folder / MODEL_CONFIG
    try:
        config = untrusted.read_object(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; copy the checkpoint anew") from error
    is_own = config.get("model_type") in _OWN and config.get(FORM, "own") == "own"
    return "own" if is_own else "other"


def tokenizer_of(folder: Path) -> str:
    """Returns the folder or name whose tokenizer a model of others has: its own, or its base's.

    Raises:
        CheckpointError: as `base_of` says.
    """
    is_there = not is_adapter(folder) or (folder / "tokenizer_config.json").is_file()
    return str(folder) if is_there else base_of(folder)


def base_of(folder: Path) -> str:
    """Returns the folder or name of the base that adapters are made for.

    Raises:
        CheckpointError: adapter_config.json is damaged, or does not say.
    """
    path = folder / ADAPTER_CONFIG
    try:
        name = untrusted.read_object(path).get("base_model_name_or_path")
        if not isinstance(name, str) or not name:
            raise ValueError("it does not name the base (base_model_name_or_path)")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    return name
