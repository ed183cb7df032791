"""The order of rows is a function of the rows, for every number of buckets and shards."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from chatlm.corpus.example import Example
from chatlm.corpus.keys import stable_hash
from chatlm.corpus.shards import Origin, ShardWriter, batch_of
from chatlm.corpus.shuffle import bucket_bits, deal, gather, mix, write_part


def rows(count: int) -> list[Example]:
    return [Example(f"问题{n}", f"答案{n}", "x") for n in range(count)]


def shuffled(folder: Path, examples: list[Example], cuts: list[int], bits: int) -> list[str]:
    """Returns the prompts of part 0 in their final order; every fifth row is dropped."""
    folder.mkdir()
    pieces = [examples[a:b] for a, b in zip([0, *cuts], [*cuts, len(examples)], strict=True)]
    fragments: list[list[list]] = [[] for _ in range(1 << bits)]
    for number, piece in enumerate(pieces):
        keys = np.array([stable_hash(one.prompt) for one in piece], np.uint64)
        parts = np.where(keys % np.uint64(5) == 0, -1, keys % np.uint64(2) == 0).astype(np.int8)
        names = {name: str(folder / f"{number}.{name}") for name in ("shard", "out")}
        for name, array in (("parts", parts), ("keys", keys)):
            np.save(folder / f"{number}.{name}.npy", array)
            names[name] = str(folder / f"{number}.{name}.npy")
        with ShardWriter(Path(names["shard"])) as writer:
            origins = [Origin(0, place + 1).pack() for place in range(len(piece))]
            writer.write(batch_of(piece, origins))
        result = deal(**names, bits=[bits, 0])
        for index, (part, bucket) in enumerate(result["batches"]):
            if part == 0:
                fragments[bucket].append([names["out"], index])
    paths = []
    for bucket, found in enumerate(fragments):
        paths.append(str(folder / f"bucket-{bucket}"))
        gather(found, paths[-1])
    write_part(paths, str(folder / "part.parquet"))
    return pq.read_table(folder / "part.parquet")["prompt"].to_pylist()


@pytest.mark.parametrize(("cuts", "bits"), [([], 0), ([], 3), ([1, 30, 31], 2), ([50], 5)])
def test_buckets_and_shards_do_not_change_the_order(tmp_path, cuts, bits):
    examples = rows(100)
    expected = sorted(
        (key, one.prompt) for one in examples if (key := stable_hash(one.prompt)) % 5 and key % 2
    )
    found = shuffled(tmp_path / "x", examples, cuts, bits)
    assert found == [prompt for _, prompt in expected]


def test_the_number_of_buckets_follows_the_rows():
    assert [bucket_bits(n, 100) for n in (0, 99, 100, 199, 200, 800)] == [0, 0, 1, 1, 2, 4]


def test_another_seed_is_another_order():
    values = np.arange(1000, dtype=np.uint64)
    orders = [np.argsort(mix(values, seed)).tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert len(set(mix(values, 0).tolist())) == 1000


def test_an_origin_is_restored_and_sorts_like_the_raw_data():
    places = [Origin(0, 1), Origin(0, 1, 3), Origin(0, 2), Origin(1, 1), Origin(300, 1 << 39, 255)]
    packed = [place.pack() for place in places]
    assert [Origin.unpack(bits) for bits in packed] == places
    assert packed == sorted(packed)
