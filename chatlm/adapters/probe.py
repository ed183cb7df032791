"""What a tuning takes from a model: its loss on fixed answers of a general chat, and its base's.

In: a model, with or without adapters, and its form. Out: a `Drift`. The questions and answers are
those of probe.yaml: greetings, common knowledge, sums, lists, translations, advice, in Chinese and
in English. Nobody answers anything here: the reference answers are scored, token by token, which is
exact and takes a moment. Every process that calls it computes the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chatlm import untrusted
from chatlm.adapters.forms import Asked, Form
from chatlm.adapters.language_model import LanguageModel, divergence, flat
from chatlm.inference.language_limits import MOST_POSITIONS, positions_of

FILE = Path(__file__).with_name("probe.yaml")
ROWS_AT_ONCE = 8


@dataclass(frozen=True)
class ProbePair:
    """A question of everyday chat and a good answer; `language` is zh or en."""

    question: str
    answer: str
    language: str


@dataclass(frozen=True)
class Drift:
    """How far a tuned model is from its base, over the tokens of the probe's answers.

    The ends of answers are tokens, too.

    Attributes:
        nats_tuned: mean loss of the tuned model, in nats a token.
        nats_base: that of the base.
        kl: mean KL(base || tuned), in nats a token.
        num_tokens: how many were scored.
    """

    nats_tuned: float
    nats_base: float
    kl: float
    num_tokens: int

    @property
    def forgetting(self) -> float:
        """By how many nats a token the answers have become less likely; below 0: more likely."""
        return self.nats_tuned - self.nats_base


def pairs() -> list[ProbePair]:
    """Returns the questions and answers, in their fixed order."""
    content = untrusted.read_yaml(FILE)
    return [
        ProbePair(row["question"], row["answer"], language)
        for language, rows in content.items()
        for row in rows
    ]


@torch.no_grad()
def measure(model: LanguageModel, form: Form, base: LanguageModel | None = None) -> Drift:
    """Returns how far a model has drifted.

    Args:
        model: on its device; a caller who wants autocast puts it around.
        form: how it is asked.
        base: from what, in eval mode; None: from itself without adapters, if it has any. Ids that
            only one of the two has a place for have no part in the KL.
    """
    was_training = model.training
    model.eval()  # dropout would give other figures each time
    sums = torch.zeros(3, dtype=torch.float64)
    num_tokens = 0
    most = min(most_positions(one) for one in (model, base) if one)
    for batch in _batches(rows_of(form, most)):
        arguments = flat(batch, model.device)
        labels = arguments[1]
        tuned = model.logits(*arguments)
        before = _before(model, base, arguments, tuned)
        common = min(before.shape[1], tuned.shape[1])
        kl = divergence(before[:, :common], tuned[:, :common])
        found = [_nats(tuned, labels), _nats(before, labels), kl]
        sums += torch.stack([one.double().sum() for one in found]).cpu()
        num_tokens += len(labels)
    model.train(was_training)
    nats_tuned, nats_base, kl = (sums / max(1, num_tokens)).tolist()
    return Drift(nats_tuned, nats_base, kl, num_tokens)


def _before(
    model: LanguageModel,
    base: LanguageModel | None,
    arguments: tuple[Tensor, Tensor, Tensor, Tensor],
    tuned: Tensor,
) -> Tensor:
    """Returns the logits of the base; those of a model without adapters that has none are its."""
    if base is not None:
        return base.logits(*arguments)
    if not model.has_adapters:
        return tuned
    with model.as_base():
        return model.logits(*arguments)


def rows_of(form: Form, most_tokens: int) -> list[tuple[list[int], list[int]]]:
    """Returns prompts and answers as ids; an answer that has no room is cut, and gets no end."""
    every = pairs()
    prompts = form.prompt_ids([Asked(one.question) for one in every])
    answers = form.answer_ids([one.answer for one in every])
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        if prompt is not None and len(prompt) < most_tokens:
            whole = [*answer, *form.end_ids]
            found.append((prompt, whole[: most_tokens - len(prompt)]))
    return found


def most_positions(model: LanguageModel) -> int:
    """Returns how long a row may be: what a model with learned positions has of them."""
    config: Any = model.inner.config
    return positions_of(config.to_dict()) or MOST_POSITIONS


def _batches(
    rows: Sequence[tuple[list[int], list[int]]],
) -> Iterator[Sequence[tuple[list[int], list[int]]]]:
    """Yields a few rows at a time, those of similar length together."""
    ordered = sorted(rows, key=lambda row: len(row[0]) + len(row[1]))
    for start in range(0, len(ordered), ROWS_AT_ONCE):
        yield ordered[start : start + ROWS_AT_ONCE]


def _nats(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), labels, reduction="none")
