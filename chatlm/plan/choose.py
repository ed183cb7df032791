"""How to cut a step so that it fits: microbatch, accumulation, shards.

In: the settings, the machine, the lengths of pairs. Out: a `Choice`. The effective batch never
changes: `batch_size` pairs a step, whatever is chosen. What is tried first is what communicates
least and computes most at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from chatlm.config import TrainConfig
from chatlm.engines.tree_sum import shares_of
from chatlm.plan.lengths import Pairs
from chatlm.plan.load import Load, filled
from chatlm.plan.machine import Machine
from chatlm.plan.memory import Memory, Setup, Split
from chatlm.plan.planned import Planned

MARGIN = 0.1
"""Share of the free memory that a plan leaves."""
SPREAD = 4.0
"""Standard deviations above the mean that a step's tokens are taken to stay below."""
ENOUGH_TOKENS = 4096
"""Microbatches of so many tokens keep a GPU busy; cutting finer costs more than sharding does."""
GROWTH = (4, 2, 1)
"""A GPU is tried with larger microbatches than asked for: fewer, larger products are faster."""


@dataclass(frozen=True)
class Choice:
    """One way to cut a step.

    Attributes:
        split: Over processes.
        microbatch_tokens: The setting.
        microbatches: Of a mean step, one process; the accumulation.
        accumulates: Whether gradients of one are added to those of another.
        typical: A mean microbatch.
        largest: The largest one that may come.
        memory: Of a process, with the largest microbatch.
        fits: Whether that leaves the margin.
    """

    split: Split
    microbatch_tokens: int
    microbatches: float
    accumulates: bool
    typical: Load
    largest: Load
    memory: Memory
    fits: bool


@dataclass(frozen=True)
class Question:
    """What a choice is made for: see `choose`."""

    config: TrainConfig
    machine: Machine
    pairs: Pairs
    processes: int
    half: bool
    libraries: int
    planned: Planned

    def step_tokens(self) -> tuple[float, float]:
        """Returns the tokens of a mean step of one process, and of the largest to be expected."""
        tokens = self.pairs.source_lengths + self.pairs.target_lengths
        size = min(self.config.batch_size, self.pairs.num_pairs)
        mean, spread = size * float(tokens.mean()), size**0.5 * float(tokens.std())
        return mean / self.processes, (mean + SPREAD * spread) / self.processes

    def shares(self, split: Split) -> int:
        """Returns the shares that one process computes of a step, one after the other."""
        mean = self.step_tokens()[0] * self.processes
        wanted = self.config.gradient_shares or shares_of(mean)
        divides = wanted % self.processes == 0 and split.sharding in ("single", "ddp")
        return wanted // self.processes if divides and not self.machine.is_cuda else 1

    def cut(self, split: Split, microbatch_tokens: int) -> Choice:
        """Returns what becomes of a step with this split and size."""
        shares = self.shares(split)
        mean, largest = (tokens / shares for tokens in self.step_tokens())
        microbatches = shares * max(1.0, float(np.ceil(mean / microbatch_tokens)))
        accumulates = largest > microbatch_tokens
        sources, targets = self.pairs.some()
        typical = filled(sources, targets, max(2, round(mean * shares / microbatches)))
        most = max(2, min(microbatch_tokens, round(largest)))
        longest = self.pairs.source_lengths.max(), self.pairs.target_lengths.max()
        candidates = [
            filled(sources, targets, most),
            filled(np.array([longest[0]]), np.array([longest[1]]), most),
        ]
        setup = Setup(
            self.config,
            split,
            self.machine.is_cuda,
            self.half,
            accumulates,
            self.libraries,
            held_gradients=shares.bit_length() - 1,
            keeps_snapshot=self.config.background_saves and not self.machine.is_cuda,
        )
        needs = [self.planned.memory(setup, load) for load in candidates]
        worst = max(range(len(needs)), key=lambda one: needs[one].total)
        free = self.machine.memory_of_one_process(self.processes)
        if not self.machine.is_cuda:
            free += self.libraries  # these are taken already where free memory is asked for
        fits = needs[worst].total <= (1 - MARGIN) * free
        return Choice(
            split,
            microbatch_tokens,
            microbatches,
            accumulates,
            typical,
            candidates[worst],
            needs[worst],
            fits,
        )


def choose(question: Question) -> Choice:
    """Returns the first way to cut a step that fits, or the smallest one if none does."""
    found: list[Choice] = []
    enough = min(question.config.microbatch_tokens, question.step_tokens()[0], float(ENOUGH_TOKENS))
    for split in _splits(question):
        for size in _sizes(question):
            choice = question.cut(split, size)
            if choice.fits:
                if size >= enough:
                    return choice
                found.append(choice)
                break
    if found:
        return max(found, key=lambda choice: choice.microbatch_tokens)
    return question.cut(*_smallest(question))


def _splits(question: Question) -> Iterator[Split]:
    processes = question.processes
    if processes == 1:
        yield Split()
        return
    yield from (Split(name, processes) for name in question.planned.shardings)


def _sizes(question: Question) -> Iterator[int]:
    """Yields microbatch_tokens, largest first; none smaller than one longest pair."""
    config = question.config
    smallest = config.max_source_tokens + config.max_target_tokens
    wish, most = config.microbatch_tokens, question.step_tokens()[1]
    growth = GROWTH if question.machine.is_cuda else (1,)
    for factor in growth:
        if factor == 1 or wish * factor / 2 < most:
            yield wish * factor
    size = wish // 2
    while size >= smallest:
        yield size
        size //= 2


def _smallest(question: Question) -> tuple[Split, int]:
    *_, split = _splits(question)
    *_, size = _sizes(question)
    return split, size


def settled(config: TrainConfig, choice: Choice) -> TrainConfig:
    """Returns the settings with what was chosen."""
    return replace(config, microbatch_tokens=choice.microbatch_tokens)
