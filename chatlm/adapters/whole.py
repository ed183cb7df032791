"""A model of others of which every weight moves, and the plain folder that it is kept in.

In: the loaded base. Out: it, in training, and the files of its checkpoints: config.json,
generation_config.json and model.safetensors, as `transformers` reads them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from chatlm import log
from chatlm.checkpoint import tensors
from chatlm.checkpoint.manifest import expected
from chatlm.checkpoint.paths import MANIFEST, MODEL_CONFIG
from chatlm.errors import CheckpointError

WEIGHTS_FILE = "model.safetensors"
GENERATION_CONFIG_FILE = "generation_config.json"


def moving(base: Any) -> Any:
    """Returns the base with all its weights moving, in fp32."""
    base.float().requires_grad_(True)
    total = sum(p.numel() for p in base.parameters())
    log.info(f"lora.rank=0: no adapters, all {total:,} weights move")
    return base


class WholeLayout:
    """In which files such a model lies; see `chatlm.checkpoint.layout.Layout`."""

    weights_file = WEIGHTS_FILE

    def __init__(self, model: Any, prefix: str) -> None:
        """Takes the model, and what its names begin with in the training."""
        self._prefix = prefix
        self._names = {name: f"{prefix}{name}" for name, _ in model.named_parameters()}
        self._constants = _constants(model)
        self._config = _config_of(model)
        self._generation = model.generation_config.to_json_string()

    def tensors(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the weights under the model's own names, tied ones once."""
        found = {
            name.removeprefix(self._prefix): tensor.detach().cpu().contiguous()
            for name, tensor in weights.items()
        }
        return found | self._constants

    def texts(self, weights: Mapping[str, Tensor]) -> dict[str, str]:
        """Returns config.json, with the dtype of the weights, and generation_config.json."""
        config = dict(self._config)
        config["dtype"] = str(next(iter(weights.values())).dtype).removeprefix("torch.")
        text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        return {MODEL_CONFIG: text, GENERATION_CONFIG_FILE: self._generation}

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Returns the weights of a folder under the training's names.

        Raises:
            CheckpointError: the file is missing, damaged, or of another model.
        """
        path = folder / WEIGHTS_FILE
        what = expected(folder, path.name) if (folder / MANIFEST).is_file() else None
        found = tensors.read(path, what)
        wanted = self._names.keys() | self._constants.keys()
        if found.keys() != wanted:
            different = ", ".join(sorted(found.keys() ^ wanted)[:3])
            raise CheckpointError(
                f"{path} holds the weights of another model ({different}, ...): go on with the "
                "same base="
            )
        return {self._names[name]: found[name] for name in self._names}


def _config_of(model: Any) -> dict[str, Any]:
    """Returns the content of config.json, without the names of programs, which are not kept."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    config.pop("auto_map", None)
    return config


def _constants(model: Any) -> dict[str, Tensor]:
    """Returns what a folder of the model holds besides parameters, by name."""
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in model.state_dict().items()
        if tensor.data_ptr() not in parameters
    }
