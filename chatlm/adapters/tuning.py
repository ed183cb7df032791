"""A base, with adapters or moving as a whole, as the subject of a training.

In: settings, the accelerator, perhaps a checkpoint to go on from. Out: a `Subject`, for the one
training loop that all models share; one with adapters is watched, lest it forgets what it could.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator

from chatlm import log
from chatlm.adapters import speech
from chatlm.adapters.base import Hold, open_base
from chatlm.adapters.forgetting import Guard
from chatlm.adapters.forms import Asked, Form
from chatlm.adapters.language_model import LanguageModel
from chatlm.adapters.lora import AdapterLayout, with_adapters
from chatlm.adapters.whole import WholeLayout, moving
from chatlm.checkpoint.kinds import FORM
from chatlm.config import TrainConfig
from chatlm.corpus.conversation import turns_of
from chatlm.dataset.token_store import TokenStore
from chatlm.errors import ConfigError
from chatlm.evaluate import Speech
from chatlm.subject import Subject

PREFIX = "inner."  # of the names of `LanguageModel.inner`


def make(
    config: TrainConfig,
    form: Form,
    start: Path | None,
    accelerator: Accelerator,
    general: TokenStore | None = None,
) -> Subject:
    """Returns the base with adapters, fresh ones or a checkpoint's; with rank 0 it moves itself.

    Args:
        config: the run's.
        form: how the base is asked.
        start: the checkpoint to go on from.
        accelerator: where it computes.
        general: held-out pairs of a replay, that the guard looks at, too.

    Raises:
        CheckpointError: the base cannot be opened, or the adapters are of other modules.
        ConfigError: a setting cannot work with this base.
    """
    has_adapters = config.lora.rank > 0
    # Weights that move are kept in fp32, or small updates would be rounded away.
    is_bf16 = accelerator.mixed_precision == "bf16" and has_adapters
    hold = Hold(
        accelerator.device,
        torch.bfloat16 if is_bf16 else torch.float32,
        config.quantize,
        config.gradient_checkpointing,
    )
    torch.manual_seed(config.seed)
    base = open_base(config.base, hold)
    setattr(base.config, FORM, form.name)  # goes into the config of what is made of it
    inner = with_adapters(base, config.lora) if has_adapters else moving(base)
    if config.gradient_checkpointing:
        inner.enable_input_require_grads()  # the first layer's input would need none otherwise
    rows = inner.get_input_embeddings().weight.shape[0]
    if form.vocab_size > rows:
        raise ConfigError(
            f"base={config.base}: its tokenizer has {form.vocab_size} ids, but the model only "
            f"{rows}: name a folder whose files belong together"
        )
    model = LanguageModel(inner, pad_id=form.pad_id, kl=config.lora.kl).to(accelerator.device)
    if config.lora.kl:
        log.info(
            f"lora.kl={config.lora.kl:g}: so many times KL(base || tuned) is part of the training "
            "loss, and of its figures; it is no part of the validation loss"
        )
    layout = AdapterLayout(inner, PREFIX, {}) if has_adapters else WholeLayout(inner, PREFIX)
    if start:
        found = layout.read(start)
        with torch.no_grad():
            for name, parameter in model.saved():
                parameter.copy_(found[name])
    guard = Guard(config, form, accelerator, general) if has_adapters else None
    return Subject(model, layout, speech_of(form), guard)


def speech_of(form: Form) -> Speech:
    """Returns how a base is asked with prompts as the training data have them."""

    def encode(prompts: Sequence[str]) -> list[list[int]]:
        asked = []
        for prompt in prompts:
            turns, question = turns_of(prompt)
            asked.append(Asked(question, tuple(turns)))
        # A question that a template cannot hold is asked without its text.
        return [ids or form.end_ids for ids in form.prompt_ids(asked)]

    answer = partial(speech.answer, eos_ids=form.stop_ids)
    return Speech(encode, answer, form.decode)
