"""Rows of many shards into a few files, in an order that depends on the rows alone.

In: shards, and for each of their rows the part it goes to and a sort key. Out: one parquet file a
part. Three steps, each a task function: `deal` puts the rows of one shard into buckets by the upper
bits of their keys, `gather` sorts one bucket, `write_part` writes the buckets one after another.
Memory holds one bucket. The order is the same for every number of buckets and shards.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chatlm.corpus.example import PAIR_SCHEMA
from chatlm.corpus.shards import SHARD_SCHEMA, read_shard
from chatlm.corpus.store import PairWriter, replacing

BUCKET_ROWS = 200_000
_KEYED = PAIR_SCHEMA.append(pa.field("key", pa.uint64()))
_BATCH_ROWS = 8192
_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


def mix(values: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Returns splitmix64 of each value: a stable, well-spread key of another order per seed.

    Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014.
    """
    state = values + np.uint64((seed * 2 + 1) * 0x9E3779B97F4A7C15 % (1 << 64))
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def bucket_bits(num_rows: int, bucket_rows: int = BUCKET_ROWS) -> int:
    """Returns how many upper bits of the keys number the buckets of a part."""
    return max(0, (num_rows // bucket_rows).bit_length())


def deal(shard: str, parts: str, keys: str, bits: Sequence[int], out: str) -> dict[str, Any]:
    """Writes the rows of one shard bucket by bucket.

    Args:
        shard: Path of the shard.
        parts: Path of its (N,) int8 .npy: the part of each row, negative where it was dropped.
        keys: Path of its (N,) uint64 .npy: the sort key of each row.
        bits: How many upper bits of the key number the buckets, for each part.
        out: Path of the Arrow file to write, one batch a bucket that has rows.

    Returns:
        `batches`: [part, bucket] of each batch, in the order of the file; `rows_in`.
    """
    part_of, key_of = np.load(parts), np.load(keys)
    table = pa.Table.from_batches(read_shard(Path(shard)), SHARD_SCHEMA).select(PAIR_SCHEMA.names)
    if not table.num_rows == len(part_of) == len(key_of):
        raise RuntimeError(f"{shard}: {table.num_rows} rows, {len(part_of)} decisions")
    shifts = np.array([64 - width for width in bits], np.uint64)[np.maximum(part_of, 0)]
    # Shifting by 64 is undefined; one half of it twice is 0.
    half = shifts // np.uint64(2)
    bucket_of = (key_of >> half >> (shifts - half)).astype(np.int64)
    kept = np.flatnonzero(part_of >= 0)
    order = kept[np.lexsort((key_of[kept], bucket_of[kept], part_of[kept]))]
    place = np.stack([part_of[order].astype(np.int64), bucket_of[order]], axis=1)
    first = np.ones(len(order), np.bool_)
    first[1:] = (place[1:] != place[:-1]).any(axis=1)
    starts = np.flatnonzero(first)
    with replacing(Path(out)) as file, pa.ipc.new_file(file, _KEYED, options=_LZ4) as writer:
        for start, end in zip(starts, [*starts, len(order)][1:], strict=True):
            chosen = order[start:end]
            keyed = table.take(chosen).append_column("key", pa.array(key_of[chosen]))
            writer.write_batch(keyed.combine_chunks().to_batches()[0].cast(_KEYED))
    return {"batches": place[starts].tolist(), "rows_in": len(part_of)}


def gather(fragments: Sequence[Sequence[Any]], out: str) -> dict[str, Any]:
    """Writes one bucket in the order of its keys.

    Args:
        fragments: [path, index of the batch] of every piece of the bucket.
        out: Path of the Arrow file to write.
    """
    table = pa.Table.from_batches([_batch(path, index) for path, index in fragments], _KEYED)
    order = np.argsort(table.column("key").to_numpy(), kind="stable")
    with replacing(Path(out)) as file, pa.ipc.new_file(file, PAIR_SCHEMA, options=_LZ4) as writer:
        pairs = table.select(PAIR_SCHEMA.names)
        for start in range(0, len(order), _BATCH_ROWS):
            writer.write_table(pairs.take(order[start : start + _BATCH_ROWS]))
    return {"rows_in": len(order)}


def write_part(buckets: Sequence[str], out: str) -> dict[str, Any]:
    """Writes the buckets of one part, in their order, as the parquet file of that part."""
    with PairWriter(Path(out)) as writer:
        for batch in _rows(buckets):
            writer.write_batch(batch)
    return {"rows_in": writer.num_rows}


def _batch(path: str, index: int) -> pa.RecordBatch:
    with pa.memory_map(path) as file:
        return pa.ipc.open_file(file).get_batch(index)


def _rows(buckets: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for path in buckets:
        yield from read_shard(Path(path))
