"""Rows whose keys are the same.

In: signed shards. Out: for every row that is not the best of its group, the best one. The best has
the corpus of the highest trust, then the smallest hash of its bytes; the number of a row decides
only between rows that are the same to the byte. Near duplicates are not looked for.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatlm.corpus.duplicates.shards import Rows, save
from chatlm.corpus.duplicates.signing import files_of, load
from chatlm.corpus.kernels.grouping import not_best
from chatlm.corpus.tasks import Task

_SHARE_ROWS = 2_000_000


def group_tasks(
    name: str, field: str, folders: Sequence[str], ranks: Sequence[int], seeds: str, work: str
) -> list[Task]:
    """Returns tasks that find the groups of equal keys, each of them those in a range of hashes.

    Args:
        name: Of the step.
        field: The key: `digests` or `questions` of `Signed`.
        folders: Signed shards.
        ranks: Trust of each shard's corpus: 0 is the best.
        seeds: File with one int64 a row, below zero for a row that takes no part.
        work: Folder for the files of this step.
    """
    shares = 1
    while len(Rows.of(folders)) // shares > _SHARE_ROWS:
        shares *= 2
    inputs = tuple(file for folder in folders for file in files_of(folder, field, "contents"))
    return [
        Task(
            name=f"{name}/{share:03}",
            function=f"{__name__}:group",
            params={
                "field": field,
                "folders": list(folders),
                "ranks": list(ranks),
                "seeds": seeds,
                "share": share,
                "shares": shares,
                "out": (out := f"{work}/{name}-{share:03}.npy"),
            },
            inputs=(*inputs, seeds),
            outputs=(out,),
        )
        for share in range(shares)
    ]


def group(
    field: str,
    folders: Sequence[str],
    ranks: Sequence[int],
    seeds: str,
    share: int,
    shares: int,
    out: str,
) -> dict[str, Any]:
    """Task: writes (duplicates, 2): each row that is not the best of its group, and the best."""
    rows = Rows.of(folders)
    taking_part = np.load(seeds, mmap_mode="r")
    shift = np.uint64(64 - (shares.bit_length() - 1))
    found = list[tuple[NDArray[Any], ...]]()
    for (folder, part), rank in zip(rows.shards(), ranks, strict=True):
        words = 2 if field == "digests" else 1
        keys = np.asarray(load(folder, field)).reshape(part.stop - part.start, words)
        chosen = taking_part[part] >= 0
        if shares > 1:
            chosen &= keys[:, 0] >> shift == share
        places = np.flatnonzero(chosen)
        trust = np.full(len(places), rank, np.uint16)
        found.append((keys[places], load(folder, "contents")[places], places + part.start, trust))
    keys, contents, numbers, trusts = (np.concatenate(one) for one in zip(*found, strict=True))
    order = np.argsort(keys[:, 0])
    if keys.shape[1] > 1 and _first_word_is_shared(keys, order):
        order = np.lexsort((keys[:, 1], keys[:, 0]))
    duplicates = numbers[not_best(keys, order, trusts, contents)]
    # In the order of the rows, so that the file does not depend on how equal keys were sorted.
    duplicates = duplicates[np.argsort(duplicates[:, 0])]
    save(out, duplicates)
    return {"rows_in": len(numbers), "duplicates": len(duplicates)}


def _first_word_is_shared(keys: NDArray[np.uint64], order: NDArray[np.int64]) -> bool:
    """Says if two different keys begin with the same word: then one word does not sort them."""
    first, second = keys[order, 0], keys[order, 1]
    return bool(((first[1:] == first[:-1]) & (second[1:] != second[:-1])).any())
