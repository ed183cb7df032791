"""From the raw files of one corpus to `clean/<source>.parquet`.

In: records. Out: clean examples, rejects with their reasons, counts and a manifest. `clean_batch`
is pure, so that batches and files can be worked on anywhere; only `clean` touches files. It holds
no policy: recipes come from outside.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from chatlm import log
from chatlm.corpus import filters, readers, store
from chatlm.corpus.counts import Counts
from chatlm.corpus.example import Example
from chatlm.corpus.filters import Filter
from chatlm.corpus.normalize import normalize
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.records import Record, Rejected, excerpt_of
from chatlm.corpus.sources import Source
from chatlm.errors import DataError

BATCH_RECORDS = 4096
UNREADABLE = frozenset(
    {
        "invalid_utf8",
        "lone_surrogate",
        "malformed_json",
        "not_an_object",
        "line_too_long",
        "too_deep",
        "ragged_row",
        "malformed_csv",
        "unclosed_quote",
        "undecodable_bytes",
        "article_not_closed",
        "text_outside_article",
    }
)
"""Reasons that a reader gives: the file is at fault, not the text."""
_MAX_UNREADABLE_PERCENT = 1


@dataclass(frozen=True, slots=True)
class CleanBatch:
    """What became of one batch of raw records."""

    examples: list[Example]
    rejects: list[Rejected]
    counts: Counts


def clean_batch(
    records: Iterable[Record | Rejected], path: str, source: Source, recipe: Recipe
) -> CleanBatch:
    """Returns the clean examples of `records`, every other row with its reason, and the counts."""
    done = CleanBatch([], [], Counts())
    judges = recipe.filters()
    for record in records:
        if isinstance(record, Rejected):
            _drop(done, record)
            continue
        found = source.convert(record.fields)
        if isinstance(found, str):
            _drop(done, Rejected(path, record.position, found, _excerpt(record)))
            continue
        votes = source.votes(record.fields) if source.votes and recipe.min_votes else None
        for example in found:
            _judge(done, example, Rejected(path, record.position, ""), recipe, judges, votes)
    done.counts.kept = len(done.examples)
    return done


def clean_example(example: Example, recipe: Recipe, counts: Counts) -> Example | str:
    """Returns the example with both texts normalised and its answer finished, or a reason."""
    prompt = normalize(example.prompt, counts.modified)
    response = normalize(example.response, counts.modified)
    finished = filters.finish(response, recipe.max_response_chars, recipe.min_unended_chars)
    if finished is None:
        return "cut_off"
    if finished != response:
        counts.modified["finish"] += 1
    return Example(prompt, finished, example.source)


def clean(source: Source, files: Sequence[Path], recipe: Recipe, out_dir: Path) -> Counts:
    """Cleans one corpus into `out_dir`; its rejects go to the folder `rejects` beside `out_dir`.

    Earlier output is replaced only when all files were read to their end; the manifest comes last.

    Raises:
        DataError: A file as a whole cannot be read, or not one row could be used.
    """
    total = Counts()
    rejects_path = out_dir.parent / "rejects" / f"{source.name}.jsonl"
    with (
        store.PairWriter(out_dir / f"{source.name}.parquet") as pairs,
        store.replacing(rejects_path) as rejects,
    ):
        for path in files:
            for batch in batches(readers.read(path, source.columns), BATCH_RECORDS):
                done = clean_batch(batch, str(path), source, recipe)
                pairs.write(done.examples)
                store.write_rejects(rejects, done.rejects)
                total.add(done.counts)
        total.check(f"clean {source.name}")
        if not total.kept and recipe.policy is None:
            raise DataError(_nothing_usable(source, files, total))
    store.write_json(
        out_dir / f"{source.name}.manifest.json",
        {
            "source": source.name,
            "licence": source.licence,
            "files": [{"name": path.name, "bytes": path.stat().st_size} for path in files],
            "recipe": asdict(recipe),
            "counts": total.as_dict(),
        },
    )
    _report(source, total)
    return total


def batches(items: Iterable[Record | Rejected], size: int) -> Iterator[list[Record | Rejected]]:
    """Yields `items` in lists of `size`."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _judge(
    done: CleanBatch,
    example: Example,
    place: Rejected,
    recipe: Recipe,
    judges: Sequence[Filter],
    votes: int | None,
) -> None:
    """Puts one example where it belongs."""
    reason = filters.min_votes(votes, recipe.min_votes or 0)
    cleaned: Example | str = example
    if reason is None:
        cleaned = clean_example(example, recipe, done.counts)
        reason = cleaned if isinstance(cleaned, str) else None
    if isinstance(cleaned, Example) and reason is None:
        reason = next(filter(None, (judge(cleaned) for judge in judges)), None)
        if reason is None and recipe.policy is not None:
            reason = "rejected_by_policy"
        if reason is None:
            done.examples.append(cleaned)
            done.counts.rows_in += 1
            return
    excerpt = excerpt_of(f"{example.prompt}\n{example.response}")
    _drop(done, Rejected(place.path, place.position, str(reason), excerpt))


def _drop(done: CleanBatch, reject: Rejected) -> None:
    done.rejects.append(reject)
    done.counts.rows_in += 1
    done.counts.dropped[reject.reason] += 1


def _excerpt(record: Record) -> str:
    return excerpt_of("\n".join(str(value) for value in record.fields.values()))


def _nothing_usable(source: Source, files: Sequence[Path], counts: Counts) -> str:
    names = ", ".join(path.name for path in files)
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.dropped.most_common(3))
    return (
        f"{source.name}: not one of {counts.rows_in} rows of {names} could be used "
        f"({reasons or 'no rows'}); are these the published files?"
    )


def _report(source: Source, counts: Counts) -> None:
    log.info(
        f"clean {source.name}: {counts.rows_in} rows in, {counts.kept} kept, "
        f"{counts.dropped.total()} dropped"
    )
    unreadable = sum(count for reason, count in counts.dropped.items() if reason in UNREADABLE)
    if unreadable * 100 > counts.rows_in * _MAX_UNREADABLE_PERCENT:
        log.warning(
            f"{source.name}: {unreadable} of {counts.rows_in} rows are unreadable, more than "
            f"{_MAX_UNREADABLE_PERCENT} %; see rejects/{source.name}.jsonl"
        )
