"""The table of figures: which there are, what they are called, and which way is better.

In: a `Comparison`. Out: lines of text for the terminal and the page.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from chatlm.comparison.result import Comparison, Figures, Probe, Row
from chatlm.comparison.verdicts import Contest

SIDES = {"tuned": ("微调后", "tuned"), "base": ("底座", "base"), "reference": ("参考", "reference")}
OUTCOMES = {"win": ("胜", "win"), "tie": ("平", "tie"), "loss": ("负", "loss")}
VERDICTS = {
    "better": ("微调后更接近参考答案", "the tuned model is nearer to the references"),
    "worse": ("微调后离参考答案更远", "the tuned model is farther from the references"),
    "open": ("看不出差别：区间含 0", "no difference to be seen: the interval holds 0"),
}
REASONS = {
    "not_held_out": "不是留出的",
    "same_prompt": "问题重复",
    "too_long": "模型容不下",
    "special_text": "含特殊符号",
}
"""Why a row is not asked, in Chinese; further reasons are those of the corpus."""
MINUS = "\u2212"
Get = Callable[[Figures], float | None]


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    Attributes:
        zh: its Chinese name.
        en: its English name.
        get: its value.
        form: how a value is written.
        better: 1 if more is better, -1 if less is, 0 if neither.
    """

    zh: str
    en: str
    get: Get
    form: str
    better: int


@dataclass(frozen=True)
class Line:
    """A measure with its values as text; `trend` is 1 for better, -1 for worse, 0 for neither."""

    measure: Measure
    values: dict[str, str]
    difference: str
    trend: int


def _near(name: str) -> Get:
    return lambda figures: getattr(figures.nearness, name, None)


def _loss(name: str) -> Get:
    return lambda figures: getattr(figures.loss, name, None)


MEASURES = (
    Measure("chrF", "chrF", _near("chrf"), ".1f", 1),
    Measure("BLEU-4", "BLEU-4", _near("bleu4"), ".1f", 1),
    Measure("ROUGE-L", "ROUGE-L", _near("rouge_l"), ".1f", 1),
    Measure("参考答案的损失", "loss, nats a token", _loss("nats_per_token"), ".3f", -1),
    Measure("每字比特数", "bits a character", _loss("bits_per_char"), ".3f", -1),
    Measure("被截断", "cut off", lambda figures: figures.cut, ".1%", -1),
    Measure("重复", "repetitive", lambda figures: figures.repetitive, ".1%", -1),
    Measure("重复的 4 元组", "repeated 4-grams", lambda figures: figures.repeated, ".1%", -1),
    Measure("空回答", "empty", lambda figures: figures.empty, ".1%", -1),
    Measure("平均字数", "mean characters", lambda figures: figures.mean_chars, ".0f", 0),
)


def lines(comparison: Comparison) -> list[Line]:
    """Returns the lines that have a value."""
    found = [_line(measure, comparison) for measure in MEASURES]
    return [line for line in found if line.values["tuned"]]


def _line(measure: Measure, comparison: Comparison) -> Line:
    values = {name: measure.get(figures) for name, figures in comparison.figures.items()}
    shown = {
        name: "" if value is None else format(value, measure.form) for name, value in values.items()
    }
    tuned, base = values["tuned"], values.get("base")
    if tuned is None or base is None:
        return Line(measure, shown, "", 0)
    difference = signed(tuned - base, measure.form)
    is_same = not any(digit in difference for digit in "123456789")
    direction = 1 if tuned > base else -1
    return Line(measure, shown, difference, 0 if is_same else direction * measure.better)


def signed(value: float, form: str) -> str:
    """Returns a number with its sign; what is rounded to zero has none."""
    text = format(abs(value), form)
    if not any(digit in text for digit in "123456789"):
        return text
    return f"{'+' if value > 0 else MINUS}{text}"


def contest_zh(contest: Contest) -> str:
    """Returns who is ahead, in Chinese."""
    return (
        f"胜 {contest.wins}，平 {contest.ties}，负 {contest.losses}；chrF 平均 "
        f"{signed(contest.mean_gain, '.2f')}（95% 区间 {signed(contest.low, '.2f')} 到 "
        f"{signed(contest.high, '.2f')}），符号检验 p={contest.p_value:.2g}："
        f"{VERDICTS[contest.verdict][0]}"
    )


def probe_zh(probe: Probe) -> str:
    """Returns what was forgotten, in Chinese."""
    text = (
        f"{signed(probe.forgetting, '.3f')} nat/token，KL {probe.kl:.3f}"
        f"（日常问答的 {probe.num_tokens} 个 token）"
    )
    return f"{text}；{alike_zh(probe)}" if probe.rows else text


def alike_zh(probe: Probe) -> str:
    """Returns how alike the answers to the everyday questions are, in Chinese."""
    return f"{len(probe.rows)} 个回答和底座相似 chrF {probe.alike:.0f}，相同 {probe.same:.0%}"


def alike_en(probe: Probe) -> str:
    """Returns the same in English."""
    return (
        f"{len(probe.rows)} answers are like the base's by chrF {probe.alike:.0f}, "
        f"{probe.same:.0%} the same"
    )


def data_zh(comparison: Comparison) -> str:
    """Returns where the questions are from and what became of the rows, in Chinese."""
    asking = comparison.asking
    asked = f"问了 {len(comparison.rows)} 个"
    left_out = _reasons(comparison, "；未取：", REASONS)
    if not comparison.has_references:
        return f"{asking.source}：{asked}{left_out}"
    held = f"{asking.source}：{asking.rows_in} 行里留出 {asking.held_out} 个不同的问题"
    return f"{held}，{asked}{left_out}"


def data_en(comparison: Comparison) -> str:
    """Returns the same in English."""
    asking = comparison.asking
    asked = f"{len(comparison.rows)} asked"
    left_out = _reasons(comparison, "; not taken: ", {})
    if not comparison.has_references:
        return f"{asking.source}: {asked}{left_out}"
    held = f"{asking.source}: {asking.held_out} held-out questions in {asking.rows_in} rows"
    return f"{held}, {asked}{left_out}"


def _reasons(comparison: Comparison, before: str, names: Mapping[str, str]) -> str:
    left_out = comparison.asking.left_out
    found = [f"{names.get(name, name)} {count}" for name, count in left_out.items()]
    return f"{before}{('、' if names else ', ').join(found)}" if found else ""


def picked(rows: Sequence[Row], show: int) -> list[tuple[str, list[Row]]]:
    """Returns some rows under headings: largest gains, largest losses, and some in between.

    Rows are chosen by `gain`; where there is none the first ones are taken.
    """
    if not show:
        return []
    gained = sorted((row for row in rows if row.gain is not None), key=lambda row: -(row.gain or 0))
    if not gained:
        return [("前", list(rows[:show]))]
    if show >= len(gained):
        return [("全部", gained)]
    num_best, num_worst = -(-show // 3), show // 3
    best, worst = gained[:num_best], gained[len(gained) - num_worst :][::-1]
    rest = gained[num_best : len(gained) - num_worst]
    num_rest = show - num_best - num_worst
    start = (len(rest) - num_rest) // 2
    groups = [
        ("进步最大的" if best[0].outcome == "win" else "最好的", best),
        ("退步最大的" if worst and worst[0].outcome == "loss" else "进步最小的", worst),
        ("居中的", rest[start : start + num_rest]),
    ]
    return [(name, some) for name, some in groups if some]
