"""What a comparison found, as values.

In: questions, answers, figures. Out: `Comparison`, and the JSON object of it: no date and no time,
floats of six digits, so that the same comparison is the same file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from chatlm.adapters.probe import Drift
from chatlm.comparison.answers import Answer, ReferenceLoss
from chatlm.comparison.metrics import Nearness
from chatlm.comparison.notes import Note
from chatlm.comparison.questions import Asking
from chatlm.comparison.verdicts import Contest

FORMAT = 1
_DIGITS = 6


@dataclass(frozen=True)
class Said:
    """One answer with its figures; `nearness` is None where there is no reference."""

    answer: Answer
    nearness: Nearness | None
    repeated: float
    is_repetitive: bool


@dataclass(frozen=True)
class Row:
    """A question and what was said to it.

    Attributes:
        question: with earlier turns before it.
        language: zh or en, of the question.
        references: from the data; none for plain questions.
        tuned: the tuned model's answer.
        base: the base's; None where there is no base.
        gain: chrF of tuned less base; None where one of them is missing.
        outcome: win, loss, tie, or "".
    """

    question: str
    language: str
    references: Sequence[str]
    tuned: Said
    base: Said | None
    gain: float | None
    outcome: str


@dataclass(frozen=True)
class Figures:
    """Of all answers of a model, or of the references.

    Attributes:
        nearness: to the references, 0 to 100.
        loss: of all references under the model.
        cut: share of answers that `max_new_tokens` ended.
        repetitive: share of answers that go round in circles, `chatlm.comparison.metrics` says how.
        repeated: mean share of 4-grams that stood in the same answer before.
        empty: share of answers without a character.
        mean_chars: length.
    """

    nearness: Nearness | None
    loss: ReferenceLoss | None
    cut: float | None
    repetitive: float
    repeated: float
    empty: float
    mean_chars: float


@dataclass(frozen=True)
class ProbeRow:
    """A question of the general chat, both answers, and how alike they are (chrF)."""

    question: str
    tuned: str
    base: str
    reference: str
    alike: float


@dataclass(frozen=True)
class Probe(Drift):
    """What the tuning took away: from how likely fixed answers are, and from the model's own.

    Attributes:
        alike: mean chrF between both answers; None if the model had no room for a question.
        same: share of questions with the same answer to the letter; likewise.
        rows: the answers.
    """

    alike: float | None
    same: float | None
    rows: Sequence[ProbeRow]


@dataclass(frozen=True)
class Comparison:
    """All of it.

    Attributes:
        model: the checkpoint folder.
        base: what it was compared with, "" if with nothing.
        form: how both were asked.
        asking: where the questions are from.
        settings: how they were answered.
        figures: by column: tuned, base, reference.
        contest: wins and losses; None without a base or without references.
        probe: None if it was not wanted or there is no base.
        notes: what a reader has to know.
        rows: questions and answers.
    """

    model: str
    base: str
    form: str
    asking: Asking
    settings: Mapping[str, Any]
    figures: Mapping[str, Figures]
    contest: Contest | None
    probe: Probe | None
    notes: Sequence[Note]
    rows: Sequence[Row]

    @property
    def has_references(self) -> bool:
        """Whether answers were scored."""
        return self.asking.has_references

    def as_dict(self) -> dict[str, Any]:
        """Returns the content of comparison.json."""
        asking = self.asking
        data = {
            "source": asking.source,
            "sha256": asking.sha256,
            "rows_in": asking.rows_in,
            "held_out": asking.held_out,
            "left_out": asking.left_out,
            "asked": len(self.rows),
        }
        contest = self.contest and {**asdict(self.contest), "verdict": self.contest.verdict}
        probe = self.probe and {
            "questions": len(self.probe.rows),
            "forgetting": self.probe.forgetting,
            **asdict(self.probe),
        }
        whole = {
            "format": FORMAT,
            "model": self.model,
            "base": self.base,
            "form": self.form,
            "data": data,
            "settings": dict(self.settings),
            "figures": {name: _figures(one) for name, one in self.figures.items()},
            "contest": contest,
            "probe": probe,
            "notes": [asdict(note) for note in self.notes],
            "rows": [_row(row) for row in self.rows],
        }
        return _rounded(whole)


def _figures(figures: Figures) -> dict[str, Any]:
    content = asdict(figures)
    for nested in ("nearness", "loss"):
        content |= content.pop(nested) or {}
    return {key: value for key, value in content.items() if value is not None}


def _row(row: Row) -> dict[str, Any]:
    content = asdict(row)
    for side in ("tuned", "base"):
        if said := content.pop(side):
            content[side] = said.pop("answer") | (said.pop("nearness") or {}) | said
    return {key: value for key, value in content.items() if value is not None}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") + 0.0  # no -0.0
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value
