"""One answer of a model of others, token by token.

In: a request. Out: its ids as they come, and why it ended. The steps of the model, its cache and
its beams are those of transformers' `generate`, which knows every architecture; the next token is
chosen as our own models choose theirs (`torch_choosing`), so that settings mean the same and a seed
gives the same everywhere. Knows no threads.

Shapes: B beams, or 1; T tokens of the decoder so far; V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from chatlm import generate
from chatlm.adapters.opened import Opened
from chatlm.adapters.speech import NEUTRAL
from chatlm.errors import EngineError
from chatlm.generate import Controls
from chatlm.generation_config import GenerationConfig
from chatlm.inference.engine import Reason, Request
from chatlm.inference.language_limits import positions_of
from chatlm.inference.torch_choosing import Choice, choose

GoOn = Callable[[tuple[int, ...]], bool]
"""Takes the next ids of an answer, with beams none until the end; returns whether more are wanted.
Called after each step of the model."""


class Speaker:
    """A model, its form, and how long its sequences may be."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        inner: Any = opened.model.inner
        self._inner = inner
        self._device = inner.get_input_embeddings().weight.device
        self._is_causal = opened.model.is_causal
        self._positions = positions_of(inner.config.to_dict())
        form = opened.form
        self._controls = Controls(tuple(form.never_ids), tuple(form.stop_ids))

    def answer(self, request: Request, go_on: GoOn) -> Reason:
        """Makes an answer; returns why it ended, "cancelled" if no more was wanted.

        Raises:
            EngineError: the prompt cannot be read, or no token can be chosen.
        """
        ids, config = request.source_ids, self._within_positions(request)
        steps = _Steps(config, self._controls, self._device, go_on)
        if request.is_base:
            with self._opened.without_adapters():
                said = self._generate(ids, config, steps)
        else:
            said = self._generate(ids, config, steps)
        if steps.error is not None:
            raise steps.error
        if steps.is_unwanted:
            return "cancelled"
        if config.num_beams > 1:
            said, is_whole = _until(said, self._controls.ends)
            return _reason(is_whole) if not said or go_on(tuple(said)) else "cancelled"
        return _reason(steps.has_ended)

    def _within_positions(self, request: Request) -> GenerationConfig:
        """Returns the settings, with no more tokens than the model has positions for.

        Raises:
            EngineError: the prompt itself has too many, or ids that the model does not know.
        """
        ids, config = request.source_ids, request.config
        most = self._opened.model.vocab_size
        if not ids or min(ids) < 0 or max(ids) >= most:
            raise EngineError(
                f"the prompt has {len(ids)} ids; expected one or more, each from 0 to {most - 1}"
            )
        if self._positions is None:
            return config
        room = self._positions - (len(ids) if self._is_causal else 1)
        if room < 1 or len(ids) > self._positions:
            raise EngineError(
                f"the prompt has {len(ids)} tokens, and this model has {self._positions} "
                "positions: shorten it"
            )
        longest = min(config.max_new_tokens, room)
        shortest = min(config.min_new_tokens, longest)
        return replace(config, max_new_tokens=longest, min_new_tokens=shortest)

    @torch.inference_mode()
    def _generate(
        self, ids: tuple[int, ...], config: GenerationConfig, steps: "_Steps"
    ) -> list[int]:
        """Returns the decoder's ids without what it began with."""
        sources = torch.tensor([ids], device=self._device)
        found = self._inner.generate(
            input_ids=sources,
            attention_mask=torch.ones_like(sources),
            pad_token_id=self._opened.model.pad_id,
            eos_token_id=list(self._controls.ends),
            logits_processor=[_Processor(steps)],
            stopping_criteria=[_Criterion(steps)],
            num_beams=config.num_beams,
            length_penalty=config.length_penalty,
            max_new_tokens=config.max_new_tokens,
            **NEUTRAL,
        )
        return found[0, steps.num_given :].tolist()


class _Steps:
    """What happens between two steps of the model.

    Attributes:
        num_given: tokens that the decoder begins with.
        has_ended: a token has come that ends an answer.
        is_unwanted: no more was wanted.
        error: why no token could be chosen.
    """

    def __init__(
        self, config: GenerationConfig, controls: Controls, device: torch.device, go_on: GoOn
    ) -> None:
        self.num_given = 0
        self.has_ended = False
        self.is_unwanted = False
        self.error: EngineError | None = None
        self._choice = Choice.of(config, device)
        self._controls = controls
        self._go_on = go_on
        self._has_begun = False

    @property
    def is_over(self) -> bool:
        """Whether a further step would be for nothing."""
        return self.has_ended or self.is_unwanted or self.error is not None

    def adjusted(self, ids: Int[Tensor, "B T"], scores: Float[Tensor, "B V"]) -> Tensor:
        """Return scores of which the best is the next token; with beams, those to rank."""
        if not self._has_begun:
            self._has_begun, self.num_given = True, ids.shape[1]
        if self._choice.config.num_beams > 1:
            history = ids[:, self.num_given :]
            return generate.adjust(scores, history, self._choice.config, self._controls)
        if self.is_over:  # on a GPU `generate` takes a step more before it looks
            return scores
        (token,) = choose(scores.clone(), [self._choice], self._controls)
        if isinstance(token, EngineError):
            self.error, token = token, self._controls.ends[0]
        only = torch.full_like(scores, -math.inf)
        only[0, token] = 0.0
        return only

    def stops(self) -> bool:
        """Tells of the token that was chosen; returns whether it was the last."""
        if self.is_over:
            return True
        ids: tuple[int, ...] = ()
        if self._choice.config.num_beams == 1:
            ids = (self._choice.said[-1],)
            self.has_ended = ids[0] in self._controls.ends
        self.is_unwanted = not self._go_on(() if self.has_ended else ids)
        return self.is_over


class _Processor(LogitsProcessor):
    def __init__(self, steps: _Steps) -> None:
        self._steps = steps

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return self._steps.adjusted(input_ids, scores)


class _Criterion(StoppingCriteria):
    def __init__(self, steps: _Steps) -> None:
        self._steps = steps

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:  # noqa: ARG002
        stops = self._steps.stops()
        return torch.full((len(input_ids),), stops, dtype=torch.bool, device=input_ids.device)


def _until(ids: list[int], ends: tuple[int, ...]) -> tuple[list[int], bool]:
    """Returns the ids before the first that ends an answer, and whether there is one."""
    place = next((place for place, one in enumerate(ids) if one in ends), None)
    return (ids, False) if place is None else (ids[:place], True)


def _reason(is_whole: bool) -> Reason:
    return "stop" if is_whole else "length"
