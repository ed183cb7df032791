"""How good a model is: loss on unseen pairs, and the answers that it gives.

In: a model, a token store or texts. Out: figures. Loss is in nats a token and bits a character (the
end of an answer counts as a token, not as a character); answers are compared by corpus BLEU-4
(sacrebleu, `tokenize="zh"`) and, where a question has one right answer, by equality. It does not
choose checkpoints.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from chatlm.corpus import store
from chatlm.corpus.example import Example
from chatlm.dataset.batches import collate, lengths_of
from chatlm.dataset.order import Rows
from chatlm.dataset.packing import split
from chatlm.dataset.prompts import source_ids
from chatlm.dataset.token_store import TokenStore
from chatlm.generate import generate
from chatlm.generation_config import GenerationConfig
from chatlm.model.t5 import T5
from chatlm.model.trainee import Trainee
from chatlm.tokenizer import Tokenizer

ANSWERS_AT_ONCE = 64


@dataclass(frozen=True)
class Loss:
    """Loss over a set of pairs, summed over tokens before it is divided."""

    nats_per_token: float
    bits_per_char: float
    num_tokens: int


@torch.no_grad()
def loss(
    model: Trainee,
    store: TokenStore,
    rows: Rows,
    max_tokens: int,
    accelerator: Accelerator,
    num_shares: int = 1,
) -> Loss:
    """Returns the loss over `rows`; every process computes a part. Collective.

    Its bits are the same on any number of processes that the shares can be dealt to.

    Args:
        model: on the accelerator's device.
        store: where the rows are.
        rows: which pairs.
        max_tokens: source and target tokens that are computed at once.
        accelerator: the processes.
        num_shares: the number of groups of pairs is a multiple of this, or of the processes.
    """
    world = accelerator.num_processes
    groups = split(*lengths_of(store, rows), max_tokens, max(num_shares, world))
    found = torch.zeros(len(groups), 2, dtype=torch.float64, device=accelerator.device)
    was_training = model.training
    model.eval()
    for index in range(accelerator.process_index, len(groups), world):
        batch = collate(store, rows[groups[index].positions]).to(accelerator.device)
        with accelerator.autocast():
            output = model(*batch.tensors())
        found[index] = torch.stack([output.loss_sum.double(), output.num_tokens.double()])
    model.train(was_training)
    # Each number comes from one process, the others give 0: here nothing is rounded.
    gathered = accelerator.reduce(found, "sum")
    assert isinstance(gathered, Tensor)
    nats, tokens = (math.fsum(column) for column in gathered.t().tolist())
    chars = int(store.target_chars[rows].sum())
    return Loss(nats / tokens, nats / math.log(2) / chars, int(tokens))


def read_examples(path: Path, limit: int) -> list[Example]:
    """Returns the first `limit` pairs of a parquet (0: all).

    Files are shuffled when they are built, so the first pairs are a random sample that stays the
    same from run to run.

    Raises:
        DataError: the file cannot be read.
    """
    examples: list[Example] = []
    for batch in store.read_pairs(path):
        columns = (batch[name].to_pylist() for name in ("prompt", "response", "source"))
        examples += [Example(*row) for row in zip(*columns, strict=True)]
        if limit and len(examples) >= limit:
            return examples[:limit]
    return examples


@dataclass(frozen=True)
class Scores:
    """Figures over a set of answers. `exact` maps a source to (right, all), closed sources only."""

    bleu4: float
    exact: dict[str, tuple[int, int]]

    @property
    def exact_share(self) -> float | None:
        """Share of the closed questions that were answered with the reference, to the letter."""
        of = sum(total for _, total in self.exact.values())
        return sum(right for right, _ in self.exact.values()) / of if of else None

    def lines(self) -> list[str]:
        """Returns what closed questions gave, by source and in all, for people."""
        found = [
            f"{source}: {right} of {total} exactly right ({right / total:.1%})"
            for source, (right, total) in self.exact.items()
        ]
        if self.exact_share is not None:
            found.append(f"closed questions exactly right: {self.exact_share:.1%}")
        return found


@dataclass(frozen=True)
class Speech:
    """How a model is asked and understood.

    Attributes:
        encode: prompts in, what the model reads out.
        generate: a model, its sources and how to decode in; the ids of the answers out, without
            EOS.
        decode: ids of an answer in, its text out.
    """

    encode: Callable[[Sequence[str]], list[list[int]]]
    generate: Callable[[Any, list[list[int]], GenerationConfig], list[list[int]]]
    decode: Callable[[Sequence[int]], str]


def t5_speech(tokenizer: Tokenizer, max_source_tokens: int) -> Speech:
    """Returns how our T5 is asked: prompts are made to fit as in training, EOS kept."""

    def encode(prompts: Sequence[str]) -> list[list[int]]:
        return source_ids(prompts, tokenizer, max_source_tokens)

    def answer(model: T5, sources: list[list[int]], config: GenerationConfig) -> list[list[int]]:
        longest = max(map(len, sources))
        padded = [ids + [tokenizer.pad_id] * (longest - len(ids)) for ids in sources]
        input_ids = torch.tensor(padded, device=model.embedding.weight.device)
        return generate(model, input_ids, input_ids != tokenizer.pad_id, config)

    return Speech(encode, answer, tokenizer.decode)


def answers(
    model: Trainee,
    speech: Speech,
    prompts: Sequence[str],
    config: GenerationConfig,
    on_batch: Callable[[int], None] | None = None,
) -> list[str]:
    """Returns one answer a prompt, questions of similar length together.

    Args:
        model: on its device.
        speech: the model's.
        prompts: questions.
        config: how to decode.
        on_batch: called with the number of answers after every batch.
    """
    sources = speech.encode(prompts)
    order = sorted(range(len(sources)), key=lambda row: len(sources[row]))
    results = [""] * len(sources)
    was_training = model.training
    model.eval()
    for start in range(0, len(order), ANSWERS_AT_ONCE):
        rows = order[start : start + ANSWERS_AT_ONCE]
        outputs = speech.generate(model, [sources[row] for row in rows], config)
        for row, ids in zip(rows, outputs, strict=True):
            results[row] = speech.decode(ids)
        if on_batch:
            on_batch(len(rows))
    model.train(was_training)
    return results


def share_of_answers(
    model: Trainee,
    speech: Speech,
    pairs: Sequence[Example],
    config: GenerationConfig,
    accelerator: Accelerator,
    num_shares: int = 1,
) -> list[str]:
    """Returns the answers to all pairs, in order; every process makes its part. Collective.

    Which questions are answered together does not depend on the number of processes, as long as
    the shares can be dealt to them.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    size = min(ANSWERS_AT_ONCE, -(-len(pairs) // max(num_shares, world)))
    order = sorted(range(len(pairs)), key=lambda row: len(pairs[row].prompt))
    together = [order[start : start + size] for start in range(0, len(order), size)]
    mine: dict[int, str] = {}
    for rows in together[rank::world]:
        given = answers(model, speech, [pairs[row].prompt for row in rows], config)
        mine |= zip(rows, given, strict=True)
    if world > 1:
        parts: list[dict[int, str]] = [{} for _ in range(world)]
        torch.distributed.all_gather_object(parts, mine)
        for part in parts:
            mine |= part
    return [mine[row] for row in range(len(pairs))]


def score(pairs: Sequence[Example], given: Sequence[str]) -> Scores:
    """Returns the figures of the given answers."""
    from sacrebleu.metrics.bleu import BLEU

    # `zh` splits at every Han character, so corpus BLEU-4 counts runs of up to four characters.
    bleu = BLEU(tokenize="zh").corpus_score(list(given), [[pair.response for pair in pairs]])
    exact: defaultdict[str, list[bool]] = defaultdict(list)
    for pair, answer in zip(pairs, given, strict=True):
        if is_closed(pair.source):
            exact[pair.source].append(answer == pair.response)
    return Scores(bleu.score, {source: (sum(r), len(r)) for source, r in sorted(exact.items())})


def is_closed(source: str) -> bool:
    """Says whether questions of this source have exactly one right answer."""
    return source.startswith("starter/")
