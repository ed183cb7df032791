"""Low-rank adapters on a model of others, by peft.

In: a loaded base and the settings. Out: the base with adapters, of which only these move, and the
files in which they are kept: adapter_config.json and adapter_model.safetensors, as peft reads them.
Source: Hu et al. 2021, arXiv:2106.09685.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor

from chatlm import log
from chatlm.checkpoint import tensors
from chatlm.checkpoint.manifest import expected
from chatlm.checkpoint.paths import MANIFEST
from chatlm.config import LoraSettings
from chatlm.errors import CheckpointError, ConfigError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
NAME = "default"  # that peft gives to the one adapter
EVERYWHERE = "all-linear"


def targets(settings: LoraSettings, model_type: str) -> str | list[str]:
    """Returns the modules that get adapters: the given ones, peft's for the kind, or all linear."""
    if settings.targets:
        return EVERYWHERE if settings.targets == [EVERYWHERE] else list(settings.targets)
    known = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type)
    return list(known) if known else EVERYWHERE


def with_adapters(base: Any, settings: LoraSettings) -> PeftModel:
    """Returns the base with fresh adapters, which change nothing yet: their second matrix is zero.

    Raises:
        ConfigError: the base has no modules of the names given.
    """
    where = targets(settings, base.config.model_type)
    shown = where if isinstance(where, str) else ",".join(where)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha or 2 * settings.rank,
        lora_dropout=settings.dropout,
        target_modules=where,
        task_type="SEQ_2_SEQ_LM" if base.config.is_encoder_decoder else "CAUSAL_LM",
    )
    try:
        with log.without_future_warnings():
            model = get_peft_model(base, config)
    except ValueError as error:
        linear = sorted(
            {name.rpartition(".")[2] for name, m in base.named_modules() if _is_linear(m)}
        )
        raise ConfigError(
            f"lora.targets={shown} are no modules of this model: expected some of "
            f"{', '.join(linear)}, or {EVERYWHERE}"
        ) from error
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    moving = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    log.info(
        f"LoRA of rank {settings.rank} on {shown}: "
        f"{moving:,} of {total:,} weights move ({moving / total:.2%})"
    )
    return model


def _is_linear(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return (
        isinstance(weight, Tensor) and weight.ndim == 2 and "mbedding" not in type(module).__name__
    )


class AdapterLayout:
    """In which files the adapters of a model lie; see `chatlm.checkpoint.layout.Layout`."""

    weights_file = WEIGHTS_FILE

    def __init__(self, model: PeftModel, prefix: str, texts: Mapping[str, str]) -> None:
        """Takes the model with adapters.

        Args:
            model: whose adapters are kept.
            prefix: what its names begin with in the training.
            texts: further files of every checkpoint, by name.
        """
        self._prefix = prefix
        self._config = _config_text(model)
        self._texts = dict(texts)
        self._names = {
            self._file_name(name): name
            for name, p in ((f"{prefix}{n}", p) for n, p in model.named_parameters())
            if p.requires_grad
        }

    def tensors(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the adapters under peft's names, contiguous, on the CPU."""
        assert weights.keys() == set(self._names.values()), "a checkpoint of some adapters only"
        return {
            self._file_name(name): tensor.detach().cpu().contiguous()
            for name, tensor in weights.items()
        }

    def texts(self, weights: Mapping[str, Tensor]) -> dict[str, str]:  # noqa: ARG002
        """Returns adapter_config.json and what else belongs to a checkpoint."""
        return {CONFIG_FILE: self._config, **self._texts}

    def read(self, folder: Path) -> dict[str, Tensor]:
        """Returns the adapters of a folder under the training's names.

        Raises:
            CheckpointError: the file is missing, damaged, or of other adapters.
        """
        path = folder / WEIGHTS_FILE
        what = expected(folder, path.name) if (folder / MANIFEST).is_file() else None
        found = tensors.read(path, what)
        if found.keys() != self._names.keys():
            different = ", ".join(sorted(found.keys() ^ self._names.keys())[:3])
            raise CheckpointError(
                f"{path} holds adapters of other modules ({different}, ...): go on with the same "
                "lora.targets and base"
            )
        return {self._names[name]: tensor for name, tensor in found.items()}

    def _file_name(self, name: str) -> str:
        return name.removeprefix(self._prefix).replace(f".{NAME}.", ".")


def _config_text(model: PeftModel) -> str:
    """Returns the content of adapter_config.json, as peft itself writes it."""
    with tempfile.TemporaryDirectory() as folder:
        config = model.peft_config[NAME]
        training, config.inference_mode = config.inference_mode, True
        config.save_pretrained(folder)
        config.inference_mode = training
        content = json.loads((Path(folder) / CONFIG_FILE).read_text(encoding="utf-8"))
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
