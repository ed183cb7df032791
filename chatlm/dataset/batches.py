"""A step's rows cut into microbatches of flat tensors, without padding between pairs.

In: a token store and the order of its rows. Out: `Step`s of `Batch`es. Cutting changes nothing but
speed and memory: the loss is a sum over tokens, divided once by the tokens of the whole step, so
neither the number of microbatches nor that of processes alters a result. Which pairs go together
is decided in `chatlm.dataset.packing`.
"""

import mmap
from collections.abc import Callable, Container, Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from chatlm.dataset.ahead import Ahead
from chatlm.dataset.order import Order, Rows
from chatlm.dataset.packing import Grid, Group, Lengths, num_fillers, split
from chatlm.dataset.token_store import PAD_ID, Ids, Ragged, TokenStore
from chatlm.model.t5 import IGNORE_INDEX


@dataclass(frozen=True)
class Batch:
    """One microbatch of P pairs, their M source and N target tokens one behind the other.

    Pair p reads `input_ids[source_offsets[p]:source_offsets[p + 1]]` and is to learn
    `labels[target_offsets[p]:target_offsets[p + 1]]`. Ids are int64, which all of PyTorch takes;
    looking up int32 is no faster.
    """

    input_ids: Int[Tensor, "M"]
    labels: Int[Tensor, "N"]
    source_offsets: Int[Tensor, "P_and_1"]
    target_offsets: Int[Tensor, "P_and_1"]

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns (input_ids, labels, source_offsets, target_offsets)."""
        return self.input_ids, self.labels, self.source_offsets, self.target_offsets

    def to(self, device: torch.device) -> "Batch":
        """Returns the batch on a device; the copy to a GPU overlaps with computation.

        Memory is pinned here and not by the loader's thread: a new thread would open a context of
        its own on the first GPU, whichever GPU the process works on.
        """
        tensors = self.tensors()
        if device.type == "cuda":
            tensors = tuple(tensor.pin_memory() for tensor in tensors)
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors))

    def filled(self, num_sources: int, num_targets: int, num_pairs: int) -> "Batch":
        """Returns the batch filled up to given sizes with pairs that teach nothing.

        Filler ids are pads, filler labels are ignored. The filler is cut into short pairs that
        have a source and a target each, so that no pair attends to nothing; pairs without either
        follow, up to `num_pairs`.

        Args:
            num_sources: source tokens afterwards.
            num_targets: target tokens afterwards.
            num_pairs: pairs afterwards, real, filler and empty ones.
        """
        spare = np.array([num_sources - len(self.input_ids), num_targets - len(self.labels)])
        pieces = int(num_fillers(spare))
        empty = num_pairs - (len(self.source_offsets) - 1) - pieces
        assert min(spare.min() - pieces, empty) >= 0, "the batch does not fit into these sizes"
        ends = np.minimum(np.arange(1, pieces + empty + 1), pieces)
        source_ends, target_ends = (
            torch.from_numpy(size - tokens + tokens * ends // max(1, pieces)).int()
            for size, tokens in zip((num_sources, num_targets), spare, strict=True)
        )
        return Batch(
            torch.cat([self.input_ids, self.input_ids.new_full((int(spare[0]),), PAD_ID)]),
            torch.cat([self.labels, self.labels.new_full((int(spare[1]),), IGNORE_INDEX)]),
            torch.cat([self.source_offsets, source_ends]),
            torch.cat([self.target_offsets, target_ends]),
        )


@dataclass(frozen=True)
class Share:
    """Microbatches whose gradients are added in their order; `number` counts the step's shares."""

    number: int
    microbatches: Sequence[Batch]


@dataclass(frozen=True)
class Step:
    """What one process computes for one optimizer step: its shares, and the rows of the whole step.

    `num_target_tokens`, `num_tokens` (source and target) and `rows` are those of all processes
    together, without filler; they follow from the row numbers, so no communication is needed.
    """

    index: int
    shares: Sequence[Share]
    rows: Rows
    num_target_tokens: int
    num_tokens: int

    @property
    def microbatches(self) -> list[Batch]:
        """All microbatches of this process, share by share."""
        return [batch for share in self.shares for batch in share.microbatches]


def collate(store: TokenStore, rows: Rows) -> Batch:
    """Returns the rows as one batch, in their order; no rows give one pair that teaches nothing.

    The pair without labels keeps a process in step with the others when a step has fewer rows than
    there are processes: its loss is 0 and so are its gradients.
    """
    if len(rows) == 0:
        offsets = torch.tensor([0, 1], dtype=torch.int32)
        return Batch(torch.tensor([PAD_ID]), torch.tensor([IGNORE_INDEX]), offsets, offsets)
    input_ids, source_offsets = _gather(store.sources, rows)
    labels, target_offsets = _gather(store.targets, rows)
    return Batch(input_ids, labels, source_offsets, target_offsets)


def _gather(ragged: Ragged, rows: Rows) -> tuple[Tensor, Tensor]:
    """Returns the ids of the rows one behind the other, and where each begins and ends."""
    starts = np.asarray(ragged.offsets)[rows]
    lengths = np.asarray(ragged.offsets)[rows + 1] - starts
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    ids = np.asarray(ragged.ids)[places].astype(np.int64)
    _release(ragged.ids)
    return torch.from_numpy(ids), torch.from_numpy(offsets.astype(np.int32))


def _release(ids: Ids) -> None:
    """Takes the pages of a mapped file out of this process; they stay in the system's cache.

    A page that is read maps up to 2 MiB around it, so a few thousand random rows would make the
    whole file count as this process's memory, and of every other process, too.
    """
    if isinstance(ids.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        ids.base.madvise(mmap.MADV_DONTNEED)


def lengths_of(store: TokenStore, rows: Rows) -> tuple[Lengths, Lengths]:
    """Returns the source and target lengths of some rows, without reading those of others."""
    sources, targets = np.asarray(store.sources.offsets), np.asarray(store.targets.offsets)
    return sources[rows + 1] - sources[rows], targets[rows + 1] - targets[rows]


@dataclass(frozen=True)
class Loader:
    """Yields the steps of one process, prepared ahead in a thread.

    A step is cut into `num_shares` shares (0: one a process), and microbatches are dealt to them in
    turn, so that all are equally large at the same time. What is in a share depends on the rows,
    `max_tokens` and `num_shares` only; `rank` of `num_processes` computes as many neighbouring ones
    as the others. `max_tokens_at` tells `max_tokens` of a step, if they differ. With `fixed_shapes`
    microbatches are filled up to few different sizes, which a compiled model needs; without it
    there is no filler.
    """

    store: TokenStore
    order: Order
    max_tokens: int
    rank: int = 0
    num_processes: int = 1
    fixed_shapes: bool = False
    ahead: int = 2
    num_shares: int = 0
    max_tokens_at: Callable[[int], int] | None = None

    def grid(self, max_tokens: int) -> Grid | None:
        """Returns the sizes that microbatches are filled up to, if they are."""
        if not self.fixed_shapes:
            return None
        part = self.order.batch_size / len(self.store)
        sources, targets = self.store.sources.offsets[-1], self.store.targets.offsets[-1]
        return Grid.fitting(sources * part, targets * part, max_tokens, self._shares())

    def _shares(self) -> int:
        return self.num_shares or self.num_processes

    def step(self, index: int) -> Step:
        """Returns one step, counted from 0."""
        rows = self.order.rows(index)
        sources, targets = lengths_of(self.store, rows)
        num_shares = self._shares()
        tokens = self.max_tokens_at(index) if self.max_tokens_at else self.max_tokens
        groups = split(sources, targets, tokens, num_shares, self.grid(tokens))
        each = num_shares // self.num_processes
        numbers = range(self.rank * each, (self.rank + 1) * each)
        return Step(
            index,
            [Share(n, [self._batch(rows, one) for one in groups[n::num_shares]]) for n in numbers],
            rows,
            num_target_tokens=int(targets.sum()),
            num_tokens=int(sources.sum() + targets.sum()),
        )

    def _batch(self, rows: Rows, group: Group) -> Batch:
        batch = collate(self.store, rows[group.positions])
        if not self.fixed_shapes:
            return batch
        return batch.filled(group.num_sources, group.num_targets, group.num_pairs)

    def steps(self, start: int, stop: int, skipped: Container[int] = ()) -> Generator[Step]:
        """Yields the steps start .. stop-1 but those that are skipped.

        Raises:
            StorageError: the data cannot be read.
            NeighbourError: the data's disk does not answer.
        """
        indexes = (index for index in range(start, stop) if index not in skipped)
        source = str(self.store.folder or "the training data")
        ahead = self.ahead
        yield from Ahead(self.step, indexes, ahead=ahead, source=source, name=_step_name)


def _step_name(index: int) -> str:
    """Returns what messages call a step: the first is 1, as in metrics.jsonl."""
    return f"step {index + 1}"
