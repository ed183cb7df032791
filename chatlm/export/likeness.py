"""How far a merged model is from its base with adapters.

In: questions as ids, the model before, the model that was written. Out: a `Likeness`. The logits of
every place of the answers are compared, the same answers being read by both, so that one near tie
does not make all that follows incomparable. Everything is computed in fp32, whatever the weights
have.

What is allowed is rounding, and how much that is, is measured: the base with adapters is asked once
more with each number of its embeddings changed by a unit in its last place. Merging is seen to
change the logits by 0.3 to 1.9 times as much; four times as much is allowed (and always 1e-5 of the
largest logit in fp32, 4e-3 in fp16, 3e-2 in bf16), but never more than half of what the adapters
themselves change, beside which a lost or wrongly scaled adapter cannot hide.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from chatlm.adapters import speech
from chatlm.adapters.forms import Asked, Form
from chatlm.adapters.language_model import LanguageModel
from chatlm.adapters.opened import Opened
from chatlm.adapters.probe import most_positions
from chatlm.errors import ConfigError
from chatlm.generation_config import GenerationConfig

LEAST = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""What is always allowed, of the largest logit, by the coarser weights of the two models."""
ROUNDINGS = 4
SEED = 1


@dataclass(frozen=True)
class Questions:
    """What is asked.

    Attributes:
        sources: ids of each question, its form around it.
        form: what ends an answer, and is never said.
        max_new_tokens: of an answer.
    """

    sources: list[list[int]]
    form: Form
    max_new_tokens: int


@dataclass(frozen=True)
class Heard:
    """What a model said.

    Attributes:
        answers: greedy ones.
        logits: (N, V) of the places of each answer.
        dtype: of its weights.
        rounding: largest distance to logits that come from embeddings a unit of rounding away.
        base_difference: largest distance to those of the base without adapters.
    """

    answers: list[list[int]]
    logits: list[Tensor]
    dtype: torch.dtype
    rounding: float
    base_difference: float

    @property
    def largest(self) -> float:
        """The largest logit, by its size."""
        return max(float(logits.abs().max()) for logits in self.logits)


@dataclass(frozen=True)
class Likeness:
    """What was found.

    Attributes:
        difference: largest distance between two logits.
        identical: share of greedy answers that are the same.
        allowed: the most that `difference` may be.
        heard: of the base with adapters.
    """

    difference: float
    identical: float
    allowed: float
    heard: Heard

    def figures(self) -> dict[str, Any]:
        """Returns what is kept of it."""
        return {
            "logit_difference": self.difference,
            "allowed_difference": self.allowed,
            "difference_of_base": self.heard.base_difference,
            "largest_logit": self.heard.largest,
            "identical": round(self.identical, 4),
        }


def questions_of(texts: Sequence[str], opened: Opened, max_new_tokens: int) -> Questions:
    """Returns the questions for which a model has room.

    Raises:
        ConfigError: there are none.
    """
    most = most_positions(opened.model)
    rows = opened.form.prompt_ids([Asked(text) for text in texts])
    sources = [row for row in rows if row and len(row) < most]
    if not sources:
        raise ConfigError(f"none of the questions fits into {most} tokens: name others in probes=")
    room = most - max(map(len, sources))
    return Questions(sources, opened.form, min(max_new_tokens, room))


def hear(opened: Opened, questions: Questions, dtype: torch.dtype) -> Heard:
    """Returns what a model with adapters says, and how firmly.

    Args:
        opened: the model.
        questions: what is asked.
        dtype: of the model that it will be compared with.
    """
    model = opened.model
    answers = _answers(model, questions)
    with _in_fp32(model):
        logits = [_logits(model, *pair) for pair in zip(questions.sources, answers, strict=True)]
    heard = Heard(answers, logits, _dtype(model), 0.0, 0.0)
    with _disturbed(model, max(torch.finfo(one).eps for one in (heard.dtype, dtype))):
        rounding = distance(model, questions, heard)
    with opened.without_adapters():
        base_difference = distance(model, questions, heard)
    return replace(heard, rounding=rounding, base_difference=base_difference)


def distance(model: LanguageModel, questions: Questions, heard: Heard) -> float:
    """Returns the largest distance between a model's logits and others on the same answers."""
    pairs = zip(questions.sources, heard.answers, heard.logits, strict=True)
    with _in_fp32(model):
        return max(
            float((_logits(model, source, answer) - logits).abs().max())
            for source, answer, logits in pairs
        )


def compare(model: LanguageModel, questions: Questions, heard: Heard) -> Likeness:
    """Returns how far a written model is from what was heard before."""
    given = _answers(model, questions)
    same = sum(one == other for one, other in zip(given, heard.answers, strict=True))
    least = heard.largest * max(LEAST[heard.dtype], LEAST[_dtype(model)])
    allowed = max(least, min(ROUNDINGS * heard.rounding, heard.base_difference / 2))
    return Likeness(distance(model, questions, heard), same / len(given), allowed, heard)


def require(found: Likeness, min_identical: float) -> None:
    """Refuses a model that is not the same.

    Args:
        found: from `compare`.
        min_identical: least share of answers that are the same; below 0: any.

    Raises:
        ConfigError: it is not, with the figures and the ways out.
    """
    if not found.difference <= found.allowed:  # what is no number is refused, too
        raise ConfigError(
            f"the merged model is another one, nothing was written: its logits are up to "
            f"{found.difference:.3g} away (rounding: {found.allowed:.3g}; the adapters change them "
            f"by {found.heard.base_difference:.3g}); take dtype=fp32, and if that does not help, "
            "keep the adapters"
        )
    if found.identical < min_identical:
        raise ConfigError(
            f"only {found.identical:.1%} of the merged model's answers are identical (least "
            f"{min_identical:.1%}), nothing was written: take dtype=fp32, or lower min_identical="
        )


@contextmanager
def _disturbed(model: LanguageModel, unit: float) -> Iterator[None]:
    """Lets every embedding be read with each number larger or smaller by this share of it."""
    generator = torch.Generator().manual_seed(SEED)

    def disturb(_module: nn.Module, _inputs: Any, found: Tensor) -> Tensor:
        signs = 2 * torch.randint(0, 2, found.shape, generator=generator) - 1
        return found * (1 + unit * signs.to(found))

    hooks = [
        module.register_forward_hook(disturb)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _answers(model: LanguageModel, questions: Questions) -> list[list[int]]:
    config = GenerationConfig(max_new_tokens=questions.max_new_tokens)
    with _in_fp32(model):
        return speech.answer(model, questions.sources, config, questions.form)


@contextmanager
def _in_fp32(model: LanguageModel) -> Iterator[None]:
    """Lets a model whose weights have 16 bits compute in fp32, one module's weights at a time.

    Most CPUs compute 16-bit numbers so slowly that a large model would take days.
    """

    def widen(module: nn.Module, inputs: Any, given: Any) -> tuple[Any, Any]:
        for parameter in module.parameters(recurse=False):
            narrow[parameter] = parameter.data
            parameter.data = parameter.data.float()
        return tuple(map(_wide, inputs)), {name: _wide(value) for name, value in given.items()}

    def restore(module: nn.Module, _inputs: Any, _found: Any) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = narrow.pop(parameter)

    narrow: dict[nn.Parameter, Tensor] = {}
    hooks: list[Any] = []
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if not any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in own):
            continue
        if isinstance(module, nn.Embedding):  # of whose table a few rows are read
            hooks.append(module.register_forward_hook(lambda _m, _i, found: _wide(found)))
        else:
            hooks.append(module.register_forward_pre_hook(widen, with_kwargs=True))
            hooks.append(module.register_forward_hook(restore, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _wide(value: Any) -> Any:
    is_narrow = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if is_narrow else value


@torch.inference_mode()
def _logits(model: LanguageModel, source: list[int], answer: list[int]) -> Tensor:
    """Returns the logits (N+1, V) of an answer's tokens and of what follows it, in fp32."""
    inner: Any = model.inner
    device = inner.get_input_embeddings().weight.device
    if model.is_causal:
        ids = torch.tensor([source + answer], device=device)
        found = inner(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        return found.logits[0, len(source) - 1 :].float().cpu()
    ids = torch.tensor([source], device=device)
    given = torch.tensor([[model.start_id, *answer]], device=device)
    mask = torch.ones_like(ids)
    found = inner(input_ids=ids, attention_mask=mask, decoder_input_ids=given, use_cache=False)
    return found.logits[0].float().cpu()


def _dtype(model: LanguageModel) -> torch.dtype:
    inner: Any = model.inner
    return inner.get_input_embeddings().weight.dtype
