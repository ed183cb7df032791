"""The stage `clean` for one file and for one shard of it: two task functions.

In: a raw file; a piece of it and a recipe. Out: the list of pieces; a shard of clean rows, a file
of rejects, and counts. Pieces are byte ranges of JSON Lines, row groups of parquet, streams of a
Wikipedia dump, and otherwise the whole file. It knows no policy and no other shard.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from chatlm.corpus import pieces
from chatlm.corpus.cleaning import CleanBatch, clean_batch
from chatlm.corpus.counts import Counts
from chatlm.corpus.reasons import DAMAGED
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.records import Rejected
from chatlm.corpus.shards import Origin, RejectWriter, ShardWriter, batch_of
from chatlm.corpus.sources import SOURCES, Source
from chatlm.errors import ConfigError

if TYPE_CHECKING:
    from chatlm.corpus.columns import ColumnRoad
    from chatlm.corpus.compat_road import CompatRoad


_COLUMN_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What became of some raw records: rows of `SHARD_SCHEMA`, rejects, counts."""

    rows: pa.RecordBatch
    rejects: list[Rejected]
    counts: Counts


def plan_file(path: str) -> dict[str, Any]:
    """Returns `sha256`, `bytes`, `layout` and `pieces` of a raw file.

    Raises:
        DataError: The file as a whole cannot be read.
    """
    return pieces.plan(Path(path))


def clean_shard(
    *,
    path: str,
    file: int,
    piece: dict[str, Any],
    source: str,
    recipe: dict[str, Any],
    out: str,
    rejects: str,
) -> dict[str, Any]:
    """Cleans one piece of a raw file.

    Args:
        path: The raw file.
        file: Its place among the files of the source.
        piece: One of `plan_file`'s pieces.
        source: Name of the corpus.
        recipe: Fields of a `Recipe`.
        out: Shard to write.
        rejects: File of rejects to write.

    Returns:
        The counts as `Counts.as_dict`, and `damaged`: the first place where the file is broken so
        that what follows is lost, or "".

    Raises:
        DataError: The piece as a whole cannot be read.
    """
    total, damaged = Counts(), ""
    with ShardWriter(Path(out)) as writer, RejectWriter(Path(rejects)) as dropped:
        for done in _cleaned(Path(path), file, piece, SOURCES[source], Recipe.from_dict(recipe)):
            writer.write(done.rows)
            dropped.write(source, done.rejects)
            total.add(done.counts)
            if not damaged:
                damaged = next((_place(one) for one in done.rejects if one.reason in DAMAGED), "")
    total.check(f"clean {source} {Path(path).name}")
    return total.as_dict() | {"damaged": damaged}


def _cleaned(
    path: Path, file: int, piece: dict[str, Any], source: Source, recipe: Recipe
) -> Iterator[Cleaned]:
    """Yields the cleaned records of a piece, on the road that is fastest for its corpus."""
    road = _road(source, recipe, piece["bytes"])
    if road is None:
        for records in pieces.batches(pieces.read_piece(path, piece, source.columns)):
            yield _as_rows(clean_batch(records, str(path), source, recipe), file)
        return
    for block in pieces.read_blocks(path, piece, source.columns, road.fields):
        done = road.clean_block(block, str(path))
        yield Cleaned(done.to_arrow(file), done.rejects, done.counts)


def _road(source: Source, recipe: Recipe, num_bytes: int) -> "ColumnRoad | CompatRoad | None":
    """Returns the road in columns of a corpus, or None where rows are better.

    Both give the same. The road in columns compiles when it is first used, which takes longer than
    a small file on the other one.
    """
    if recipe.compat:
        from chatlm.corpus.compat_road import FIELDS, CompatRoad

        if source.name not in FIELDS:
            raise ConfigError(f"recipe=compat: knows {', '.join(FIELDS)}, not {source.name}")
        return CompatRoad(source.name)
    from chatlm.corpus.columns import ColumnRoad
    from chatlm.corpus.shapes import SHAPES

    is_worth_it = num_bytes >= _COLUMN_BYTES and source.name in SHAPES
    return ColumnRoad(source, recipe) if is_worth_it else None


def _as_rows(done: CleanBatch, file: int) -> Cleaned:
    places = zip(done.positions, done.turns, strict=True)
    origins = [Origin(file, position, turn).pack() for position, turn in places]
    return Cleaned(batch_of(done.examples, origins), done.rejects, done.counts)


def _place(reject: Rejected) -> str:
    return f"{reject.reason} at {reject.position}"
