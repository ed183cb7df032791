"""One pass over a block of raw rows: prompts and answers out, cleaned, or left to the row road.

In: up to three columns of texts, tables, and what is asked. Out: UTF-8 columns of the rows of which
it is certain that `cleaning.clean_batch` keeps them with just these texts; an outcome for all other
rows. It decides nothing that a regex or `unicodedata` would have to decide.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels import finishing, joining, screens
from chatlm.corpus.kernels.characters import BLANK, MARKUP, NEWLINE, UNSURE
from chatlm.corpus.kernels.normalizing import normalize
from chatlm.corpus.kernels.screens import Limits
from chatlm.corpus.kernels.triggers import ALL_FILTERS, Triggers
from chatlm.corpus.kernels.utf8 import decode, encode
from chatlm.corpus.kernels.wide import unowned

Bytes = NDArray[np.uint8]
Points = NDArray[np.int32]
Offsets = NDArray[np.int64]

JOIN_NOTHING, JOIN_QUESTION, JOIN_INPUT = range(3)

OUTCOMES = (
    *("kept", "doubted", "shape", "nfc", "raw_text", "screens", "finish"),
    *("low_votes", "cut_off", "too_short_prompt", "too_short_response"),
    *("too_long_prompt", "not_chinese", "identical", "asked_and_changed", "asked_and_dropped"),
)
"""What becomes of a row: it is kept, kept if some rules that have to be asked do nothing, left to
the row road for a cause, or dropped; the last two come from asking."""
KEPT, DOUBTED, SHAPE, NFC, RAW_TEXT, SCREENS, FINISH = range(7)
LOW_VOTES, CUT_OFF, SHORT_PROMPT, SHORT_RESPONSE, LONG_PROMPT, NOT_CHINESE, IDENTICAL = range(7, 14)
ASKED_CHANGED, ASKED_DROPPED = 14, 15
FINISH_RULE = 7
"""The bit of `Done.changed` that stands for `finish`, behind the rules of `normalize`."""
PROMPT_DOUBTS = 8
"""The bits of the prompt in `Done.doubts` begin here; those of the response at 0. The bits of
filters, which judge both, stand where they are."""
RESPONSE_BITS = 8
"""The bits of the response begin here; those of the prompt at 0."""


class Columns(NamedTuple):
    """Raw texts: the prompt, what is joined to it (or no texts), the answer."""

    prompt: Bytes
    prompt_offsets: Offsets
    detail: Bytes
    detail_offsets: Offsets
    answer: Bytes
    answer_offsets: Offsets


class Tables(NamedTuple):
    """What characters and strings mean."""

    classes: NDArray[np.int32]
    folds: Points
    triggers: Triggers


class Asked(NamedTuple):
    """What is asked of the rows, and how their texts are made. A share of 0.0 asks for nothing.

    Characters are code points. A negative `min_unended_chars` means never.
    """

    join: int
    prompt_is_html: bool
    answer_is_html: bool
    answer_has_joined_paragraphs: bool
    min_prompt_chars: int
    max_prompt_chars: int
    min_response_chars: int
    max_response_chars: int
    min_unended_chars: int
    min_han_share: float
    not_identical: bool
    limits: Limits


class Work(NamedTuple):
    """Room for the code points of one row, used again for each."""

    raw: Points
    prompt: Points
    answer: Points
    key: Points
    other_key: Points


class Done(NamedTuple):
    """What the pass writes.

    Attributes:
        prompt, response: The texts of rows that are KEPT or DOUBTED.
        prompt_spans: (N, 2) where they begin and end; empty for other rows.
        response_spans: (N, 3) the same, and where the response ended before it was finished.
        outcome: (N,) what became of each row.
        changed: (N,) the rules that did something, as bits, of rows that are kept or dropped.
        doubts: (N,) the rules that have to be asked, see `screens`.
    """

    prompt: Bytes
    prompt_spans: Offsets
    response: Bytes
    response_spans: Offsets
    outcome: Bytes
    changed: NDArray[np.int32]
    doubts: NDArray[np.int32]


@njit(cache=True, nogil=True)
def clean_rows(columns: Columns, tables: Tables, asked: Asked, work: Work, done: Done) -> None:
    """Cleans the rows whose `done.outcome` is KEPT, and sets the outcome of those that are not."""
    # The caller holds all these arrays; counting that again in every small function takes longer
    # than cleaning.
    columns, tables, work, done = _unowned(columns, tables, work, done)
    prompt_at, response_at = 0, 0
    for row in range(len(done.outcome)):
        done.changed[row] = 0
        done.doubts[row] = 0
        done.prompt_spans[row] = prompt_at
        done.response_spans[row] = response_at
        if done.outcome[row] == KEPT:
            done.outcome[row] = _clean_row(columns, tables, asked, work, done, row)
            prompt_at = done.prompt_spans[row, 1]
            response_at = done.response_spans[row, 2]


@njit(cache=True, nogil=True)
def _unowned(
    columns: Columns, tables: Tables, work: Work, done: Done
) -> tuple[Columns, Tables, Work, Done]:
    triggers = tables.triggers
    return (
        Columns(
            unowned(columns.prompt),
            unowned(columns.prompt_offsets),
            unowned(columns.detail),
            unowned(columns.detail_offsets),
            unowned(columns.answer),
            unowned(columns.answer_offsets),
        ),
        Tables(
            unowned(tables.classes),
            unowned(tables.folds),
            Triggers(
                unowned(triggers.points),
                unowned(triggers.offsets),
                unowned(triggers.slots),
                unowned(triggers.places),
                unowned(triggers.singles),
                unowned(triggers.single_places),
                unowned(triggers.pairs),
            ),
        ),
        Work(
            unowned(work.raw),
            unowned(work.prompt),
            unowned(work.answer),
            unowned(work.key),
            unowned(work.other_key),
        ),
        Done(
            unowned(done.prompt),
            unowned(done.prompt_spans),
            unowned(done.response),
            unowned(done.response_spans),
            unowned(done.outcome),
            unowned(done.changed),
            unowned(done.doubts),
        ),
    )


@njit(cache=True, nogil=True)
def _clean_row(
    columns: Columns,
    tables: Tables,
    asked: Asked,
    work: Work,
    done: Done,
    row: int,
) -> int:
    """Writes one row where its spans begin, and returns its outcome."""
    classes = tables.classes
    start, end = columns.answer_offsets[row], columns.answer_offsets[row + 1]
    num, seen, repeated = decode(columns.answer, start, end, classes, work.answer, 0)
    if seen & UNSURE:
        return NFC
    raw_num = num
    num, seen = _answer_of(work.answer, num, seen, asked, tables)
    prompt_num, prompt_seen, prompt_repeated = _prompt_of(columns, tables, asked, work, row)
    if num < 0 or prompt_num < 0:
        return RAW_TEXT
    as_it_was = num == raw_num and not seen & (MARKUP | BLANK)
    num, changed = normalize(work.answer, num, seen, repeated, classes)
    prompt_num, prompt_changed = normalize(
        work.prompt, prompt_num, prompt_seen, prompt_repeated, classes
    )
    if num == 0 or prompt_num == 0 or _may_say_nothing(work.answer, num):
        return RAW_TEXT
    kept = finishing.finish(
        work.answer, num, asked.max_response_chars, asked.min_unended_chars, classes
    )
    if kept == finishing.UNDECIDED:
        return FINISH
    cut_off = kept == finishing.CUT_OFF
    doubts = screens.answer_doubts(
        work.answer, num, num if cut_off else kept, classes, tables.triggers, asked.limits
    )
    prompt_doubts = screens.prompt_doubts(
        work.prompt, prompt_num, classes, tables.triggers, asked.limits
    )
    doubts |= prompt_doubts & ALL_FILTERS | (prompt_doubts & ~ALL_FILTERS) << PROMPT_DOUBTS
    outcome = CUT_OFF if cut_off else _judge(work, prompt_num, kept, asked, classes)
    foreign = screens.FOREIGN | screens.FOREIGN << PROMPT_DOUBTS
    if (outcome != KEPT and doubts) or doubts & foreign:
        return SCREENS
    if not cut_off and kept != num:
        changed |= 1 << FINISH_RULE
    done.changed[row] = prompt_changed | changed << RESPONSE_BITS
    if outcome != KEPT:
        return outcome
    done.doubts[row] = doubts
    done.prompt_spans[row, 1] = encode(
        work.prompt, 0, prompt_num, done.prompt, done.prompt_spans[row, 0]
    )
    at = done.response_spans[row, 0]
    if as_it_was and not changed:
        done.response[at : at + end - start] = columns.answer[start:end]
        at += end - start
        done.response_spans[row, 1:] = at
    else:
        at = encode(work.answer, 0, kept, done.response, at)
        done.response_spans[row, 1] = at
        done.response_spans[row, 2] = (
            encode(work.answer, kept, num, done.response, at) if doubts else at
        )
    return DOUBTED if doubts else KEPT


@njit(cache=True, nogil=True)
def _judge(work: Work, prompt_num: int, num: int, asked: Asked, classes: Points) -> int:
    """Returns what becomes of a row of which no rule is in doubt."""
    if prompt_num < asked.min_prompt_chars:
        return SHORT_PROMPT
    if num < asked.min_response_chars:
        return SHORT_RESPONSE
    if prompt_num > asked.max_prompt_chars:
        return LONG_PROMPT
    share = asked.min_han_share
    if not (
        screens.is_chinese(work.prompt, prompt_num, share, classes)
        or screens.is_chinese(work.answer, num, share, classes)
    ):
        return NOT_CHINESE
    if asked.not_identical and _same(work.prompt, prompt_num, work.answer, num):
        return IDENTICAL
    return KEPT


@njit(cache=True, nogil=True)
def _answer_of(
    points: Points, num: int, seen: int, asked: Asked, tables: Tables
) -> tuple[int, int]:
    """Undoes HTML or joined paragraphs in place; returns a negative length if undecided."""
    if asked.answer_is_html and seen & MARKUP:
        num = joining.decode_html(points, num, tables.classes)
        seen |= NEWLINE
    if asked.answer_has_joined_paragraphs and seen & BLANK:
        num = joining.split_paragraphs(points, num, tables.classes)
        seen |= NEWLINE
    return num, seen


@njit(cache=True, nogil=True)
def _prompt_of(
    columns: Columns, tables: Tables, asked: Asked, work: Work, row: int
) -> tuple[int, int, bool]:
    """Makes the raw prompt in `work.prompt`; returns a negative length if undecided."""
    start, end = columns.prompt_offsets[row], columns.prompt_offsets[row + 1]
    raw = work.prompt if asked.join == JOIN_NOTHING else work.raw
    middle, seen, repeated = decode(columns.prompt, start, end, tables.classes, raw, 0)
    num = middle
    if asked.join != JOIN_NOTHING:
        start, end = columns.detail_offsets[row], columns.detail_offsets[row + 1]
        num, also_seen, also_repeated = decode(
            columns.detail, start, end, tables.classes, raw, middle
        )
        seen |= also_seen
        repeated |= also_repeated
    if seen & UNSURE:
        return joining.UNDECIDED, seen, repeated
    if asked.join == JOIN_QUESTION:
        num = joining.join_question(
            raw,
            middle,
            num,
            tables.classes,
            tables.folds,
            work.key,
            work.other_key,
            work.prompt,
        )
    elif asked.join == JOIN_INPUT:
        num = joining.join_input(raw, middle, num, tables.classes, work.prompt)
    if asked.join != JOIN_NOTHING:  # Stripping may have taken the only one of a class away.
        seen = _classes_of(work.prompt, num, tables.classes)
    if num > 0 and asked.prompt_is_html and seen & MARKUP:
        num = joining.decode_html(work.prompt, num, tables.classes)
        seen |= NEWLINE
    return num, seen, repeated


@njit(cache=True, nogil=True)
def _classes_of(points: Points, num: int, classes: Points) -> Any:
    seen = 0
    for i in range(num):
        seen |= classes[points[i]]
    return seen


@njit(cache=True, nogil=True)
def _may_say_nothing(points: Points, num: int) -> bool:
    return num <= 4 and joining.says_nothing(points, 0, num)


@njit(cache=True, nogil=True)
def _same(one: Points, num: int, other: Points, other_num: int) -> bool:
    if num != other_num:
        return False
    for i in range(num):  # noqa: SIM110 (numba has no generators in all())
        if one[i] != other[i]:
            return False
    return True
