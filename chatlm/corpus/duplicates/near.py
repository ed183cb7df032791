"""Rows that share a band key, to links between rows that are alike.

In: signed shards, and the forest of what is connected already. Out: links, and the forest with them
in it. A forest is one int64 a row: a row's root; itself, if it is one; -1 if it takes no part. Rows
that are not roots to begin with (exact duplicates) have no part in the comparisons.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatlm.corpus.duplicates.settings import DuplicateSettings
from chatlm.corpus.duplicates.shards import Rows, save
from chatlm.corpus.duplicates.signing import files_of, load, mapped
from chatlm.corpus.kernels import candidates, linking
from chatlm.corpus.kernels.shingles import table_size
from chatlm.corpus.shuffle import mix
from chatlm.corpus.tasks import Engine, Task

_PAIRS, _QUESTIONS = 1, 2
_CHUNK_ROWS = 32_768
_BUCKET_ROWS = 4_096
_FIRST_WAVE = 2
_ROWS_A_REJECTED_PAIR = 4
"""A band remembers so many times fewer pairs than there are rows; to forget one costs time only."""
_NO_PAIRS = np.empty((0, 2), np.int64)


def connect(
    folders: Sequence[str],
    seeds: str,
    work: str,
    engine: Engine,
    settings: DuplicateSettings,
    *,
    questions: bool,
) -> str:
    """Returns the file of a forest in which all rows, or all questions, that are alike are joined.

    Bands go in waves of 2, 2, 4, 8, ... that do not depend on the number of workers: what one
    has connected the next need not compare.

    Args:
        folders: Signed shards.
        seeds: File of the forest to begin with.
        work: Folder for the files of this step.
        engine: Where the tasks run.
        settings: See there.
        questions: Whether to compare questions, not whole rows.
    """
    kind = "question" if questions else "pair"
    num_bands = settings.question_bands if questions else settings.pair_bands
    fields = ("ends", "spans", "units", "contents", "long_enough", f"{kind}_keys", "questions")
    inputs = tuple(file for folder in folders for file in files_of(folder, *fields))
    forest, start, size = seeds, 0, _FIRST_WAVE
    before = list[str]()
    while start < num_bands:
        bands = range(start, min(num_bands, start + size))
        tasks = [
            Task(
                name=f"{kind}s/band-{band:02}",
                function=f"{__name__}:link_band",
                params={
                    "folders": list(folders),
                    "seeds": seeds,
                    "forest": forest,
                    "before": list(before),
                    "band": band,
                    "questions": questions,
                    "millionths": settings.millionths,
                    "tail_millionths": 0 if questions else settings.response_millionths,
                    "respect_digits": settings.respect_digits and not questions,
                    "out": f"{work}/links-{band:02}.npy",
                },
                inputs=(*inputs, seeds, forest, *before),
                outputs=(f"{work}/links-{band:02}.npy",),
            )
            for band in bands
        ]
        engine.run(tasks, f"compare {kind}s, bands {bands[0] + 1}-{bands[-1] + 1} of {num_bands}")
        links = [task.outputs[0] for task in tasks]
        out = f"{work}/forest-{bands[-1]:02}.npy"
        join = Task(
            name=f"{kind}s/join-{bands[-1]:02}",
            function=f"{__name__}:join",
            params={"forest": forest, "links": links, "out": out},
            inputs=(forest, *links),
            outputs=(out,),
        )
        engine.run([join], f"join {kind}s")
        before += links
        size = size if not start else size * 2
        forest, start = out, bands[-1] + 1
    return forest


def link_band(
    folders: Sequence[str],
    seeds: str,
    forest: str,
    before: Sequence[str],
    band: int,
    questions: bool,
    millionths: int,
    tail_millionths: int,
    respect_digits: bool,
    out: str,
) -> dict[str, Any]:
    """Task: compares the rows that share a key of one band.

    It writes (pairs, 2) rows that it compared: links, and of those that are not alike the first row
    as its complement, which is below zero. Those that earlier bands wrote are not compared again.
    """
    rows = Rows.of(folders)
    parents = np.array(mapped(forest))
    rejected = _rejected(before)
    members, ends = linking.buckets(_packed_keys(rows, seeds, band, questions), parents, rejected)
    members = _in_order_of_content(rows, members, ends, band, questions)
    links, unlike = [_NO_PAIRS], [_NO_PAIRS]
    for some, some_ends in _chunks(members, ends):
        units, offsets, tails = rows.texts(some, questions=questions)
        longest = int(np.diff(offsets).max())
        found, not_alike = linking.link(
            some, some_ends, units, offsets, tails, parents, rejected,
            millionths, tail_millionths, respect_digits, table_size(longest),
        )  # fmt: skip
        links.append(found)
        unlike.append(not_alike)
    alike, apart = np.concatenate(links), np.concatenate(unlike)
    num_compared = len(alike) + len(apart)
    apart = apart[: len(rows) // _ROWS_A_REJECTED_PAIR + _BUCKET_ROWS]
    apart[:, 0] = ~apart[:, 0]
    save(out, np.concatenate([alike, apart]))
    return {
        "rows_in": len(rows),
        "candidates": len(members),
        "compared": num_compared,
        "links": len(alike),
    }


def _rejected(before: Sequence[str]) -> NDArray[np.uint64]:
    """Returns the set of pairs that earlier bands found not to be alike."""
    found = [_NO_PAIRS]
    for path in before:
        pairs = np.array(mapped(path))
        pairs = pairs[pairs[:, 0] < 0]
        pairs[:, 0] = ~pairs[:, 0]
        found.append(pairs)
    return candidates.pair_set(np.concatenate(found))


def join(forest: str, links: Sequence[str], out: str) -> dict[str, Any]:
    """Task: writes the forest with the rows of all links joined."""
    parents = np.array(mapped(forest))
    before = _num_roots(parents)
    for path in links:
        pairs = np.array(mapped(path))
        linking.unite_all(parents, pairs[pairs[:, 0] >= 0])
    linking.flatten(parents)
    save(out, parents)
    return {"rows_in": len(parents), "joined": before - _num_roots(parents)}


def _num_roots(parents: NDArray[np.int64]) -> int:
    return int((parents == np.arange(len(parents))).sum())


def _packed_keys(rows: Rows, seeds: str, band: int, questions: bool) -> NDArray[np.uint64]:
    """Returns key and row, 32 bits each, sorted, of rows that may share the key of a band."""
    if len(rows) >= 1 << 32:
        raise ValueError(f"{len(rows)} rows: at most {(1 << 32) - 1} fit the key of a band")
    name, bit = ("question_keys", _QUESTIONS) if questions else ("pair_keys", _PAIRS)
    roots = mapped(seeds)
    shards = [
        (load(folder, name)[band], load(folder, "long_enough"), bit, roots[part], part.start)
        for folder, part in rows.shards()
    ]
    tables = candidates.bit_tables(len(rows))
    num_met = sum(candidates.meet(*shard, tables) for shard in shards)
    packed, size = np.empty(2 * num_met, np.uint64), 0
    for shard in shards:
        size = candidates.gather(*shard, tables, packed, size)
    packed = packed[:size]
    packed.sort()
    return packed


def _in_order_of_content(
    rows: Rows, members: NDArray[np.int64], ends: NDArray[np.int64], band: int, questions: bool
) -> NDArray[np.int64]:
    """Returns the rows of each bucket in an order that their contents set, another in each band."""
    if not len(members):
        return members
    keys = mix(rows.take("questions" if questions else "contents", members), band)
    bucket = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    return members[np.lexsort((keys, bucket))]


def _chunks(
    members: NDArray[np.int64], ends: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yields rows and offsets of as many buckets as fit the memory for texts."""
    members, ends = _cut_large(members, ends)
    start = 0
    while start < len(ends) - 1:
        stop = int(np.searchsorted(ends, ends[start] + _CHUNK_ROWS, side="right")) - 1
        stop = max(stop, start + 1)
        yield members[ends[start] : ends[stop]], ends[start : stop + 1] - ends[start]
        start = stop


def _cut_large(
    members: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the buckets with those that are too large in parts that share their first rows."""
    large = np.flatnonzero(np.diff(ends) > _BUCKET_ROWS)
    pieces, sizes, done = list[NDArray[np.int64]](), list[NDArray[np.int64]](), 0
    for bucket in large.tolist():
        pieces.append(members[ends[done] : ends[bucket]])
        sizes.append(np.diff(ends[done : bucket + 1]))
        rows = members[ends[bucket] : ends[bucket + 1]]
        first, rest = rows[: linking.KNOWN_ROWS], rows[linking.KNOWN_ROWS :]
        for start in range(0, len(rest), _BUCKET_ROWS):
            pieces.append(np.concatenate([first, rest[start : start + _BUCKET_ROWS]]))
            sizes.append(np.array([len(pieces[-1])]))
        done = bucket + 1
    pieces.append(members[ends[done] :])
    sizes.append(np.diff(ends[done:]))
    return np.concatenate(pieces), np.cumsum(np.concatenate([[0], *sizes]))
