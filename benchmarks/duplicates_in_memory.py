"""Exact and near duplicates without files: our loops where the predecessor's class is compared.

In: rows of texts in memory. Out: which of them stay; the same as the stage says, but for buckets of
more rows than `linking.ALL_PAIRS_ROWS`, which the stage compares in another order. Questions are
not clustered. It measures nothing.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chatlm.corpus.duplicates.settings import DuplicateSettings
from chatlm.corpus.duplicates.signing import BLOCK_ROWS, sign
from chatlm.corpus.kernels import candidates, linking
from chatlm.corpus.kernels.grouping import best_of_tree, not_best
from chatlm.corpus.kernels.shingles import table_size
from chatlm.corpus.kernels.texts import Texts

Rows = list[tuple[str, str]]


def blocks_of(rows: Rows) -> list[tuple[Texts, Texts]]:
    """Returns the rows as columns of prompts and responses, some rows each."""
    columns = [pa.array([row[column] for row in rows], pa.large_string()) for column in (0, 1)]
    return [
        (Texts.from_arrow(prompts), Texts.from_arrow(responses))
        for start in range(0, len(rows), BLOCK_ROWS)
        for prompts, responses in [[column.slice(start, BLOCK_ROWS) for column in columns]]
    ]


def in_memory(blocks: list[tuple[Texts, Texts]]) -> NDArray[np.bool_]:
    """Returns which rows stay, without files: what the predecessor's class does."""
    chosen = DuplicateSettings(question_bands=1, question_band_rows=1)
    parts = [sign(prompts, responses, chosen) for prompts, responses in blocks]
    keys = np.concatenate([part.pair_keys for part in parts], axis=1)
    units, flags, contents, digests, tails, sizes = (
        np.concatenate(column)
        for column in zip(
            *(
                (part.units, part.long_enough, part.contents, part.digests,
                 part.spans[:, 2].astype(np.int64) + 1, np.diff(part.ends))
                for part in parts
            ),
            strict=True,
        )
    )  # fmt: skip
    starts, ranks = np.cumsum(sizes) - sizes, np.zeros(len(sizes), np.uint16)
    roots = np.arange(len(sizes))
    twins = not_best(digests, np.lexsort(digests.T), ranks, contents)
    roots[twins[:, 0]] = twins[:, 1]
    parents, unlike = roots.copy(), [np.empty((0, 2), np.int64)]
    for band in range(chosen.pair_bands):
        rejected = candidates.pair_set(np.concatenate(unlike))
        shard = (keys[band], flags, 1, roots, 0, candidates.bit_tables(len(sizes)))
        packed = np.empty(2 * candidates.meet(*shard), np.uint64)
        packed = np.sort(packed[: candidates.gather(*shard, packed, 0)])
        members, ends = linking.buckets(packed, parents, rejected)
        if not len(members):
            continue
        offsets = np.concatenate([[0], np.cumsum(sizes[members])])
        texts = np.empty(int(offsets[-1]), np.uint16)
        linking.copy_texts(units, starts[members], texts, offsets, sizes[members])
        unlike.append(
            linking.link(
                members, ends, texts, offsets, offsets[:-1] + tails[members], parents, rejected,
                chosen.millionths, chosen.response_millionths, True,
                table_size(int(sizes[members].max())),
            )[1]
        )  # fmt: skip
    linking.flatten(parents)
    return best_of_tree(parents, ranks, contents) == np.arange(len(sizes))
