"""A tuning without the weights of its base: the same model, to plan with and to measure on.

In: settings of a run. Out: what it would train, of random weights or on the meta device, and
batches of random ids. Of the base only its configuration is read, so that a model may be planned
with before it is fetched.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from chatlm.adapters.base import architecture, recompute_activations
from chatlm.adapters.language_model import LanguageModel, flat
from chatlm.adapters.tuning import hold_of, trainee_of
from chatlm.config import TrainConfig

FIRST_ID = 3
"""Smaller ids are padding, begin and end in many vocabularies."""


def untrained(
    config: TrainConfig, device: torch.device, pad_id: int, *, half: bool
) -> LanguageModel:
    """Returns what a run would train, in training, none of its matrices quantized.

    Args:
        config: the run's.
        device: where it lies; on "meta" it takes no memory.
        pad_id: fills rows up.
        half: whether products are in bf16.

    Raises:
        CheckpointError: there is no such base.
        ConfigError: it cannot be tuned with these settings.
    """
    kind, shape = architecture(config.base)
    hold = hold_of(config, device, half=half)
    with device:
        base: Any = kind.from_config(shape, dtype=hold.dtype)
    base.requires_grad_(False)
    if hold.checkpointing:
        recompute_activations(base)
    return trainee_of(base.eval(), config, pad_id).to(device).train()


def random_batch(
    model: LanguageModel, source_lengths: Sequence[int], target_lengths: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns pairs of these lengths in tokens, as `LanguageModel.forward` takes them, on the CPU.

    Args:
        model: whose ids they are.
        source_lengths: of the prompts; those of ChatGLM have two tokens at least.
        target_lengths: of the answers.
    """
    inner: Any = model.inner
    end = _end_of_prompts(inner.config)
    special = {value for key, value in inner.config.to_dict().items() if key.endswith("token_id")}
    plain = [one for one in range(FIRST_ID, model.vocab_size) if one not in special]
    choices = torch.tensor(plain)

    def ids(length: int) -> list[int]:
        return choices[torch.randint(len(plain), (length,))].tolist()

    pairs = [
        ([*ids(max(0, source - len(end))), *end], ids(target))
        for source, target in zip(source_lengths, target_lengths, strict=True)
    ]
    return flat(pairs, torch.device("cpu"))


def _end_of_prompts(shape: Any) -> list[int]:
    """Returns the ids without which a model refuses a prompt."""
    return [shape.gmask_token_id, shape.bos_token_id] if shape.model_type == "chatglm" else []
