"""How far the answers of an exported model are from those of its checkpoint.

In: two lists of greedy answers to the same questions, one of them made by our T5 in fp32, which is
the reference. Out: a `Drift`. Two measures: the share of answers that are the same to the last
token, and the share of the reference's tokens that come before the first difference. At a first
difference the gap tells why: the reference's logit of its own token, less that of the token which
was chosen instead. Where rounding decides, it is tiny.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from chatlm.errors import ConfigError
from chatlm.generate import generate
from chatlm.generation_config import GenerationConfig
from chatlm.model.t5 import T5

AT_ONCE = 16
NEAR_TIE = 1e-5
"""Logits that are no further apart are a matter of rounding."""


@dataclass(frozen=True)
class Least:
    """How much of the answers has to be the same.

    Attributes:
        identical: share of answers without a difference.
        agreeing: share of tokens before the first difference.
    """

    identical: float
    agreeing: float


LEAST = {
    "float32": Least(0.99, 0.99),
    "float16": Least(0.90, 0.95),
    "bfloat16": Least(0.50, 0.70),
    "int16": Least(0.90, 0.95),
    "int8": Least(0.50, 0.70),
}
"""By what the matrices are stored as: `int8_float16` counts as int8. Half of the answers and 70 %
of the tokens: that is left of answers of 64 tokens if one choice in a hundred falls otherwise. With
int8 the starter model makes one in a thousand otherwise."""


@dataclass(frozen=True)
class Difference:
    """Where an answer first differs.

    Attributes:
        row: which answer.
        place: index of the token.
        gap: what the reference's token is ahead of the one that was chosen, in logits.
    """

    row: int
    place: int
    gap: float

    @property
    def is_near_tie(self) -> bool:
        """Whether rounding alone explains it."""
        return abs(self.gap) <= NEAR_TIE


@dataclass(frozen=True)
class Drift:
    """What was found. An empty answer agrees wholly or not at all, as if it had one token."""

    num_answers: int
    num_tokens: int
    num_agreeing: int
    differences: list[Difference] = field(default_factory=list)

    @property
    def identical(self) -> float:
        """Share of answers without a difference."""
        return 1 - len(self.differences) / self.num_answers

    @property
    def agreeing(self) -> float:
        """Share of the reference's tokens before the first difference."""
        return self.num_agreeing / self.num_tokens

    def figures(self) -> dict[str, Any]:
        """Returns what is kept of it."""
        gaps = sorted(abs(one.gap) for one in self.differences)
        return {
            "answers": self.num_answers,
            "tokens": self.num_tokens,
            "identical": round(self.identical, 4),
            "agreeing_tokens": round(self.agreeing, 4),
            "near_ties": sum(one.is_near_tie for one in self.differences),
            "median_gap": gaps[len(gaps) // 2] if gaps else None,
            "largest_gap": gaps[-1] if gaps else None,
        }


def least_of(quantization: str) -> Least:
    """Returns how much has to be the same where the user names no shares."""
    return LEAST[quantization.partition("_")[0]]


def require(drift: Drift, least: Least, quantization: str) -> None:
    """Refuses a model that answers too differently.

    Raises:
        ConfigError: it does, with the figures and the ways out.
    """
    if drift.identical >= least.identical and drift.agreeing >= least.agreeing:
        return
    raise ConfigError(
        f"quantization={quantization} changes too much, nothing was written: "
        f"{drift.identical:.1%} of {drift.num_answers} answers are identical (least "
        f"{least.identical:.1%}), {drift.agreeing:.1%} of tokens come before a difference (least "
        f"{least.agreeing:.1%}); take a finer quantization=, or lower min_identical= and "
        "min_agreeing="
    )


def reference(model: T5, sources: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    """Returns the greedy answers of our model, without EOS.

    Args:
        model: fp32, on the CPU.
        sources: ids, EOS included.
        max_new_tokens: EOS included.
    """
    config = GenerationConfig(max_new_tokens=max_new_tokens)
    order = sorted(range(len(sources)), key=lambda row: len(sources[row]))
    answers: list[list[int]] = [[] for _ in sources]
    for start in range(0, len(order), AT_ONCE):
        rows = order[start : start + AT_ONCE]
        longest = max(len(sources[row]) for row in rows)
        pad = model.config.pad_token_id
        padded = [[*sources[row], *[pad] * (longest - len(sources[row]))] for row in rows]
        lengths = torch.tensor([len(sources[row]) for row in rows])
        mask = (torch.arange(longest) < lengths[:, None]).long()
        for row, ids in zip(rows, generate(model, torch.tensor(padded), mask, config), strict=True):
            answers[row] = ids
    return answers


def compare(
    model: T5,
    sources: Sequence[Sequence[int]],
    expected: Sequence[Sequence[int]],
    found: Sequence[Sequence[int]],
    max_new_tokens: int,
) -> Drift:
    """Returns how far answers are from the reference.

    Args:
        model: the reference's.
        sources: ids, EOS included.
        expected: from `reference`.
        found: the other answers, in the same order, without EOS.
        max_new_tokens: of both.
    """
    eos = model.config.eos_token_id
    num_tokens = num_agreeing = 0
    differences = []
    for row, (source, ours, theirs) in enumerate(zip(sources, expected, found, strict=True)):
        whole, other = _whole(ours, eos, max_new_tokens), _whole(theirs, eos, max_new_tokens)
        place = _first_difference(whole, other)
        num_tokens += len(whole)
        num_agreeing += len(whole) if place is None else place
        if place is not None:
            gap = _gap(model, source, whole[: place + 1], other[place])
            differences.append(Difference(row, place, gap))
    return Drift(len(sources), num_tokens, num_agreeing, differences)


def _whole(ids: Sequence[int], eos: int, max_new_tokens: int) -> list[int]:
    """Returns an answer with its EOS, if it has one."""
    return [*ids, eos] if len(ids) < max_new_tokens else list(ids)


def _first_difference(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """Returns the first place where two answers differ; neither can begin with the whole other."""
    pairs = zip(ours, theirs, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), None)


@torch.inference_mode()
def _gap(model: T5, source: Sequence[int], answer: Sequence[int], other: int) -> float:
    """Returns how far the logit of the answer's last token is above that of another one."""
    ids = torch.tensor([list(source)])
    mask = torch.ones_like(ids)
    targets = torch.tensor([[model.config.pad_token_id, *answer[:-1]]])
    hidden = model.decode(targets, model.encode(ids, mask), mask)
    logits = model.logits(hidden[0, -1]).float()
    return float(logits[answer[-1]] - logits[other])
