"""From answers to rows and figures.

In: questions and the answers of one or two models. Out: rows, and what they add up to.
"""

from collections.abc import Sequence

from chatlm.comparison import metrics, verdicts
from chatlm.comparison.answers import Answer, ReferenceLoss
from chatlm.comparison.questions import Question
from chatlm.comparison.result import Figures, ProbeRow, Row, Said
from chatlm.comparison.verdicts import Contest


def rows_of(
    questions: Sequence[Question], tuned: Sequence[Answer], base: Sequence[Answer] | None
) -> list[Row]:
    """Returns a row for each question."""
    return [
        _row(question, tuned[number], base[number] if base else None)
        for number, question in enumerate(questions)
    ]


def _row(question: Question, tuned: Answer, base: Answer | None) -> Row:
    ours = _said(tuned, question.references)
    theirs = _said(base, question.references) if base else None
    gain = None
    if ours.nearness and theirs and theirs.nearness:
        gain = ours.nearness.chrf - theirs.nearness.chrf
    return Row(
        question.text,
        "zh" if metrics.is_chinese(question.text) else "en",
        question.references,
        ours,
        theirs,
        gain,
        "" if gain is None else verdicts.outcome(gain),
    )


def _said(answer: Answer, references: Sequence[str]) -> Said:
    return Said(
        answer,
        metrics.nearness(answer.text, references) if references else None,
        metrics.repeated_share(answer.text),
        _goes_round(answer),
    )


def _goes_round(answer: Answer) -> bool:
    """Tells whether an answer repeats itself; one that goes on in blanks does, too."""
    return answer.blank_end >= metrics.LOOP_PIECES or metrics.is_repetitive(answer.text)


def figures_of(
    answers: Sequence[Answer], questions: Sequence[Question], loss: ReferenceLoss | None
) -> Figures:
    """Returns the figures of a model."""
    texts = [answer.text for answer in answers]
    references = [question.references for question in questions]
    near = metrics.corpus_nearness(texts, references) if all(references) else None
    cut = sum(answer.is_cut for answer in answers) / len(answers)
    return _figures(texts, list(map(_goes_round, answers)), near, loss, cut)


def reference_figures(questions: Sequence[Question]) -> Figures:
    """Returns how long and how repetitive the references are, all of them."""
    texts = [text for question in questions for text in question.references]
    return _figures(texts, list(map(metrics.is_repetitive, texts)), None, None, None)


def _figures(
    texts: Sequence[str],
    repetitive: Sequence[bool],
    near: metrics.Nearness | None,
    loss: ReferenceLoss | None,
    cut: float | None,
) -> Figures:
    count = len(texts)
    return Figures(
        near,
        loss,
        cut,
        repetitive=sum(repetitive) / count,
        repeated=sum(map(metrics.repeated_share, texts)) / count,
        empty=sum(not text for text in texts) / count,
        mean_chars=sum(map(len, texts)) / count,
    )


def contest_of(rows: Sequence[Row]) -> Contest | None:
    """Returns who is ahead, None where that cannot be told."""
    gains = [row.gain for row in rows if row.gain is not None]
    return verdicts.contest(gains) if gains else None


def probe_rows(
    questions: Sequence[str],
    references: Sequence[str],
    tuned: Sequence[Answer],
    base: Sequence[Answer],
) -> list[ProbeRow]:
    """Returns the answers of both models side by side, and how alike they are."""
    return [
        ProbeRow(question, ours.text, theirs.text, reference, _alike(ours.text, theirs.text))
        for question, reference, ours, theirs in zip(
            questions, references, tuned, base, strict=True
        )
    ]


def _alike(ours: str, theirs: str) -> float:
    """Returns the chrF between two answers; two empty ones are the same."""
    return 100.0 if ours == theirs else metrics.chrf(ours, [theirs])
