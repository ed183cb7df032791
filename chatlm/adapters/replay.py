"""General pairs among those of a tuning, so that it goes on practising what its base could do.

In: the settings of the replay, token stores. Out: which rows are mixed in, and one store of all
that is trained on. Which ones is a pure function of the seed, and none comes twice in an epoch.
Source: Robins 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal".
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chatlm import log
from chatlm.config import TrainConfig
from chatlm.dataset import prepare
from chatlm.dataset.order import permutation
from chatlm.dataset.prepare import Found, Source
from chatlm.dataset.token_store import Ragged, TokenStore
from chatlm.errors import DataError


@dataclass(frozen=True)
class Replay:
    """Where the general pairs are, and their sums."""

    source: Source
    found: Found


def find(config: TrainConfig) -> Replay | None:
    """Returns where the general pairs are; None where none are wanted.

    Raises:
        DataError: they are not there, or cannot be read.
    """
    name = config.replay.data
    if not name:
        return None
    if not Path(name).exists():
        raise DataError(f"replay.data={name} does not exist: name a folder or a file of pairs")
    source = prepare.locate(name, finetune=True)
    return Replay(source, prepare.find(source))


def joined(found: Found, replay: Replay | None) -> Found:
    """Returns what identifies the data of a run, its general pairs included."""
    if replay is None:
        return found
    both = hashlib.sha256(f"{found.train} {replay.found.train}".encode()).hexdigest()
    places = {**found.places, "data": f"{found.places['data']} with {replay.found.places['data']}"}
    return replace(found, train=both, places=places)


def mixed(
    task: TokenStore, held_out: TokenStore | None, general: TokenStore, config: TrainConfig
) -> TokenStore:
    """Returns one store, in memory: the rows of the task, and general ones behind them.

    Args:
        task: the training rows of the task.
        held_out: its validation rows; their prompts are not learnt from the general rows either.
        general: the training rows of the replay.
        config: the share of general rows among all, and the seed.

    Raises:
        DataError: no general row can be used.
    """
    share = config.replay.share
    wanted = max(1, round(share / (1 - share) * len(task)))
    rows = np.fromiter(islice(_usable(general, held_out, config.seed), wanted), np.int64)
    if not len(rows):
        raise DataError(f"replay.data={config.replay.data} holds no pair that can be mixed in")
    of_all = len(rows) / (len(rows) + len(task))
    told = f"{len(rows)} general pairs are mixed in, {of_all:.1%} of all training pairs"
    if len(rows) < wanted:
        log.warning(f"replay.data={config.replay.data} has no more: {told}, not {share:.1%}")
    else:
        log.info(f"replay.data={config.replay.data}: {told}")
    return _joined(task, subset(general, np.sort(rows)))


def subset(whole: TokenStore, rows: npt.NDArray[np.int64]) -> TokenStore:
    """Returns some rows of a store, in memory; they are taken to have their share of histories."""
    histories = round(whole.meta.get("histories", 0) * len(rows) / max(1, len(whole)))
    return replace(
        whole,
        sources=_rows(whole.sources, rows),
        targets=_rows(whole.targets, rows),
        target_chars=whole.target_chars[rows],
        meta={**whole.meta, "histories": histories},
    )


def _rows(whole: Ragged, rows: npt.NDArray[np.int64]) -> Ragged:
    parts = [whole[row] for row in rows]
    ids = np.concatenate(parts) if parts else whole.ids[:0]
    return Ragged(ids, np.cumsum([0, *map(len, parts)], dtype=np.int64))


def _usable(general: TokenStore, held_out: TokenStore | None, seed: int) -> Iterator[int]:
    """Yields the rows as they are chosen, but for those with a held-out prompt of the task."""
    held = {_prompt(held_out, row) for row in range(len(held_out))} if held_out else set()
    for row in permutation(len(general), seed, epoch=0).tolist():
        if _prompt(general, row) not in held:
            yield row


def _prompt(store: TokenStore, row: int) -> bytes:
    return store.sources[row].astype("<u4").tobytes()


def _joined(task: TokenStore, general: TokenStore) -> TokenStore:
    both = task.meta, general.meta
    turns = {
        "histories": sum(meta.get("histories", 0) for meta in both),
        "max_turns": max(meta.get("max_turns", 0) for meta in both),
    }
    return replace(
        task,
        sources=_behind(task.sources, general.sources),
        targets=_behind(task.targets, general.targets),
        target_chars=np.concatenate([task.target_chars, general.target_chars]),
        meta={**task.meta, **turns},
    )


def _behind(first: Ragged, second: Ragged) -> Ragged:
    offsets = np.concatenate([first.offsets, first.offsets[-1] + second.offsets[1:]])
    return Ragged(np.concatenate([first.ids, second.ids]), offsets)
