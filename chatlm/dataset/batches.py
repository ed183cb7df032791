"""A step's rows cut into microbatches of similar length, padded, as tensors.

In: a token store and row numbers. Out: `Batch` of (B, S) sources and (B, T) targets. Cutting
changes nothing but speed and memory: the loss is a sum over tokens, divided once by the tokens of
the whole step, so neither padding nor the number of processes alters a result.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from chatlm.dataset.order import Order, Rows
from chatlm.dataset.token_store import PAD_ID, Ragged, TokenStore
from chatlm.model.t5 import IGNORE_INDEX


@dataclass(frozen=True)
class Batch:
    """One microbatch. B rows, S source positions, T target positions."""

    input_ids: Int[Tensor, "B S"]
    attention_mask: Bool[Tensor, "B S"]
    labels: Int[Tensor, "B T"]

    def to(self, device: torch.device) -> "Batch":
        """Returns the batch on a device; the copy overlaps with computation where it can."""
        moved = (t.to(device, non_blocking=True) for t in self.tensors())
        return Batch(*moved)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (input_ids, attention_mask, labels)."""
        return self.input_ids, self.attention_mask, self.labels


@dataclass(frozen=True)
class Step:
    """What one process computes for one optimizer step.

    `num_target_tokens`, `num_tokens` (source and target) and `num_rows` count the whole step, all
    processes together; they follow from the row numbers, so no communication is needed.
    """

    index: int
    microbatches: Sequence[Batch]
    num_target_tokens: int
    num_tokens: int
    num_rows: int


def cut(
    source_lengths: npt.NDArray[np.int64],
    target_lengths: npt.NDArray[np.int64],
    max_positions: int,
    multiple_of: int = 1,
) -> list[Rows]:
    """Returns groups of positions 0 .. n-1, each padded to at most max_positions in all.

    Args:
        source_lengths: tokens of each source (n,).
        target_lengths: tokens of each target (n,).
        max_positions: bound on rows x (longest source + longest target) of a group.
        multiple_of: the number of groups is a multiple of this: one group for each process at a
            time. Groups that lie side by side are of similar length.
    """
    order = np.lexsort((source_lengths, target_lengths))[::-1]
    groups: list[Rows] = []
    start = longest_source = longest_target = 0
    for end, row in enumerate(order):
        source = max(longest_source, int(source_lengths[row]))
        target = max(longest_target, int(target_lengths[row]))
        if end > start and (end + 1 - start) * (source + target) > max_positions:
            groups.append(order[start:end])
            start, source, target = end, int(source_lengths[row]), int(target_lengths[row])
        longest_source, longest_target = source, target
    groups.append(order[start:])
    while len(groups) % multiple_of:
        widest = max(range(len(groups)), key=lambda index: len(groups[index]))
        rows = groups.pop(widest)
        middle = len(rows) // 2
        groups[widest:widest] = [rows[:middle], rows[middle:]]
    return groups


def collate(store: TokenStore, rows: Rows) -> Batch:
    """Returns the rows as one padded batch; no rows give one pair without labels.

    The pair without labels keeps a process in step with the others when a step has fewer rows than
    there are processes: its loss is 0 and so are its gradients.
    """
    filler = len(rows) == 0
    rows = np.zeros(1, np.int64) if filler else rows
    source = _padded(store.sources, rows, PAD_ID)
    target = _padded(store.targets, rows, IGNORE_INDEX)
    if filler:
        target.fill_(IGNORE_INDEX)
    # EOS ends every source, so a pad id can only be padding.
    return Batch(source, source != PAD_ID, target)


def _padded(ragged: Ragged, rows: Rows, fill: int) -> Tensor:
    lengths = ragged.offsets[rows + 1] - ragged.offsets[rows]
    padded = np.full((len(rows), int(lengths.max())), fill, np.int64)
    for place, row in enumerate(rows):
        ids = ragged[int(row)]
        padded[place, : len(ids)] = ids
    return torch.from_numpy(padded)


@dataclass(frozen=True)
class Loader:
    """Yields the steps of one process, prepared ahead in a thread.

    `rank` of `num_processes` takes every num_processes-th group of a step, so that all processes
    work on rows of similar length at the same time.
    """

    store: TokenStore
    order: Order
    max_positions: int
    rank: int = 0
    num_processes: int = 1
    ahead: int = 2

    def step(self, index: int) -> Step:
        """Returns one step, counted from 0."""
        rows = self.order.rows(index)
        sources = self.store.sources.offsets[rows + 1] - self.store.sources.offsets[rows]
        targets = self.store.targets.offsets[rows + 1] - self.store.targets.offsets[rows]
        groups = cut(sources, targets, self.max_positions, self.num_processes)
        mine = groups[self.rank :: self.num_processes]
        return Step(
            index,
            [collate(self.store, rows[group]) for group in mine],
            num_target_tokens=int(targets.sum()),
            num_tokens=int(sources.sum() + targets.sum()),
            num_rows=len(rows),
        )

    def steps(self, start: int, stop: int) -> Iterator[Step]:
        """Yields the steps start .. stop-1."""
        with ThreadPoolExecutor(1, "loader") as pool:
            waiting = [
                pool.submit(self.step, i) for i in range(start, min(start + self.ahead, stop))
            ]
            for index in range(start, stop):
                result = waiting.pop(0).result()
                if index + self.ahead < stop:
                    waiting.append(pool.submit(self.step, index + self.ahead))
                yield result
