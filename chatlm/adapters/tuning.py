"""A base, with adapters or moving as a whole, as the subject of a training.

In: settings, the accelerator, perhaps a checkpoint to go on from. Out: a `Subject`, for the one
training loop that all models share; one with adapters is watched, lest it forgets what it could.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from chatlm import log
from chatlm.adapters import speech
from chatlm.adapters.base import Hold, open_base
from chatlm.adapters.data import TuningData
from chatlm.adapters.forgetting import Guard
from chatlm.adapters.forms import Asked, Form
from chatlm.adapters.language_model import LanguageModel
from chatlm.adapters.lora import AdapterLayout, with_adapters
from chatlm.adapters.whole import WholeLayout, moving
from chatlm.checkpoint.kinds import FORM
from chatlm.config import TrainConfig
from chatlm.corpus.conversation import turns_of
from chatlm.errors import ConfigError
from chatlm.evaluate import Speech
from chatlm.inference.language_limits import positions_of
from chatlm.subject import Subject

POSITIONS = re.compile(r"wpe|position")
"""In the names of tables of learned positions."""
PREFIX = "inner."  # of the names of `LanguageModel.inner`


def make(
    config: TrainConfig,
    form: Form,
    start: Path | None,
    accelerator: Accelerator,
    data: TuningData | None = None,
) -> Subject:
    """Returns the base with adapters, fresh ones or a checkpoint's; with rank 0 it moves itself.

    Args:
        config: the run's.
        form: how the base is asked.
        start: the checkpoint to go on from.
        accelerator: where it computes.
        data: what it will read: the base has to have room for it, and the guard looks at the
            held-out pairs of a replay.

    Raises:
        CheckpointError: the base cannot be opened, or the adapters are of other modules.
        ConfigError: a setting cannot work with this base, or a pair is too long for it.
    """
    has_adapters = config.lora.rank > 0
    hold = hold_of(config, accelerator.device, half=accelerator.mixed_precision == "bf16")
    torch.manual_seed(config.seed)
    base = open_base(config.base, hold)
    setattr(base.config, FORM, form.name)  # goes into the config of what is made of it
    model = trainee_of(base, config, form.pad_id).to(accelerator.device)
    inner: Any = model.inner
    rows = inner.get_input_embeddings().weight.shape[0]
    if form.vocab_size > rows:
        raise ConfigError(
            f"base={config.base}: its tokenizer has {form.vocab_size} ids, but the model only "
            f"{rows}: name a folder whose files belong together"
        )
    if data:
        _require_positions(model, data, config.base)
    if config.lora.kl:
        log.info(
            f"lora.kl={config.lora.kl:g}: so many times KL(base || tuned) is minimized with the "
            "loss; metrics.jsonl has each apart, as loss and kl, in nats a target token"
        )
    layout = AdapterLayout(inner, PREFIX, {}) if has_adapters else WholeLayout(inner, PREFIX)
    if start:
        found = layout.read(start)
        with torch.no_grad():
            for name, parameter in model.saved():
                parameter.copy_(found[name])
    general = data.general_valid if data else None
    guard = Guard(config, form, accelerator, general) if has_adapters else None
    return Subject(model, layout, speech_of(form), guard)


def _require_positions(model: LanguageModel, data: TuningData, base: str) -> None:
    """Refuses pairs that are longer than a table of learned positions, which ends the run anywhere.

    Raises:
        ConfigError: there is such a pair.
    """
    inner: Any = model.inner
    has_table = any(
        isinstance(module, nn.Embedding) and POSITIONS.search(name)
        for name, module in inner.named_modules()
    )
    most = positions_of(inner.config.to_dict()) if has_table else None
    longest = data.longest(in_one_row=model.is_causal)
    if most and longest > most:
        raise ConfigError(
            f"the longest pair has {longest} tokens, and base={base} has positions for {most}: "
            f"tokenise the data with max_seq_length={most}, or for pairs of texts make "
            "max_source_tokens and max_target_tokens smaller"
        )


def hold_of(config: TrainConfig, device: torch.device, *, half: bool) -> Hold:
    """Returns how a run holds its base; `half`: whether its products are in bf16."""
    # Weights that move are kept in fp32, or small updates would be rounded away.
    is_bf16 = half and config.lora.rank > 0
    dtype = torch.bfloat16 if is_bf16 else torch.float32
    return Hold(device, dtype, config.quantize, config.gradient_checkpointing)


def trainee_of(base: Any, config: TrainConfig, pad_id: int) -> LanguageModel:
    """Returns what a run trains of a frozen base: fresh adapters on it; with rank 0 all of it."""
    inner = with_adapters(base, config.lora) if config.lora.rank else moving(base)
    if config.gradient_checkpointing:
        inner.enable_input_require_grads()  # the first layer's input would need none otherwise
    return LanguageModel(inner, pad_id=pad_id, kl=config.lora.kl)


def speech_of(form: Form) -> Speech:
    """Returns how a base is asked with prompts as the training data have them."""

    def encode(prompts: Sequence[str]) -> list[list[int]]:
        asked = []
        for prompt in prompts:
            turns, question = turns_of(prompt)
            asked.append(Asked(question, tuple(turns)))
        # A question that a template cannot hold is asked without its text.
        return [ids or form.end_ids for ids in form.prompt_ids(asked)]

    answer = partial(speech.answer, form=form)
    return Speech(encode, answer, form.decode)
