"""Cleaning row by row: what it means to clean, for every corpus.

In: records of one corpus, its source and recipe. Out: clean examples with their places, every other
row with its reason, and counts. Pure, so that batches can be worked on anywhere; it touches no file
and holds no policy. `columns` gives the same results for whole blocks.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from chatlm.corpus import filters, private
from chatlm.corpus.boilerplate import strip_boilerplate
from chatlm.corpus.counts import Counts
from chatlm.corpus.example import Example, Skipped
from chatlm.corpus.filters import Filter
from chatlm.corpus.normalize import normalize
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.records import EXCERPT_CHARS, Record, Rejected, excerpt_of
from chatlm.corpus.sources import Source

# A private value that is cut in half is no longer found: more is masked than an excerpt shows.
_MASKED_CHARS = EXCERPT_CHARS + 200


@dataclass(frozen=True, slots=True)
class CleanBatch:
    """What became of one batch of raw records.

    `positions` and `turns` are parallel to `examples`: the position of the raw record, and the
    place of the example among those of its record, from 0.
    """

    examples: list[Example] = field(default_factory=list[Example])
    rejects: list[Rejected] = field(default_factory=list[Rejected])
    counts: Counts = field(default_factory=Counts)
    positions: list[int] = field(default_factory=list[int])
    turns: list[int] = field(default_factory=list[int])


def clean_batch(
    records: Iterable[Record | Rejected], path: str, source: Source, recipe: Recipe
) -> CleanBatch:
    """Returns the clean examples of `records`, every other row with its reason, and the counts."""
    done = CleanBatch()
    judges = recipe.filters()
    for example, votes, position, turn in convert(records, path, source, recipe, done):
        cleaned = _cleaned(example, recipe, judges, votes, done.counts)
        if isinstance(cleaned, str):
            excerpt = f"{example.prompt}\n{example.response}"
            drop(done, Rejected(path, position, cleaned, excerpt, turn))
            continue
        done.examples.append(cleaned)
        done.positions.append(position)
        done.turns.append(turn)
        done.counts.rows_in += 1
    done.counts.kept = len(done.examples)
    return done


def convert(
    records: Iterable[Record | Rejected],
    path: str,
    source: Source,
    recipe: Recipe,
    done: CleanBatch,
) -> Iterator[tuple[Example, int | None, int, int]]:
    """Yields the raw examples of `records`, each with its votes, position and turn.

    What gives no example is booked in `done`. Votes are None where they are unknown or not asked.
    """
    for record in records:
        if isinstance(record, Rejected):
            drop(done, record)
            continue
        found = source.convert(record.fields)
        if isinstance(found, str):
            drop(done, Rejected(path, record.position, found, _excerpt(record)))
            continue
        votes = source.votes(record.fields) if source.votes and recipe.min_votes else None
        for turn, one in enumerate(found):
            if isinstance(one, Skipped):
                drop(done, Rejected(path, record.position, one.reason, one.text, turn))
            else:
                yield one, votes, record.position, turn


def clean_example(example: Example, recipe: Recipe, counts: Counts) -> Example | str:
    """Returns the example with both texts cleaned and its answer finished, or a reason.

    Cleaning what was cleaned changes nothing: an answer is looked at until nothing is left to do,
    as an end may come to light when another one was removed.
    """
    changed = counts.modified
    prompt = normalize(example.prompt, changed)
    response = normalize(example.response, changed)
    return finish_example(Example(prompt, response, example.source), recipe, changed)


def finish_example(example: Example, recipe: Recipe, changed: Counter[str]) -> Example | str:
    """Returns a normalised example masked, stripped and finished, or a reason.

    `changed` counts the rules that did something.
    """
    prompt, response = example.prompt, example.response
    if recipe.mask:
        prompt = private.mask(prompt, changed)
    rules = set[str]()
    while True:
        masked = private.mask_kinds(response, rules) if recipe.mask else response
        shorter = _shortened(prompt, masked, recipe, rules)
        if shorter is None:
            return "cut_off"
        if not shorter and response:
            return "boilerplate"
        response = shorter
        if shorter == masked:  # Masking again would do nothing.
            break
    if rules:
        changed.update(rules)
    return Example(prompt, response, example.source)


def _shortened(prompt: str, response: str, recipe: Recipe, rules: set[str]) -> str | None:
    """Returns the answer stripped and finished once; adds to `rules` what did something."""
    if recipe.boilerplate:
        stripped = strip_boilerplate(prompt, response, wishes=recipe.wishes)
        if stripped != response:
            rules.add("boilerplate")
            response = stripped
    finished = filters.finish(response, recipe.max_response_chars, recipe.min_unended_chars)
    if finished is not None and finished != response:
        rules.add("finish")
    return finished


def _cleaned(
    example: Example, recipe: Recipe, judges: Sequence[Filter], votes: int | None, counts: Counts
) -> Example | str:
    """Returns the cleaned example, or the first reason to drop it."""
    if reason := filters.min_votes(votes, recipe.min_votes or 0):
        return reason
    cleaned = clean_example(example, recipe, counts)
    if isinstance(cleaned, str):
        return cleaned
    found = judged(cleaned, judges)
    return found if isinstance(found, str) or recipe.policy is None else "rejected_by_policy"


def judged(example: Example, judges: Sequence[Filter]) -> Example | str:
    """Returns `example`, or the first reason that one of `judges` has to drop it."""
    for judge in judges:
        if reason := judge(example):
            return reason
    return example


def drop(done: CleanBatch, reject: Rejected) -> None:
    """Books a reject. Its excerpt is masked as a whole, whatever the recipe says, then cut."""
    excerpt = excerpt_of(private.mask(normalize(reject.excerpt[:_MASKED_CHARS])))
    done.rejects.append(replace(reject, excerpt=excerpt))
    done.counts.rows_in += 1
    done.counts.dropped[reject.reason] += 1


def _excerpt(record: Record) -> str:
    return "\n".join(str(value) for value in record.fields.values())
