"""What a cleaned corpus looks like: counts and lengths.

In: clean corpora. Out: `SourceStats`; it prints nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from chatlm.corpus.clean_stage import CleanSource, open_clean
from chatlm.corpus.counts import Counts
from chatlm.corpus.shards import read_shard

LENGTH_BOUNDS = (8, 16, 32, 64, 128, 256, 512)
"""Upper bounds (exclusive, in characters) of the classes of a length histogram; then the rest."""


@dataclass(frozen=True, slots=True)
class SourceStats:
    """Counts and lengths of one clean corpus; a histogram has len(LENGTH_BOUNDS) + 1 classes."""

    name: str
    counts: Counts
    prompt_lengths: list[int]
    response_lengths: list[int]


def stats(clean_dir: Path, sources: Sequence[str]) -> list[SourceStats]:
    """Returns what the manifests and files of `clean_dir` say about each corpus.

    Raises:
        DataError: A corpus is not there, or a file or manifest is damaged.
    """
    return [_stats_of(open_clean(clean_dir, name)) for name in sources]


def _stats_of(corpus: CleanSource) -> SourceStats:
    lengths = {name: np.zeros(len(LENGTH_BOUNDS) + 1, np.int64) for name in ("prompt", "response")}
    for path in corpus.shards:
        for batch in read_shard(path):
            for name, classes in lengths.items():
                classes += _histogram(pc.call_function("utf8_length", [batch.column(name)]))
    return SourceStats(
        corpus.name, corpus.counts, lengths["prompt"].tolist(), lengths["response"].tolist()
    )


def _histogram(lengths: object) -> NDArray[np.int64]:
    places = np.searchsorted(LENGTH_BOUNDS, np.asarray(lengths), side="right")
    return np.bincount(places, minlength=len(LENGTH_BOUNDS) + 1)
