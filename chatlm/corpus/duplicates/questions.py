"""An index of questions, and the rows that repeat one of them.

In: questions, signed rows. Out: for every row the number of a question that its prompt repeats.
Where the questions come from is not its business.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatlm.corpus.duplicates.settings import DuplicateSettings
from chatlm.corpus.duplicates.signing import Signed, sign
from chatlm.corpus.kernels import overlaps
from chatlm.corpus.kernels.shingles import table_size
from chatlm.corpus.kernels.texts import Texts

_QUESTION = 2


@dataclass(frozen=True, slots=True)
class QuestionIndex:
    """Questions to look for.

    A row repeats a question if
    * its own question (the opening of its prompt) has the same prose key, or
    * the sets of 3-grams of the two have a Jaccard similarity of the threshold or more, or
    * `contained` is on, and its folded prompt has the folded question somewhere inside, or stands
      inside it, and what stands inside has `min_contained_chars` or more.
    """

    signed: Signed
    settings: DuplicateSettings
    contained: bool

    @classmethod
    def of(
        cls, questions: Sequence[str], settings: DuplicateSettings, *, contained: bool = True
    ) -> "QuestionIndex":
        """Returns the index of some questions."""
        return cls.of_texts(Texts.from_strings(questions), settings, contained=contained)

    @classmethod
    def of_texts(
        cls, questions: Texts, settings: DuplicateSettings, *, contained: bool = True
    ) -> "QuestionIndex":
        """Returns the index of a column of questions."""
        empty = Texts.from_strings([""] * len(questions))
        return cls(sign(questions, empty, settings), settings, contained)

    def repeated_by(self, rows: Signed) -> NDArray[np.int64]:
        """Returns (N,): for each row the first question that it repeats, or -1."""
        hits = np.full(len(rows.questions), -1, np.int64)
        if not len(self.signed.questions) or not len(hits):
            return hits
        order = np.argsort(self.signed.questions, kind="stable")
        overlaps.equal_questions(rows.questions, self.signed.questions[order], order, hits)
        self._find_like(rows, hits)
        if self.contained:
            self._find_inside(rows, hits)
        return hits

    def _find_like(self, rows: Signed, hits: NDArray[np.int64]) -> None:
        known = self.signed
        starts, ends = _spans(known)
        longest = int((ends - starts).max(initial=0))
        grams = overlaps.gram_sets(known.units, starts, ends, table_size(longest))
        signed = np.flatnonzero(known.long_enough & _QUESTION)
        keys = known.question_keys[:, signed]
        order = np.argsort(keys, axis=1, kind="stable")
        sorted_keys = np.take_along_axis(keys, order, axis=1)
        own_starts, own_ends = _spans(rows)
        overlaps.like_questions(
            rows.units, own_starts, own_ends, (rows.long_enough & _QUESTION).astype(np.bool_),
            rows.question_keys, sorted_keys, signed[order], overlaps.key_filters(sorted_keys),
            *grams, self.settings.millionths,
            table_size(int((own_ends - own_starts).max(initial=0))), hits,
        )  # fmt: skip

    def _find_inside(self, rows: Signed, hits: NDArray[np.int64]) -> None:
        known, width = self.signed, self.settings.min_contained_chars
        starts, ends = known.ends[:-1], known.ends[:-1] + known.spans[:, 2]
        hashes, of_text, places = overlaps.all_windows(known.units, starts, ends, width)
        order = np.argsort(hashes, kind="stable")
        hashes, of_text, places = hashes[order], of_text[order], places[order]
        first = places == 0
        overlaps.inside(
            rows.units, rows.ends[:-1], rows.ends[:-1] + rows.spans[:, 2],
            known.units, starts, ends, hashes, of_text, places,
            hashes[first], of_text[first], overlaps.filter_of(hashes[first]), width, hits,
        )  # fmt: skip


def _spans(signed: Signed) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns where the question of each row begins and ends in the units."""
    return signed.ends[:-1] + signed.spans[:, 0], signed.ends[:-1] + signed.spans[:, 1]
