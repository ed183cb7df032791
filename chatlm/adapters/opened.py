"""A model of others, opened to be asked: with the adapters of a folder, or as it is.

In: a folder with adapters (peft's files), or one with a whole model. Out: the model on its device,
its form, and a way to hear the base without the adapters. No pickle is opened, no code of others
runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chatlm import log, untrusted
from chatlm.adapters.base import Hold, open_base
from chatlm.adapters.forms import Form, open_form
from chatlm.adapters.language_model import LanguageModel
from chatlm.checkpoint.kinds import ADAPTER_CONFIG, FORM, base_of, tokenizer_of
from chatlm.checkpoint.paths import ADAPTER_FILES, is_adapter
from chatlm.errors import CheckpointError, brief


@dataclass(frozen=True)
class Opened:
    """A model that can be asked.

    Attributes:
        model: in eval mode; nothing of it moves.
        form: how it is asked.
        base: the folder or name of what the adapters are on, or of the model itself.
        has_adapters: whether there are any.
    """

    model: LanguageModel
    form: Form
    base: str
    has_adapters: bool

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Lets the model be its base for a while; there is no second copy of it."""
        if not self.has_adapters:
            yield
            return
        inner: Any = self.model.inner
        try:
            with inner.disable_adapter():
                yield
        finally:
            inner.requires_grad_(False)  # peft lets adapters move when it switches them on again


def open_model(folder: Path, hold: Hold) -> Opened:
    """Returns the model of a folder.

    Args:
        folder: with adapters, or a whole model.
        hold: how it is held.

    Raises:
        CheckpointError: a file is missing or damaged, or base and adapters do not fit.
        ConfigError: the model is of a kind that transformers does not know.
    """
    if not is_adapter(folder):
        form = open_form(str(folder))
        return _opened(open_base(str(folder), hold), form, str(folder), has_adapters=False)
    name = base_of(folder)
    is_own = tokenizer_of(folder) == str(folder)
    form = open_form(str(folder)) if is_own else None
    try:
        form = form or open_form(name)
        base = open_base(name, replace(hold, checkpointing=False))
    except CheckpointError as error:
        if Path(name).is_dir():
            raise
        raise CheckpointError(
            f"{folder}: the base of its adapters, {untrusted.shown(name)}, is neither a folder "
            "here nor to be had from the Hub; bring it back, or write where it is now into "
            f"{ADAPTER_CONFIG} (base_model_name_or_path)"
        ) from error
    setattr(base.config, FORM, form.name)  # goes into the config of what is made of it
    return _opened(_with_adapters_of(folder, base), form, name, has_adapters=True)


def _opened(inner: Any, form: Form, base: str, *, has_adapters: bool) -> Opened:
    model = LanguageModel(inner, pad_id=form.pad_id).eval().requires_grad_(False)
    return Opened(model, form, base, has_adapters)


def _with_adapters_of(folder: Path, base: Any) -> Any:
    """Returns the base with the adapters of a folder.

    Raises:
        CheckpointError: they are damaged, made for another base, or would load a program.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    if untrusted.read_object(folder / ADAPTER_CONFIG).get("megatron_config"):
        raise CheckpointError(
            f"{folder}: adapters for Megatron name a module that is imported, which is not done"
        )
    device = base.get_input_embeddings().weight.device
    try:
        with log.without_future_warnings():
            model = PeftModel.from_pretrained(base, str(folder), torch_device=str(device))
        odd = _odd_names(folder, model)
    except (
        *(OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError),
        SafetensorError,
    ) as error:
        raise CheckpointError(
            f"{folder}: its adapters do not fit the base ({brief(error)}); name the folder of the "
            f"right base in {ADAPTER_CONFIG}, or copy the adapters anew"
        ) from error
    if odd:
        raise CheckpointError(
            f"{folder}: {ADAPTER_FILES[1]} holds other adapters than {ADAPTER_CONFIG} says "
            f"({untrusted.shown(odd[0])}); copy both anew"
        )
    if getattr(model.active_peft_config, "bias", "none") != "none":
        log.warning(
            f"{folder}: its biases were trained, too, and stay when the adapters are switched off"
        )
    return model


def _odd_names(folder: Path, model: Any) -> list[str]:
    """Returns what is missing in the file of adapters, or has no place in the model.

    peft itself goes on with fresh adapters in their place.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / ADAPTER_FILES[1], framework="pt") as file:
        found = set(file.keys())
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    return sorted((wanted - found) | {name for name in found - wanted if "lora_" in name})
