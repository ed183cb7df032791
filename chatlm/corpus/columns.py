"""The column road of cleaning: a block of raw records to clean rows, most of them in one pass.

In: a `RawBlock`, a source, a recipe. Out: exactly what `cleaning.clean_batch` makes of the same
records. Rows of which the compiled pass is not certain take the row road, `clean_batch` itself;
then both are put in the order of the raw data. Nothing is decided here that is not decided there.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from chatlm.corpus import cleaning, shapes
from chatlm.corpus.clean_columns import CleanColumns, Room, joined
from chatlm.corpus.column_rules import asked_of, judges_of, strings_of
from chatlm.corpus.convert import text_of
from chatlm.corpus.counts import Counts
from chatlm.corpus.example import Example
from chatlm.corpus.kernels import clean, screens, triggers
from chatlm.corpus.kernels.characters import folds
from chatlm.corpus.kernels.normalizing import RULE_NAMES
from chatlm.corpus.kernels.texts import Texts
from chatlm.corpus.raw_blocks import PairsBlock, RawBlock, RowsBlock, made_record
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.records import Fields, Record, Rejected
from chatlm.corpus.shapes import SHAPES, Shape
from chatlm.corpus.sources import Source

_COUNTED = (*RULE_NAMES, "finish")
_SLACK = 64
_FEW_RECORDS = 4
"""For no more than so many records columns take longer than rows."""


@dataclass(slots=True)
class _Asked:
    """What became of the rows that were asked about and did not stay as they were.

    `rows` is parallel to `examples`; `reasons` has the rows that were dropped.
    """

    rows: list[int] = field(default_factory=list[int])
    examples: list[Example] = field(default_factory=list[Example])
    reasons: dict[int, str] = field(default_factory=dict[int, str])
    counts: Counts = field(default_factory=Counts)


class ColumnRoad:
    """Cleans the blocks of one source under one recipe, and keeps its buffers between them."""

    def __init__(self, source: Source, recipe: Recipe, shape: Shape | None = None) -> None:
        """Takes the shape of the corpus from `shapes.SHAPES` if none is given.

        Raises:
            KeyError: The source has no shape.
        """
        self.shape: Shape = shape or SHAPES[source.name]
        self._made = None if shape else MadeRoad(source, recipe, self.shape)
        self.fields = self.shape.text_fields, self.shape.int_fields
        self._source, self._recipe = source, recipe
        strings = strings_of(self.shape, recipe)
        self._tables = clean.Tables(triggers.mark(strings), folds(), triggers.index(strings))
        self._asked = asked_of(self.shape, recipe)
        self._filters = recipe.filters()
        self._judges = [(triggers.asks(name), judge) for name, judge in judges_of(recipe).items()]
        self._unmasked = replace(recipe, mask=False)
        self._room = Room()

    def clean_block(self, block: RawBlock, path: str) -> CleanColumns:
        """Returns what `clean_batch` makes of all records of `block`, those in no column too."""
        columns = self._columns(block)
        done = _done(self._room, columns, self._ordinary(block))
        clean.clean_rows(columns, self._tables, self._asked, _work(self._room, columns), done)
        asked = self._ask(block, done)
        fast = np.flatnonzero(done.outcome == clean.KEPT)
        slow = np.flatnonzero((done.outcome != clean.KEPT) & (done.outcome < clean.LOW_VOTES))
        counts = Counts(len(fast), len(fast), modified=_modified(done))
        counts.add(asked.counts)
        dropped = self._dropped(block, done, asked.reasons, path)
        counts.add(dropped.counts)
        records = _in_order([block.record(row) for row in slow.tolist()], block.others)
        if self._made and len(records) > _FEW_RECORDS:
            rest = self._made.clean(records, path)
        else:
            rest = _of_batch(cleaning.clean_batch(records, path, self._source, self._recipe))
        counts.add(rest.counts)
        again = _of_batch(
            cleaning.CleanBatch(
                asked.examples,
                positions=block.positions[asked.rows].tolist(),
                turns=[0] * len(asked.rows),
            )
        )
        rejects = [*dropped.rejects, *rest.rejects]
        rejects.sort(key=lambda one: (one.position, one.turn))
        return self._merged(block, done, fast, joined(rest, again), rejects, counts)

    def _ordinary(self, block: RawBlock) -> NDArray[np.uint8]:
        """Returns (N,) KEPT for rows of the simple shape, another outcome for others."""
        shape, recipe = self.shape, self._recipe
        outcome = np.full(len(block.positions), clean.KEPT, np.uint8)
        if recipe.min_votes and shape.votes:
            votes, known = shape.votes(block)
            outcome[known & (votes < recipe.min_votes)] = clean.LOW_VOTES
        for name in shape.needs:
            outcome[~block.present[name]] = clean.SHAPE
        if recipe.policy is not None or any(map(block.mentions, shape.excludes)):
            outcome[:] = clean.SHAPE
        return outcome

    def _ask(self, block: RawBlock, done: clean.Done) -> _Asked:
        """Asks the rules in doubt; gives the rows of which they say something another outcome."""
        asked, changed = _Asked(), Counter[str]()
        rows = np.flatnonzero(done.outcome == clean.DOUBTED)
        spans = np.concatenate([done.prompt_spans[rows], done.response_spans[rows]], axis=1)
        for row, (first, last, start, end, whole_end), doubts in zip(
            rows.tolist(), spans.tolist(), done.doubts[rows].tolist(), strict=True
        ):
            prompt = done.prompt[first:last].tobytes().decode()
            response = done.response[start:end].tobytes().decode()
            whole = done.response[start:whole_end].tobytes().decode() if whole_end > end else ""
            found = self._answered(prompt, response, whole, doubts, changed)
            if found is None:
                done.outcome[row] = clean.KEPT
                changed.clear()
                continue
            done.changed[row] &= ~(1 << clean.FINISH_RULE + clean.RESPONSE_BITS)
            asked.counts.modified.update(changed)
            changed.clear()
            if isinstance(found, str):
                done.outcome[row] = clean.ASKED_DROPPED
                asked.reasons[row] = found
            else:
                done.outcome[row] = clean.ASKED_CHANGED
                asked.rows.append(row)
                asked.examples.append(replace(found, source=self._named(block, row)))
        asked.counts.rows_in = asked.counts.kept = len(asked.rows)
        return asked

    def _answered(
        self, prompt: str, response: str, whole: str, doubts: int, changed: Counter[str]
    ) -> Example | str | None:
        """Returns the example that the rules in doubt make of a normalised pair, a reason, or None.

        None stands for the pair as the pass has it: `prompt`, and `response` cut from `whole`. For
        the rest `changed` counts the rules that did something after normalising.
        """
        either = doubts | doubts >> clean.PROMPT_DOUBTS
        if either & (screens.NUMBERS | screens.ENDS):
            recipe = self._recipe if either & screens.NUMBERS else self._unmasked
            raw = Example(prompt, whole or response, self._source.name)
            found = cleaning.finish_example(raw, recipe, changed)
            if isinstance(found, str):
                return found
            as_it_is = (found.prompt, found.response) == (prompt, response)
            if not as_it_is or set(changed) != ({"finish"} if whole else set()):
                return cleaning.judged(found, self._filters)
        elif whole:
            changed["finish"] += 1
        example = Example(prompt, response, self._source.name)
        reasons = (judge(example) for bit, judge in self._judges if doubts & bit)
        return next(filter(None, reasons), None)

    def _dropped(
        self, block: RawBlock, done: clean.Done, reasons: Mapping[int, str], path: str
    ) -> cleaning.CleanBatch:
        """Returns the rejects of the rows that the pass or `_ask` dropped, and their counts."""
        dropped = cleaning.CleanBatch()
        gone = (done.outcome >= clean.LOW_VOTES) & (done.outcome != clean.ASKED_CHANGED)
        for row in np.flatnonzero(gone).tolist():
            record = block.record(row)
            found = self._source.convert(record.fields)
            if isinstance(found, str):  # The record gave no example, whatever its votes.
                reason, text = found, "\n".join(map(str, record.fields.values()))
            else:
                one = found[0]
                assert isinstance(one, Example), "a conversation is no ordinary row"
                reason = reasons.get(row) or clean.OUTCOMES[done.outcome[row]]
                text = f"{one.prompt}\n{one.response}"
            cleaning.drop(dropped, Rejected(path, record.position, reason, text))
        return dropped

    def _named(self, block: RawBlock, row: int) -> str:
        """Returns the name of the corpus of a row."""
        origin = self.shape.origin
        return (block.texts[origin][row] if origin else "") or self._source.name

    def _columns(self, block: RawBlock) -> clean.Columns:
        shape = self.shape
        prompt, answer = block.texts[shape.prompt], block.texts[shape.answer]
        detail = block.texts[shape.detail] if shape.detail else prompt
        return clean.Columns(
            prompt.data, prompt.offsets, detail.data, detail.offsets, answer.data, answer.offsets
        )

    def _merged(
        self,
        block: RawBlock,
        done: clean.Done,
        fast: NDArray[np.int64],
        rest: CleanColumns,
        rejects: list[Rejected],
        counts: Counts,
    ) -> CleanColumns:
        """Returns the rows of both roads in the order of the raw data."""
        positions = np.concatenate([block.positions[fast], rest.positions])
        turns = np.concatenate([np.zeros(len(fast), np.int64), rest.turns])
        rows = np.concatenate([fast, np.arange(len(rest))])
        order = np.lexsort((turns, positions))
        picked = np.where(order < len(fast), rows[order], ~rows[order])
        gathered = self._room.gathered
        return CleanColumns(
            gathered("prompts", done.prompt, done.prompt_spans, rest.prompt, picked),
            gathered("responses", done.response, done.response_spans, rest.response, picked),
            self._sources(block, fast, rest, order),
            positions[order],
            turns[order],
            rejects,
            counts,
            np.bincount(done.outcome, minlength=len(clean.OUTCOMES)),
        )

    def _sources(
        self,
        block: RawBlock,
        fast: NDArray[np.int64],
        rest: CleanColumns,
        order: NDArray[np.int64],
    ) -> str | list[str]:
        if self.shape.origin is None:
            return self._source.name
        sources = [self._named(block, row) for row in fast.tolist()]
        sources += rest.sources_of_rows()
        return [sources[place] for place in order.tolist()]


class MadeRoad:
    """The column road for what a corpus's function in `convert` made of records, row by row."""

    def __init__(self, source: Source, recipe: Recipe, shape: Shape) -> None:
        self._source, self._recipe = source, recipe
        votes = (lambda fields: fields["votes"]) if source.votes else None
        made = replace(source, convert=_as_made, votes=votes)
        self._road = ColumnRoad(made, recipe, shapes.made(shape))

    def clean(self, records: Sequence[Record | Rejected], path: str) -> CleanColumns:
        """Returns what `clean_batch` makes of `records`."""
        lost = cleaning.CleanBatch()
        made = list(cleaning.convert(records, path, self._source, self._recipe, lost))
        places = [(position, turn) for _, _, position, turn in made]
        done = self._road.clean_block(self._block(made), path)
        where = np.array(places, np.int64).reshape(len(places), 2)[done.positions]
        for reject in done.rejects:
            position, turn = places[reject.position]
            lost.rejects.append(replace(reject, position=position, turn=turn))
        done.counts.add(lost.counts)
        return replace(done, positions=where[:, 0], turns=where[:, 1], rejects=lost.rejects)

    def _block(self, made: Sequence[tuple[Example, int | None, int, int]]) -> RawBlock:
        examples, votes = [one[0] for one in made], [one[1] for one in made]
        try:
            return PairsBlock.of(examples, votes)
        except (UnicodeEncodeError, OverflowError):  # Columns cannot hold some of them.
            rows = [
                made_record(row, *pair)
                for row, pair in enumerate(zip(examples, votes, strict=True))
            ]
            return RowsBlock.of(rows, *self._road.fields)


def _as_made(fields: Fields) -> list[Example]:
    return [Example(*(text_of(fields, name) for name in ("prompt", "response", "source")))]


def _of_batch(batch: cleaning.CleanBatch) -> CleanColumns:
    """Returns rows that were cleaned one by one as columns."""
    return CleanColumns(
        Texts.from_strings(example.prompt for example in batch.examples),
        Texts.from_strings(example.response for example in batch.examples),
        [example.source for example in batch.examples],
        np.array(batch.positions, np.int64),
        np.array(batch.turns, np.int64),
        batch.rejects,
        batch.counts,
        np.zeros(len(clean.OUTCOMES), np.int64),
    )


def _work(room: Room, columns: clean.Columns) -> clean.Work:
    """Returns room for the longest texts of `columns`."""
    lengths = [
        int(np.diff(offsets).max(initial=0))
        for offsets in (columns.prompt_offsets, columns.detail_offsets, columns.answer_offsets)
    ]
    longest = sum(lengths) + _SLACK
    return clean.Work(
        *(room.array(f"work_{name}", longest, np.int32) for name in clean.Work._fields)
    )


def _done(room: Room, columns: clean.Columns, outcome: NDArray[np.uint8]) -> clean.Done:
    """Returns room for all texts of `columns`; no rule makes a text longer."""
    num = len(outcome)
    prompt, detail, answer = (
        int(offsets[-1] - offsets[0])
        for offsets in (columns.prompt_offsets, columns.detail_offsets, columns.answer_offsets)
    )
    return clean.Done(
        room.array("prompt", prompt + detail + num + _SLACK, np.uint8),
        room.array("prompt_spans", 2 * num, np.int64)[: 2 * num].reshape(num, 2),
        room.array("response", answer + _SLACK, np.uint8),
        room.array("response_spans", 3 * num, np.int64)[: 3 * num].reshape(num, 3),
        outcome,
        room.array("changed", num, np.int32)[:num],
        room.array("doubts", num, np.int32)[:num],
    )


def _modified(done: clean.Done) -> Counter[str]:
    """Returns how many texts each rule changed, of the rows that were kept or dropped."""
    changed = done.changed[(done.outcome == clean.KEPT) | (done.outcome >= clean.LOW_VOTES)]
    counted = {
        name: int(np.count_nonzero(changed >> rule & 1))
        + int(np.count_nonzero(changed >> rule + clean.RESPONSE_BITS & 1))
        for rule, name in enumerate(_COUNTED)
    }
    return Counter({name: number for name, number in counted.items() if number})


def _in_order(
    first: Sequence[Record], second: Sequence[Record | Rejected]
) -> list[Record | Rejected]:
    """Returns both in the order of the file."""
    return sorted([*first, *second], key=lambda record: record.position)
