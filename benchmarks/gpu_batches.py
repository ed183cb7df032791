"""The settings and the pairs of `gpu_step.py`: one training step, cut into equal microbatches.

In: a token store, or mean lengths to draw from. Out: flat batches of one common shape, filled up to
it, and the same pairs as padded rows for the peer. All processes of one run make the same ones.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chatlm.dataset.batches import Batch, collate
from chatlm.dataset.order import Rows
from chatlm.dataset.packing import BLOCK, Lengths, num_fillers, split
from chatlm.dataset.token_store import Ragged, TokenStore, open_store
from chatlm.errors import ConfigError
from chatlm.model.config import ModelConfig
from chatlm.model.t5 import IGNORE_INDEX

GIB = 2**30
TOKENS_PER_GIB = 400
SHARE_OF_PAIRS = 0.985
PAIRS_MULTIPLE = 8


@dataclass(frozen=True)
class Settings:
    """Settings of `benchmarks/gpu_step.py`."""

    device: str = field(default="cuda", metadata={"help": "cuda, or cpu to try the script"})
    data: str = field(default="", metadata={"help": "token store; empty: random ids"})
    source_tokens: float = field(default=24, metadata={"help": "mean of random sources"})
    target_tokens: float = field(default=103, metadata={"help": "mean of random targets"})
    max_source_tokens: int = field(default=256, metadata={"help": "longest source"})
    max_target_tokens: int = field(default=512, metadata={"help": "longest target"})
    microbatch_tokens: int = field(default=0, metadata={"help": "0: as the memory allows"})
    microbatches: int = field(default=4, metadata={"help": "a step"})
    steps: int = field(default=10, metadata={"help": "measured at most, for each side"})
    optimizer: str = field(default="muon", metadata={"help": "of our model: muon or adamw"})
    peer_pairs: int = field(default=0, metadata={"help": "rows of the peer; 0: as memory allows"})
    sides: str = field(default="", metadata={"help": "only these, comma-separated"})
    checks: bool = field(default=True, metadata={"help": "check the routes first: two minutes"})
    seconds: int = field(default=560, metadata={"help": "for all; later sides are left out"})
    seed: int = field(default=0, metadata={"help": "decides weights and pairs"})
    out: str = field(default="gpu_step.json", metadata={"help": "file of all figures"})
    side: str = field(default="", metadata={"help": "inner: measure this side in this process"})
    model: ModelConfig = field(default_factory=ModelConfig)

    def memory_gib(self) -> float:
        """Returns the memory of the card; a CPU counts as a small one."""
        if self.device == "cpu":
            return 4.0
        return torch.cuda.get_device_properties(0).total_memory / GIB


@dataclass(frozen=True)
class Work:
    """The pairs of one step.

    Attributes:
        batches: Microbatches of one shape, on the CPU.
        store: Where their pairs are.
        rows: Which pairs those are, in random order.
        lengths: Source and target tokens of these pairs (n, 2).
        max_lengths: Bounds of any pair's source and target, filler included.
    """

    batches: list[Batch]
    store: TokenStore
    rows: Rows
    lengths: Lengths
    max_lengths: tuple[int, int]

    @property
    def num_tokens(self) -> int:
        """Source and target tokens of real pairs."""
        return int(self.lengths.sum())

    @property
    def filler(self) -> float:
        """Share of all positions that belong to no real pair."""
        positions = sum(len(one.input_ids) + len(one.labels) for one in self.batches)
        return 1 - self.num_tokens / positions


def make_work(settings: Settings) -> Work:
    """Returns the step that all sides train on."""
    tokens = settings.microbatch_tokens or int(settings.memory_gib() * TOKENS_PER_GIB)
    wanted = int(tokens * settings.microbatches * SHARE_OF_PAIRS)
    generator = np.random.default_rng(settings.seed)
    if settings.data:
        store = open_store(Path(settings.data))
    else:
        store = _random_store(settings, wanted, generator)
    all_lengths = np.stack([store.sources.lengths, store.targets.lengths], 1)
    order = generator.permutation(len(store))
    count = int(np.searchsorted(all_lengths[order].sum(1).cumsum(), wanted, side="right"))
    if count < settings.microbatches or count == len(store):
        raise ConfigError(f"{len(store)} pairs do not make a step of {wanted} tokens: fewer tokens")
    rows = order[:count]
    lengths = all_lengths[rows]
    groups = [group.positions for group in split(lengths[:, 0], lengths[:, 1], tokens)]
    totals = np.array([lengths[group].sum(0) for group in groups])
    sizes = -(-totals.max(0) // BLOCK) * BLOCK
    while ((sizes - totals).min(1) < num_fillers(sizes - totals)).any():
        sizes[(sizes - totals).min(0).argmin()] += BLOCK
    fillers = num_fillers(sizes - totals)
    most = max(len(group) + int(own) for group, own in zip(groups, fillers, strict=True))
    num_pairs = -(-most // PAIRS_MULTIPLE) * PAIRS_MULTIPLE
    batches = [
        collate(store, rows[group]).filled(int(sizes[0]), int(sizes[1]), num_pairs)
        for group in groups
    ]
    source_limit, target_limit = (-(-int(longest) // BLOCK) * BLOCK for longest in lengths.max(0))
    return Work(batches, store, rows, lengths, (source_limit, target_limit))


def few(work: Work, count: int) -> Batch:
    """Returns a small batch with filler and an empty pair, for the checks."""
    batch = collate(work.store, work.rows[:count])
    tokens = np.array([len(batch.input_ids), len(batch.labels)], np.int64)
    sizes = -(-(tokens + 8) // BLOCK) * BLOCK
    num_pairs = count + int(num_fillers(sizes - tokens)) + 1
    return batch.filled(int(sizes[0]), int(sizes[1]), num_pairs)


def padded_batches(
    work: Work, pairs: int, *, one_shape: bool
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Returns ids, mask and labels of the step as padded rows, in random order.

    Args:
        work: The step.
        pairs: Rows a batch; rows without tokens fill up the last one.
        one_shape: Pad all batches to the longest pair of all, not to their own: for torch.compile.
    """
    batches = []
    for start in range(0, len(work.rows), pairs):
        rows = work.rows[start : start + pairs]
        longest = (work.lengths if one_shape else work.lengths[start : start + pairs]).max(0)
        source_width, target_width = (int(-(-one // 8) * 8) for one in longest)
        ids = torch.zeros(pairs, source_width, dtype=torch.long)
        labels = torch.full((pairs, target_width), IGNORE_INDEX)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            source, target = work.store.sources[row], work.store.targets[row]
            ids[index, : len(source)] = torch.from_numpy(source.astype(np.int64))
            mask[index, : len(source)] = 1
            labels[index, : len(target)] = torch.from_numpy(target.astype(np.int64))
        batches.append((ids, mask, labels))
    return batches


def _random_store(settings: Settings, tokens: int, generator: np.random.Generator) -> TokenStore:
    """Returns random pairs of somewhat more than `tokens` tokens, most of them short."""
    mean = settings.source_tokens + settings.target_tokens
    count = int(1.3 * tokens / mean) + 8 * settings.microbatches
    sides = []
    for average, longest in (
        (settings.source_tokens, settings.max_source_tokens),
        (settings.target_tokens, settings.max_target_tokens),
    ):
        lengths = generator.gamma(2.0, average / 2, count).round().clip(2, longest)
        offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
        ids = generator.integers(3, settings.model.vocab_size, offsets[-1], np.uint16)
        sides.append(Ragged(ids, offsets))
    return TokenStore(sides[0], sides[1], np.ones(count, np.uint32), {})
