"""The column road of cleaning: a block of raw records to clean rows, most of them in one pass.

In: a `RawBlock`, a source, a recipe. Out: exactly what `cleaning.clean_batch` makes of the same
records. Rows of which the compiled pass is not certain take the row road, `clean_batch` itself;
then both are put in the order of the raw data. Nothing is decided here that is not decided there.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from chatlm.corpus import boilerplate, cleaning, filters, private, quality
from chatlm.corpus.clean_columns import CleanColumns, Room
from chatlm.corpus.counts import Counts
from chatlm.corpus.example import Example
from chatlm.corpus.kernels import clean, screens, triggers
from chatlm.corpus.kernels.characters import folds
from chatlm.corpus.kernels.normalizing import RULE_NAMES
from chatlm.corpus.kernels.screens import Limits
from chatlm.corpus.kernels.texts import Texts
from chatlm.corpus.raw_blocks import RawBlock
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.records import Record, Rejected
from chatlm.corpus.shapes import SHAPES, Shape
from chatlm.corpus.sources import Source

_NEVER = 1 << 62
_COUNTED = (*RULE_NAMES, "finish")
_SLACK = 64
_MIN_NUMBER_DIGITS = 10
_NUMBER_WORDS = ("电话", "座机", "固话", "传真", "联系方式", "致电", "tel", "q:", "q：", "q号")
"""With fewer digits in a chain, `private` masks only IPv4 addresses (three points) and local
numbers after one of these words. Both are facts about its patterns, held by a test."""
_ANSWER_STRINGS = {
    "advertisement": quality.ADVERTISEMENTS,
    "as_an_ai": quality.SELVES,
    "points_elsewhere": quality.POINTERS,
}
_STRINGS = {"mojibake": quality.MOJIBAKE, "markup": quality.MARKUP}
"""The strings without which a filter does not fire, in answers only and in both texts."""


class ColumnRoad:
    """Cleans the blocks of one source under one recipe, and keeps its buffers between them."""

    def __init__(self, source: Source, recipe: Recipe) -> None:
        """Raises `KeyError` for a source that has no shape in `shapes.SHAPES`."""
        self.shape: Shape = SHAPES[source.name]
        self.fields = self.shape.text_fields, self.shape.int_fields
        self._source, self._recipe = source, recipe
        strings = _strings(self.shape, recipe)
        self._tables = clean.Tables(triggers.mark(strings), folds(), triggers.index(strings))
        self._asked = _asked(self.shape, recipe)
        self._judges = recipe.filters()[-len(recipe.drop) - len(recipe.quality) or None :]
        self._room = Room()

    def clean_block(self, block: RawBlock, path: str) -> CleanColumns:
        """Returns what `clean_batch` makes of all records of `block`, those in no column too."""
        columns = self._columns(block)
        done = _done(self._room, columns, self._ordinary(block))
        clean.clean_rows(columns, self._tables, self._asked, _work(self._room, columns), done)
        self._ask(done)
        fast = np.flatnonzero(done.outcome == clean.KEPT)
        slow = np.flatnonzero((done.outcome != clean.KEPT) & (done.outcome < clean.LOW_VOTES))
        counts = Counts(len(fast), len(fast), modified=_modified(done))
        dropped = self._dropped(block, done, path)
        counts.add(dropped.counts)
        records = _in_order([block.record(row) for row in slow.tolist()], block.others)
        rest = cleaning.clean_batch(records, path, self._source, self._recipe)
        counts.add(rest.counts)
        rejects = sorted(
            [*dropped.rejects, *rest.rejects], key=lambda one: (one.position, one.turn)
        )
        return self._merged(block, done, fast, rest, rejects, counts)

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

    def _ask(self, done: clean.Done) -> None:
        """Keeps the doubted rows of which the rules in doubt say nothing; others go slowly."""
        for row in np.flatnonzero(done.outcome == clean.DOUBTED).tolist():
            start, end = done.prompt_spans[row]
            prompt = done.prompt[start:end].tobytes().decode()
            start, end, whole_end = done.response_spans[row]
            response = done.response[start:end].tobytes().decode()
            whole = done.response[start:whole_end].tobytes().decode() if whole_end > end else ""
            doubts = int(done.doubts[row])
            harmless = self._are_harmless(prompt, (response, whole), doubts)
            done.outcome[row] = clean.KEPT if harmless else clean.SCREENS

    def _are_harmless(self, prompt: str, responses: Sequence[str], doubts: int) -> bool:
        """Returns whether the rules in doubt leave a pair alone, before and after finishing."""
        if doubts >> clean.PROMPT_DOUBTS & screens.NUMBERS and private.mask(prompt) != prompt:
            return False
        if doubts & screens.NUMBERS and any(private.mask(text) != text for text in responses):
            return False
        if doubts & screens.ENDS:
            wishes = self._recipe.wishes
            for text in responses:
                if boilerplate.strip_boilerplate(prompt, text, wishes=wishes) != text:
                    return False
        strings = screens.STRINGS | screens.STRINGS << clean.PROMPT_DOUBTS
        if doubts & (strings | screens.LOOPS):
            example = Example(prompt, responses[0], self._source.name)
            return not any(judge(example) for judge in self._judges)
        return True

    def _dropped(self, block: RawBlock, done: clean.Done, path: str) -> cleaning.CleanBatch:
        """Returns the rejects of the rows that the pass dropped, and their counts."""
        dropped = cleaning.CleanBatch()
        for row in np.flatnonzero(done.outcome >= clean.LOW_VOTES).tolist():
            record = block.record(row)
            found = self._source.convert(record.fields)
            if isinstance(found, str):  # The record gave no example, whatever its votes.
                reason, text = found, "\n".join(map(str, record.fields.values()))
            else:
                reason = clean.OUTCOMES[done.outcome[row]]
                text = f"{found[0].prompt}\n{found[0].response}"
            cleaning._drop(dropped, Rejected(path, record.position, reason, text))
        return dropped

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
        rest: cleaning.CleanBatch,
        rejects: list[Rejected],
        counts: Counts,
    ) -> CleanColumns:
        """Returns the rows of both roads in the order of the raw data."""
        positions = np.concatenate([block.positions[fast], np.array(rest.positions, np.int64)])
        turns = np.concatenate([np.zeros(len(fast), np.int64), np.array(rest.turns, np.int64)])
        rows = np.concatenate([fast, np.arange(len(rest.examples))])
        order = np.lexsort((turns, positions))
        picked = np.where(order < len(fast), rows[order], ~rows[order])
        prompts = Texts.from_strings(example.prompt for example in rest.examples)
        responses = Texts.from_strings(example.response for example in rest.examples)
        gathered = self._room.gathered
        return CleanColumns(
            gathered("prompts", done.prompt, done.prompt_spans, prompts, picked),
            gathered("responses", done.response, done.response_spans, responses, picked),
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
        rest: cleaning.CleanBatch,
        order: NDArray[np.int64],
    ) -> str | list[str]:
        if self.shape.origin is None:
            return self._source.name
        named = block.texts[self.shape.origin]
        default = self._source.name
        sources = [named[row] or default for row in fast.tolist()]
        sources += [example.source for example in rest.examples]
        return [sources[place] for place in order.tolist()]


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


def _asked(shape: Shape, recipe: Recipe) -> clean.Asked:
    unended = -1 if recipe.min_unended_chars is None else recipe.min_unended_chars
    most = 1 if "table" in recipe.drop else _NEVER
    return clean.Asked(
        join=shape.join,
        prompt_is_html=shape.is_html,
        answer_is_html=shape.is_html,
        answer_has_joined_paragraphs=shape.has_joined_paragraphs,
        min_prompt_chars=recipe.min_prompt_chars,
        max_prompt_chars=recipe.max_prompt_chars,
        min_response_chars=recipe.min_response_chars,
        max_response_chars=recipe.max_response_chars,
        min_unended_chars=unended,
        min_han_share=float(recipe.min_han_share),
        not_identical="identical" in recipe.drop,
        limits=Limits(
            digits=_MIN_NUMBER_DIGITS if recipe.mask else _NEVER,
            few_digits=private.MIN_DIGITS,
            tabs=most,
            bars=most,
            loop_chars=quality.MIN_LOOP_CHARS,
            loop_probe=quality.LOOP_PROBE,
            needs_letter="no_prose" in recipe.quality,
        ),
    )


def _strings(shape: Shape, recipe: Recipe) -> dict[str, int]:
    """Returns the strings on which a rule may fire, and where they matter."""
    places = dict[str, int]()

    def add(strings: Iterable[str], where: int) -> None:
        for text in strings:
            places[text] = places.get(text, 0) | where

    everywhere = triggers.IN_PROMPT | triggers.IN_ANSWER
    add(shape.triggers, everywhere | triggers.CONVERT)
    if recipe.mask:
        add((*private.TRIGGERS, *private.AT_SIGNS), everywhere | triggers.PRIVATE)
        add(_NUMBER_WORDS, everywhere | triggers.NUMBER_WORD)
    if recipe.boilerplate:
        add(boilerplate.OPENINGS, triggers.AT_START)
        add((*boilerplate.CLOSINGS, *boilerplate.WISHES), triggers.AT_END)
    for name, strings in _ANSWER_STRINGS.items():
        if name in recipe.quality:
            add(strings, triggers.IN_ANSWER)
    for name, strings in _STRINGS.items():
        if name in recipe.quality:
            add(strings, everywhere)
    if "translation_task" in recipe.drop:
        add(filters.TRIGGERS, triggers.IN_PROMPT)
    return places


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
