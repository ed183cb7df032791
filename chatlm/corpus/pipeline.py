"""From clean corpora to `train`, `valid` and `test`.

In: `clean/*.parquet`, or the starter tables. Out: `train.parquet`, `valid.parquet`, `test.parquet`
and `manifest.json` in one folder; and the table of counts. The first stage, `clean`, is in
`cleaning` and handed on here. It holds no policy and asks nothing.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chatlm import log
from chatlm.corpus import starter, store
from chatlm.corpus.cleaning import clean, clean_batch, clean_example
from chatlm.corpus.counts import Counts
from chatlm.corpus.duplicates.exact import DIGEST, keep_first
from chatlm.corpus.example import PAIR_SCHEMA, Example
from chatlm.corpus.keys import pair_digest, prose_key
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.shuffle import Keyed, mix, write_sorted
from chatlm.corpus.split import PARTS, SplitSizes, assign, group_hash
from chatlm.errors import DataError

__all__ = [
    "Recipe",
    "SourceStats",
    "build",
    "clean",
    "clean_batch",
    "prepare_starter",
    "stats",
]

LENGTH_BOUNDS = (8, 16, 32, 64, 128, 256, 512)
"""Upper bounds (exclusive, in characters) of the classes of a length histogram; then the rest."""

_STARTER_RECIPE = Recipe(min_prompt_chars=1, min_response_chars=1)
_DROPPED = -1
OPEN_REPEATS = 6
"""Open questions of the starter corpus (greetings, advice) train this often an epoch: their answers
are long and each has few phrasings, while a closed table teaches one pattern with all its rows."""


def build(
    clean_dir: Path,
    out_dir: Path,
    *,
    sources: Sequence[str] | None = None,
    seed: int = 0,
    sizes: SplitSizes | None = None,
) -> Counts:
    """Removes exact duplicates, splits by question, shuffles, and writes the three parts.

    The result is a pure function of the rows, the order of `sources` (which copy of a duplicate
    stays) and the seed. Memory: 33 bytes a row, and one bucket of the shuffle.

    Args:
        clean_dir: Folder of `<source>.parquet`.
        out_dir: Where the parts go; earlier ones are replaced when all are complete.
        sources: Their names, best first; None takes all of the folder by name.
        seed: Another seed gives another split and another order.
        sizes: How much to hold out.

    Raises:
        DataError: There is nothing to read, or a file is damaged.
    """
    sizes = sizes or SplitSizes()
    paths = _clean_files(clean_dir, sources)
    digests, groups, ids = _keys_of(paths, seed)
    keep = keep_first(digests, ids)
    if not len(keep):
        raise DataError(f"{clean_dir}: no rows in {', '.join(path.name for path in paths)}")
    parts = np.full(len(keep), _DROPPED, dtype=np.int8)
    parts[keep] = assign(groups[keep], *sizes.rows(int(keep.sum())))
    order = mix(digests.view(np.uint64).reshape(-1, 2)[:, 0], seed)
    counts = Counts(rows_in=len(keep), kept=int(keep.sum()))
    counts.dropped["exact_duplicate"] = int((~keep).sum())
    counts.check("build")
    written = _write_parts(paths, out_dir, parts, order)
    store.write_json(
        out_dir / "manifest.json",
        {
            "sources": [path.stem for path in paths],
            "seed": seed,
            "sizes": asdict(sizes),
            "counts": counts.as_dict(),
            "parts": written,
        },
    )
    named = ", ".join(f"{name} {num_rows}" for name, num_rows in written.items())
    log.info(
        f"build: {counts.rows_in} rows in, {counts.dropped.total()} duplicates dropped; {named}"
    )
    return counts


def prepare_starter(starter_dir: Path, out_dir: Path) -> None:
    """Writes the three parts of the starter corpus; its phrasings say what validates and tests.

    Raises:
        DataError: A table is malformed, a text does not pass the filters, or a question of one part
            is asked in another part too.
    """
    by_part = {part: _clean_starter(starter_dir, part) for part in PARTS}
    _refuse_leaks(by_part)
    by_part["train"] += _open_ones(by_part["train"]) * (OPEN_REPEATS - 1)
    counts = {part: len(examples) for part, examples in by_part.items()}
    with ExitStack() as stack:
        for part, examples in by_part.items():
            writer = stack.enter_context(store.PairWriter(out_dir / f"{part}.parquet"))
            digests = np.frombuffer(
                b"".join(pair_digest(one.prompt, one.response) for one in examples), np.uint64
            )
            order = np.argsort(mix(digests[::2], 0), kind="stable")
            writer.write([examples[index] for index in order])
    store.write_json(out_dir / "manifest.json", {"sources": ["starter"], "parts": counts})
    named = ", ".join(f"{part} {num_rows}" for part, num_rows in counts.items())
    log.info(f"starter: {named} rows in {out_dir}")


@dataclass(frozen=True, slots=True)
class SourceStats:
    """Counts and lengths of one clean corpus; a histogram has len(LENGTH_BOUNDS) + 1 classes."""

    name: str
    rows_in: int
    kept: int
    dropped: dict[str, int]
    modified: dict[str, int]
    prompt_lengths: list[int]
    response_lengths: list[int]


def stats(clean_dir: Path, sources: Sequence[str] | None = None) -> list[SourceStats]:
    """Returns what the manifests and files of `clean_dir` say about each corpus.

    Raises:
        DataError: There is nothing to read, or a file or manifest is damaged.
    """
    return [_stats_of(path) for path in _clean_files(clean_dir, sources)]


def _stats_of(path: Path) -> SourceStats:
    counts = store.read_json(path.with_suffix(".manifest.json")).get("counts")
    if not isinstance(counts, dict):
        raise DataError(f"{path.with_suffix('.manifest.json')}: has no counts; run clean again")
    return SourceStats(
        path.stem,
        counts["rows_in"],
        counts["kept"],
        counts["dropped"],
        counts["modified"],
        _histogram(path, "prompt"),
        _histogram(path, "response"),
    )


def _histogram(path: Path, column: str) -> list[int]:
    classes = np.zeros(len(LENGTH_BOUNDS) + 1, dtype=np.int64)
    for some in store.lengths(path, column):
        places = np.searchsorted(LENGTH_BOUNDS, some, side="right")
        classes += np.bincount(places, minlength=len(classes))
    return classes.tolist()


def _clean_files(clean_dir: Path, sources: Sequence[str] | None) -> list[Path]:
    if not clean_dir.is_dir():
        raise DataError(f"{clean_dir}: no such folder; run clean first")
    if sources is None:
        paths = sorted(clean_dir.glob("*.parquet"))
    else:
        paths = [clean_dir / f"{name}.parquet" for name in sources]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise DataError(f"{clean_dir}: no {', '.join(missing)}; run clean for these first")
    if not paths:
        raise DataError(f"{clean_dir}: no clean corpora (*.parquet); run clean first")
    return paths


def _keys_of(
    paths: Sequence[Path], seed: int
) -> tuple[NDArray[np.void], NDArray[np.uint64], NDArray[np.int64]]:
    """Returns the duplicate digest, the split group and the id of every row."""
    digests, groups = bytearray(), bytearray()
    for path in paths:
        for batch in store.read_pairs(path, ("prompt", "response")):
            for prompt, response in zip(*(column.to_pylist() for column in batch), strict=True):
                digests += pair_digest(prompt, response)
                groups += group_hash(prompt, seed).to_bytes(8, "little")
    group_array = np.frombuffer(groups, dtype="<u8")
    return np.frombuffer(digests, dtype=DIGEST), group_array, np.arange(len(group_array))


def _write_parts(
    paths: Sequence[Path], out_dir: Path, parts: NDArray[np.int8], order: NDArray[np.uint64]
) -> dict[str, int]:
    """Writes each part in its order; returns the rows of each."""
    written = Counter[str]()
    with ExitStack() as stack:
        for number, name in enumerate(PARTS):
            writer = stack.enter_context(store.PairWriter(out_dir / f"{name}.parquet"))
            expected = int((parts == number).sum())
            write_sorted(_rows_of(paths, parts == number, order), writer, expected)
            written[name] = writer.num_rows
            if writer.num_rows != expected:
                raise RuntimeError(f"build {name}: {writer.num_rows} of {expected} rows written")
    return dict(written)


def _rows_of(
    paths: Sequence[Path], chosen: NDArray[np.bool_], order: NDArray[np.uint64]
) -> Iterator[Keyed]:
    start = 0
    for path in paths:
        for batch in store.read_pairs(path):
            mask = chosen[start : start + batch.num_rows]
            keys = order[start : start + batch.num_rows]
            start += batch.num_rows
            if mask.any():
                yield batch.filter(pa.array(mask)).cast(PAIR_SCHEMA), keys[mask]


def _clean_starter(folder: Path, part: str) -> list[Example]:
    """Returns the starter's examples of one part; a hand-written text that fails is an error."""
    counts = Counts()
    judges = _STARTER_RECIPE.filters()
    cleaned = list[Example]()
    for example in starter.expand(folder, part):
        result = clean_example(example, _STARTER_RECIPE, counts)
        reason = result if isinstance(result, str) else None
        if isinstance(result, Example):
            reason = next(filter(None, (judge(result) for judge in judges)), None)
            cleaned.append(result)
        if reason is not None:
            raise DataError(
                f"{example.source}: the pair {example.prompt!r} -> {example.response!r} is "
                f"{reason}; mend it in its table"
            )
    if not cleaned:
        raise DataError(f"{folder}: the starter tables give no {part} rows")
    return cleaned


def _open_ones(examples: Sequence[Example]) -> list[Example]:
    return [one for one in examples if one.source.startswith(starter.SOURCE["open"])]


def _refuse_leaks(by_part: dict[str, list[Example]]) -> None:
    asked = dict[str, tuple[str, Example]]()
    for part in PARTS:
        for example in by_part[part]:
            known_part, known = asked.setdefault(prose_key(example.prompt), (part, example))
            if known_part != part:
                raise DataError(
                    f"{example.source}: the {part} question {example.prompt!r} is asked in "
                    f"{known_part} too ({known.source}: {known.prompt!r}); phrase it otherwise"
                )
