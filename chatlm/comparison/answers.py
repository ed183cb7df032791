"""What a model says to the questions, and how likely the references are to it.

In: an opened model, ids. Out: answers with how they ended, and losses. Rows of like length are
computed together; the same questions give the same answers on the same device.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from chatlm.adapters import speech
from chatlm.adapters.language_model import flat
from chatlm.adapters.opened import Opened
from chatlm.comparison.questions import Question
from chatlm.generation_config import GenerationConfig

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        text: without special tokens, and without blanks around it.
        is_cut: whether `max_new_tokens` ended it, and not the model itself.
        num_tokens: of it, without its end.
        blank_end: blanks and ends of lines that stood behind the text.
    """

    text: str
    is_cut: bool
    num_tokens: int
    blank_end: int = 0


@dataclass(frozen=True)
class ReferenceLoss:
    """How likely the references are: nats a token, bits a character, over all of them together.

    Each token of each reference counts alike, the end of an answer too, as each pair does in the
    validation loss of a training. The nearest reference alone would flatter a model, the more the
    more references there are; the first one alone would be whichever the alphabet puts there.
    """

    nats_per_token: float
    bits_per_char: float
    num_tokens: int


def ask(
    opened: Opened,
    questions: Sequence[Question],
    config: GenerationConfig,
    at_once: int,
    advance: Advance,
) -> list[Answer]:
    """Returns an answer to each question.

    Args:
        opened: the model; its adapters as they are switched now.
        questions: with ids of its form.
        config: how to answer; drawing begins anew at its seed.
        at_once: questions in a batch.
        advance: called with the number of answers after each batch.
    """
    form, prompts = opened.form, [question.prompt_ids for question in questions]
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), prompts[row]))
    found: dict[int, Answer] = {}
    if config.temperature > 0:
        torch.manual_seed(config.seed or 0)
    for start in range(0, len(order), at_once):
        rows = order[start : start + at_once]
        batch = speech.answer(opened.model, [prompts[row] for row in rows], config, form)
        for row, ids in zip(rows, batch, strict=True):
            is_cut = len(ids) >= config.max_new_tokens
            text = form.decode(ids)
            blank_end = len(text) - len(text.rstrip())
            found[row] = Answer(text.strip(), is_cut, len(ids), blank_end)
        advance(len(rows))
    return [found[row] for row in range(len(prompts))]


@torch.inference_mode()
def reference_loss(opened: Opened, questions: Sequence[Question], at_once: int) -> ReferenceLoss:
    """Returns the loss of all references of all questions.

    Args:
        opened: the model; its adapters as they are switched now.
        questions: with references.
        at_once: rows in a batch.
    """
    pairs = [(one.prompt_ids, target) for one in questions for target in one.targets]
    order = sorted(
        range(len(pairs)), key=lambda row: (len(pairs[row][0] + pairs[row][1]), pairs[row])
    )
    nats = list[float]()
    for start in range(0, len(order), at_once):
        rows = order[start : start + at_once]
        batch = flat([pairs[row] for row in rows], opened.model.device)
        nats.append(float(opened.model(*batch).loss_sum))
    num_tokens = sum(len(target) for _, target in pairs)
    num_chars = sum(len(text) for question in questions for text in question.references)
    total = math.fsum(nats)
    return ReferenceLoss(total / num_tokens, total / math.log(2) / max(1, num_chars), num_tokens)
