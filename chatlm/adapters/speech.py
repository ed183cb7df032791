"""How a model of others answers while it is judged.

In: sources as ids, `GenerationConfig`. Out: the ids of the answers, by transformers' `generate`,
rows of unequal length padded on the left. What ends an answer, and what is never said, is the
form's, as in a chat.
"""

from dataclasses import replace
from typing import Any

import torch

from chatlm.adapters.forms import Form
from chatlm.adapters.language_model import LanguageModel
from chatlm.generation_config import GenerationConfig
from chatlm.inference.language_limits import positions_of

NEUTRAL: dict[str, Any] = {
    "do_sample": False,
    "early_stopping": False,
    "num_return_sequences": 1,
    "max_length": None,
    "min_length": 0,
    "min_new_tokens": None,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "temperature": None,
    "top_k": None,
    "top_p": None,
    "min_p": None,
    "typical_p": None,
    "penalty_alpha": None,
    "guidance_scale": None,
    "prompt_lookup_num_tokens": None,
    "renormalize_logits": False,
    "return_dict_in_generate": False,
    "stop_strings": None,
    "max_time": None,
    "exponential_decay_length_penalty": None,
    "watermarking_config": None,
    "token_healing": False,
    "force_words_ids": None,
    "dola_layers": None,
}
"""How a folder's generation_config.json may want answers to be chosen: our settings say that here.
What it says of the tokens themselves, such as one that each answer begins with, stays."""


def answer(
    model: LanguageModel, sources: list[list[int]], config: GenerationConfig, form: Form
) -> list[list[int]]:
    """Returns one answer a source, up to and without the token that ended it.

    A causal model that has no positions for so long a one ends where they end.
    """
    inner: Any = model.inner
    device = model.device
    longest = max(map(len, sources))
    positions = positions_of(inner.config.to_dict()) if model.is_causal else None
    if positions:
        config = replace(config, **_fitted(config, max(1, positions - longest)))
    left = model.is_causal
    rows = [_padded(ids, longest, model.pad_id, left=left) for ids in sources]
    seen = [_padded([1] * len(ids), longest, 0, left=left) for ids in sources]
    with torch.inference_mode():
        found = inner.generate(
            input_ids=torch.tensor(rows, device=device),
            attention_mask=torch.tensor(seen, device=device),
            pad_token_id=model.pad_id,
            eos_token_id=form.stop_ids,
            **({"suppress_tokens": form.never_ids} if form.never_ids else {}),
            **_as_theirs(config),
        )
    start = longest if model.is_causal else 1
    return [_until(row[start:], form.stop_ids) for row in found.tolist()]


def _fitted(config: GenerationConfig, room: int) -> dict[str, int]:
    names = ("max_new_tokens", "min_new_tokens")
    return {name: min(getattr(config, name), room) for name in names}


def _padded(row: list[int], width: int, fill: int, *, left: bool) -> list[int]:
    filler = [fill] * (width - len(row))
    return filler + row if left else row + filler


def _until(ids: list[int], ends: list[int]) -> list[int]:
    return next((ids[:place] for place, one in enumerate(ids) if one in ends), ids)


def _as_theirs(config: GenerationConfig) -> dict[str, Any]:
    """Returns our settings under transformers' names."""
    theirs: dict[str, Any] = {
        **NEUTRAL,
        "max_new_tokens": config.max_new_tokens,
        "min_new_tokens": config.min_new_tokens or None,
        "num_beams": config.num_beams,
        "repetition_penalty": config.repetition_penalty,
        "no_repeat_ngram_size": config.no_repeat_ngram_size,
        "do_sample": config.temperature > 0,
    }
    if config.num_beams > 1:
        theirs["length_penalty"] = config.length_penalty
    if config.temperature > 0:
        theirs |= {
            "temperature": config.temperature,
            "top_k": config.top_k,
            "top_p": config.top_p,
        }
    return theirs
