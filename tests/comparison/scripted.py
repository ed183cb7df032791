"""A comparison with made-up answers: what a report shows is known to the letter."""

from chatlm.comparison import scoring, verdicts
from chatlm.comparison.answers import Answer, ReferenceLoss
from chatlm.comparison.notes import Note
from chatlm.comparison.questions import Asking, Question
from chatlm.comparison.result import Comparison, Probe, Row

QUESTIONS = [
    Question("三原色是什么？", [1, 2], ["三原色是红、绿、蓝。", "红色、绿色和蓝色。"], [[3], [4]]),
    Question("Name a <b>fruit</b> & say why.", [5], ["An apple, because it is sweet."], [[6]]),
    Question("列出三种水果。", [7, 8], ["苹果、香蕉、葡萄。"], [[9]]),
]
TUNED = [
    Answer("三原色是红、绿、蓝。", False, 9),
    Answer("Banana <script>alert(1)</script>", False, 8),
    Answer("苹果，苹果，苹果，苹果，苹果，苹果，苹果，苹果，苹果", True, 24),
]
BASE = [
    Answer("\x1b[31m天空是蓝色的。", False, 7),
    Answer("An apple, since it is sweet.", False, 9),
    Answer("", False, 0),
]
LOSSES = ReferenceLoss(2.25, 3.5, 40), ReferenceLoss(3.0, 4.75, 40)
NOTE = Note("训练用的是别的文件", "the run was trained on another file")


def comparison(*, has_references: bool = True, has_base: bool = True) -> Comparison:
    """Returns it, or what is left of it without references or without a base."""
    asked = [
        Question(one.text, one.prompt_ids, one.references if has_references else [])
        for one in QUESTIONS
    ]
    rows = scoring.rows_of(asked, TUNED, BASE if has_base else None)
    losses = LOSSES if has_references else (None, None)
    figures = {"tuned": scoring.figures_of(TUNED, asked, losses[0])}
    if has_base:
        figures["base"] = scoring.figures_of(BASE, asked, losses[1])
    if has_references:
        figures["reference"] = scoring.reference_figures(asked)
    return Comparison(
        model="out/zh/step_000040",
        base="base" if has_base else "",
        form="plain",
        asking=Asking(asked, "data/a.json", "ab" * 32, 300, 3, {"not_held_out": 297}),
        settings={"max_new_tokens": 24, "temperature": 0.0},
        figures=figures,
        contest=scoring.contest_of(rows),
        probe=_probe() if has_base else None,
        notes=[NOTE],
        rows=rows,
    )


def _probe() -> Probe:
    rows = scoring.probe_rows(["你好！"], ["你好！"], [Answer("你好。", False, 3)], [TUNED[0]])
    return Probe(2.53, 2.5, 0.0125, 900, rows[0].alike, 0.0, rows)


def with_gains(gains: list[float]) -> list[Row]:
    """Returns rows of which only the gain matters."""
    row = comparison().rows[0]
    return [
        Row(f"{gain}", "zh", row.references, row.tuned, row.base, gain, verdicts.outcome(gain))
        for gain in gains
    ]
