"""A base model from a folder or the Hub, ready to be given adapters.

In: a name or a folder, and how it is to be held. Out: the model on its device, frozen. Only
safetensors are read and no code of others runs: architectures are those of transformers, and
ChatGLM-6B, which is ours (`chatlm.glm`).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from chatlm import glm, log, untrusted
from chatlm.checkpoint.paths import MODEL_CONFIG
from chatlm.errors import CheckpointError, ConfigError, brief
from chatlm.model.config import ROTARY_MODEL_TYPE

ODD_CONFIG = (TypeError, KeyError, AttributeError, ArithmeticError, StrictDataclassError)
"""What the libraries raise for values in a config.json that no model can have."""


@dataclass(frozen=True)
class Hold:
    """How a base is held.

    Attributes:
        device: where it computes.
        dtype: of its weights; adapters are fp32 in any case.
        quantize: "none", or "nf4": its matrices in 4 bits (CUDA).
        checkpointing: compute activations again in the backward pass instead of keeping them.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    quantize: str = "none"
    checkpointing: bool = False


def open_base(name: str, hold: Hold) -> Any:
    """Returns the model, in eval mode, nothing of it moving.

    Raises:
        CheckpointError: there is no such model, or it is damaged or a pickle.
        ConfigError: it is of a kind that transformers does not know, or `quantize` cannot work.
    """
    kind, _ = architecture(name)
    settings: dict[str, Any] = {"dtype": hold.dtype, "use_safetensors": True}
    settings["ignore_mismatched_sizes"] = True  # they are refused below, with their names
    if hold.quantize == "nf4":
        settings["quantization_config"] = _four_bits(hold)
        settings["device_map"] = {"": hold.device}
    with _told(name):
        loaded: Any = kind.from_pretrained(name, output_loading_info=True, **settings)
    model, report = loaded
    _require_whole(name, report)
    model.requires_grad_(False)
    if hold.checkpointing:
        recompute_activations(model)
    if hold.quantize == "none":
        model = model.to(hold.device)
    size = sum(p.numel() for p in model.parameters())
    log.info(f"base {name}: {type(model).__name__}, {size / 1e6:.1f}M weights, {hold.dtype}")
    return model.eval()


def architecture(name: str) -> tuple[Any, Any]:
    """Returns the class of transformers that opens a base, and its configuration; reads no weights.

    Raises:
        CheckpointError: there is no such model.
        ConfigError: it is of a kind that transformers does not know.
    """
    _refuse_rotary(Path(name) / MODEL_CONFIG)
    glm.register()
    with _told(name):
        config = AutoConfig.from_pretrained(name)
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM, config


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Says in one line what the libraries raise when they open a base.

    Raises:
        CheckpointError: there is no such model, or its files are damaged.
        ConfigError: it is of a kind that they do not know.
    """
    try:
        yield
    except (ValueError, *ODD_CONFIG) as error:
        raise ConfigError(f"base={name} cannot be opened: {brief(error)}") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"base={name}: its weights are damaged ({brief(error)}): copy them anew"
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"base={name} cannot be opened ({brief(error)}): name a folder with config.json and "
            "safetensors, or a model of the Hub; weights that are pickles are converted once with "
            "python -m utils.import_weights"
        ) from error


def recompute_activations(model: Any, *, is_on: bool = True) -> None:
    """Has the layers compute activations again in the backward pass, or keep them after all.

    What transformers calls activation checkpointing is gradient checkpointing before 5.24.
    """
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    if is_on:
        getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    else:
        getattr(model, f"{name}_checkpointing_disable")()


def _require_whole(name: str, report: Mapping[str, Any]) -> None:
    """Refuses files that lack weights, which the library would fill with random numbers.

    Raises:
        CheckpointError: with the names.
    """
    lacking = sorted(report.get("missing_keys", ()))
    lacking += sorted(str(key[0]) for key in report.get("mismatched_keys", ()))
    if lacking:
        more = ", ..." if len(lacking) > 3 else ""
        raise CheckpointError(
            f"base={name}: its files lack weights, or have them in other shapes "
            f"({', '.join(lacking[:3])}{more}): copy it anew, or name a whole language model"
        )


def _refuse_rotary(path: Path) -> None:
    """Refuses a model of ours that transformers has no class for.

    Raises:
        ConfigError: this is one.
    """
    try:
        model_type = untrusted.read_object(path).get("model_type")
    except (OSError, ValueError):  # a name of the Hub, or what transformers says more of
        return
    if model_type == ROTARY_MODEL_TYPE:
        raise ConfigError(
            f"base={path.parent} is a model of ours with position=rope, which transformers does "
            "not have: go on with it by finetune=True init_from=, or train one with position=t5"
        )


def _four_bits(hold: Hold) -> Any:
    """Returns how bitsandbytes packs the matrices.

    Raises:
        ConfigError: it is not there, or the device is no GPU.
    """
    if hold.device.type != "cuda":
        raise ConfigError("quantize=nf4 needs a CUDA GPU: leave it out here")
    try:
        import bitsandbytes  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("quantize=nf4 needs bitsandbytes: pip install bitsandbytes") from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=hold.dtype,
    )
