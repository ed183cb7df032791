"""Rows of many files into a few, in an order that depends on the rows alone.

In: batches, each row with the part it goes to and a sort key. Out: one parquet file a part. Memory
holds one bucket, not the data: rows are first dealt into buckets by the upper bits of their key,
then each bucket is sorted. The order is the same for every number of buckets.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chatlm.corpus.example import PAIR_SCHEMA
from chatlm.corpus.store import ROW_GROUP_ROWS, PairWriter

_KEYED = PAIR_SCHEMA.append(pa.field("key", pa.uint64()))
BUCKET_ROWS = 500_000

Keyed = tuple[pa.RecordBatch, NDArray[np.uint64]]
"""A batch of `PAIR_SCHEMA` and the sort key (N,) of each of its rows."""


def mix(values: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Returns splitmix64 of each value: a stable, well-spread key of another order per seed.

    Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014.
    """
    state = values + np.uint64((seed * 2 + 1) * 0x9E3779B97F4A7C15 % (1 << 64))
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def write_sorted(
    rows: Iterable[Keyed], writer: PairWriter, num_rows: int, bucket_rows: int = BUCKET_ROWS
) -> None:
    """Writes all rows to `writer` in the order of their keys.

    Args:
        rows: Batches with keys; read once.
        writer: An open writer; its folder takes the temporary buckets.
        num_rows: About how many rows there are; with `bucket_rows`, how many a bucket should hold,
            it sets the number of buckets.
        bucket_rows: See above.
    """
    bits = max(0, (num_rows // bucket_rows).bit_length())
    with TemporaryDirectory(prefix=".shuffle-", dir=writer.path.parent) as folder:
        paths = [Path(folder) / f"{bucket}.arrow" for bucket in range(1 << bits)]
        _deal(rows, paths, bits)
        for path in paths:
            with pa.memory_map(str(path)) as file:
                table = pa.ipc.open_stream(file).read_all()
            order = np.argsort(table.column("key").to_numpy(), kind="stable")
            for start in range(0, len(order), ROW_GROUP_ROWS):
                chosen = table.take(order[start : start + ROW_GROUP_ROWS]).select(PAIR_SCHEMA.names)
                for batch in chosen.cast(PAIR_SCHEMA).to_batches():
                    writer.write_batch(batch)


def _deal(rows: Iterable[Keyed], paths: list[Path], bits: int) -> None:
    """Writes each row to the bucket that the upper bits of its key name."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with ExitStack() as stack:
        writers = [
            stack.enter_context(pa.ipc.new_stream(str(path), _KEYED, options=options))
            for path in paths
        ]
        for batch, keys in rows:
            keyed = pa.RecordBatch.from_arrays([*batch.columns, pa.array(keys)], schema=_KEYED)
            buckets = keys >> np.uint64(64 - bits) if bits else np.zeros_like(keys)
            for bucket, members in _members(buckets):
                writers[bucket].write_batch(keyed.take(members))


def _members(buckets: NDArray[np.uint64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    for bucket in np.unique(buckets):
        yield int(bucket), np.flatnonzero(buckets == bucket)
