"""A step for which memory did not suffice, computed again in smaller microbatches.

In: an attempt to compute gradients. Out: its result, or that memory ran out, with nothing of the
attempt left alive; and the size of microbatch to try next. A size is halved from a step on, and the
ledger says from which, so a resumed run uses the same size at the same step. It computes no
gradients and talks to no other process.

What has failed can be tried again only if no process was left in the middle of an exchange. Where
gradients are exchanged after the last microbatch, the processes agree before it and all try again.
Where they are exchanged while they come about , the halved size is written
down and the run ends with a request to start it again.
"""

import gc
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from chatlm.dataset.packing import Lengths, split
from chatlm.errors import NeighbourError, SickRunError

T = TypeVar("T")

HALVING = "halving"
"""The ledger's name for a microbatch made smaller."""

# What the allocators of PyTorch say, for which there is no exception of its own on a CPU.
_PHRASES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "alloc_failed",
    "unable to allocate",
    "cannot allocate memory",
    "can't start new thread",
)


@dataclass(frozen=True)
class Shortage:
    """Memory did not suffice; `reason` is what the allocator said, in one line."""

    reason: str


def shortage(error: BaseException) -> str | None:
    """Returns what an allocator said, in one line, or None if the error is about something else."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return text or type(error).__name__
    if isinstance(error, RuntimeError) and any(one in text.lower() for one in _PHRASES):
        return text
    return None


def attempt(compute: Callable[[], T]) -> T | Shortage:
    """Returns what `compute` returns, or that memory did not suffice.

    Nothing that the failed attempt made is alive afterwards: its frames hold activations, and an
    exception holds its frames. Gradients are the caller's to forget.
    """
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        reason = shortage(error)
        if reason is None:
            raise
        traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return Shortage(reason)


def halved(tokens: int, sources: Lengths, targets: Lengths, num_shares: int = 1) -> int | None:
    """Returns the next smaller microbatch for a step, or None if it had one pair at a time.

    A pure function of what all processes know.

    Args:
        tokens: source and target tokens of a microbatch in the attempt that failed.
        sources: the lengths of all sources of the step.
        targets: the lengths of its targets.
        num_shares: as many shares the step is cut into.
    """
    groups = split(sources, targets, tokens, num_shares)
    if max(len(group.positions) for group in groups) <= 1:
        return None
    return min(tokens, max(group.num_sources + group.num_targets for group in groups)) // 2


@dataclass
class MicrobatchTokens:
    """How large a microbatch is at which step: `initial` until a halving, then what it says."""

    initial: int
    halvings: dict[int, int] = field(default_factory=dict)

    def at(self, step: int) -> int:
        """Returns the size for a step (the first step is 1)."""
        return min(
            [self.initial, *(size for first, size in self.halvings.items() if first <= step)]
        )

    def halve(self, step: int, tokens: int) -> dict[str, Any]:
        """Makes microbatches smaller from a step on; returns the ledger's line."""
        before = self.at(step)
        self.halvings[step] = tokens
        return {"event": HALVING, "step": step, "from": before, "microbatch_tokens": tokens}

    @classmethod
    def of(cls, initial: int, ledger: Iterable[Mapping[str, Any]]) -> "MicrobatchTokens":
        """Returns the sizes of a run that goes on: those it had come to, step by step.

        A halving was made for a machine and a setting: one that was written under a larger or
        smaller setting than today's (`from` of the first) does not count.
        """
        sizes = cls(initial)
        for line in ledger:
            if line.get("event") == HALVING and line["from"] == sizes.smallest():
                sizes.halvings[line["step"]] = line["microbatch_tokens"]
        return sizes

    def smallest(self) -> int:
        """Returns the size that the run has come to."""
        return min([self.initial, *self.halvings.values()])


def message(step: int, tokens: int, least: int, reason: str) -> str:
    """Returns the line that says what was halved and what to put into the command.

    Args:
        step: the step that is computed again, the first being 1.
        tokens: the new size.
        least: the smallest size that the settings allow (max_source_tokens + max_target_tokens).
        reason: what the allocator said.
    """
    advice = f"put microbatch_tokens={max(tokens, least)} into the command"
    if tokens < least:
        advice += " and lower max_source_tokens or max_target_tokens"
    return (
        f"step {step} does not fit into memory ({_short(reason)}): computing it again with "
        f"microbatches of {tokens} tokens, batch_size stays; {advice}"
    )


def one_pair_is_too_much(step: int, reason: str) -> SickRunError:
    """Returns the error of a run that cannot make its microbatches smaller."""
    return SickRunError(
        f"step {step} does not fit into memory even with one pair at a time ({_short(reason)}): "
        "lower max_source_tokens and max_target_tokens, take a smaller preset, or free memory; "
        "then go on with resume=True"
    )


def start_again(step: int, tokens: int, reason: str) -> NeighbourError:
    """Returns the error of a step that cannot be computed again within this process."""
    return NeighbourError(
        f"step {step} ran out of memory while processes exchanged gradients ({_short(reason)}): "
        f"the ledger now says microbatch_tokens={tokens}, start again with resume=True"
    )


def elsewhere(reason: str) -> SickRunError:
    """Returns the error of a run whose memory ran out outside of a step's microbatches."""
    return SickRunError(
        f"out of memory beside the microbatches ({_short(reason)}): take a smaller preset, or free "
        "memory; then go on with resume=True"
    )


def _short(reason: str, longest: int = 160) -> str:
    return reason if len(reason) <= longest else reason[: longest - 3] + "..."
