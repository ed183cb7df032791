"""A comparison as one page: no script, nothing from outside, light or dark as the reader has it.

In: a `Comparison`. Out: HTML. Every text of a model, a file or a setting is made safe to show and
escaped; the page itself forbids scripts and loads.
"""

from collections.abc import Iterable, Iterator
from html import escape

from chatlm.comparison import columns
from chatlm.comparison.columns import OUTCOMES, SIDES
from chatlm.comparison.metrics import is_chinese
from chatlm.comparison.result import Comparison, Probe, Row, Said
from chatlm.comparison.style import CSS
from chatlm.comparison.verdicts import Contest
from chatlm.sanitize import sanitize

NOTABLE = 0.05
"""Nats a token; a smaller change is shown without a colour."""
_HEAD = """<!doctype html>
<html lang="zh-CN">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
"""


def render(comparison: Comparison) -> str:
    """Returns the page."""
    parts = [
        _HEAD,
        f"<title>{_safe(comparison.model)} · 并排比较</title>\n<style>{CSS}</style>\n</head>\n",
        "<body>\n<main>\n",
        *_header(comparison),
        *_cards(comparison),
        *_table(comparison),
        *_rows(comparison),
        *_probe_rows(comparison.probe),
        *_footer(comparison),
        "</main>\n</body>\n</html>\n",
    ]
    return "".join(parts)


def _safe(text: str) -> str:
    return escape(sanitize(text))


def _heading(zh: str, en: str) -> str:
    return f"<h2>{zh}<small>{en}</small></h2>\n"


def _text(text: str, kind: str = "text") -> str:
    language = "zh" if is_chinese(text) else "en"
    shown = _safe(text) or '<span class="soft">（空 empty）</span>'
    return f'<p class="{kind}" lang="{language}">{shown}</p>'


def _header(comparison: Comparison) -> Iterator[str]:
    yield '<header>\n<p class="kicker">ChatLM · 并排比较 side by side</p>\n'
    yield f"<h1>{_safe(comparison.model)}</h1>\n"
    if comparison.base:
        yield f"<p>底座 <small>base</small> <code>{_safe(comparison.base)}</code></p>\n"
    yield f'<p class="soft">{_safe(columns.data_zh(comparison))}</p>\n'
    yield f'<p class="soft" lang="en">{_safe(columns.data_en(comparison))}</p>\n</header>\n'
    for note in comparison.notes:
        yield f'<div class="note"><p>{_safe(note.zh)}</p>'
        yield f'<p class="soft" lang="en">{_safe(note.en)}</p></div>\n'


def _cards(comparison: Comparison) -> Iterator[str]:
    if not comparison.contest and not comparison.probe:
        return
    yield '<div class="cards">\n'
    if comparison.contest:
        yield from _contest(comparison.contest)
    if comparison.probe:
        yield from _forgetting(comparison.probe)
    yield "</div>\n"


def _contest(contest: Contest) -> Iterator[str]:
    zh, en = columns.VERDICTS[contest.verdict]
    yield f'<section class="card {contest.verdict}">\n{_heading("胜负", "wins and losses")}'
    yield f'<p class="big">{columns.signed(contest.mean_gain, ".2f")}'
    yield "<small>chrF，平均 mean</small></p>\n"
    yield f'<p>{zh}<br><span class="soft" lang="en">{en}</span></p>\n'
    yield _interval(contest)
    counts = {"win": contest.wins, "tie": contest.ties, "loss": contest.losses}
    bars = "".join(f'<i class="{name}" style="flex:{count}"></i>' for name, count in counts.items())
    yield f'<div class="split">{bars}</div>\n<div class="legend">'
    for name, count in counts.items():
        label = " ".join(OUTCOMES[name])
        yield f'<span><i class="dot {name}"></i>{label} {count}</span>'
    yield f"<span>符号检验 sign test p = {contest.p_value:.2g}</span></div>\n</section>\n"


def _interval(contest: Contest) -> str:
    """Returns a picture of the interval against zero, in the middle."""
    reach = 1.15 * max(abs(contest.low), abs(contest.high), 1.0)
    low, mean, high = (
        50 + 50 * value / reach for value in (contest.low, contest.mean_gain, contest.high)
    )
    ends = f"{columns.signed(contest.low, '.2f')} … {columns.signed(contest.high, '.2f')}"
    return (
        f'<div class="range"><b></b><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<u style="left:{mean:.1f}%"></u></div>\n'
        f'<p class="soft">95% 区间 interval {ends}</p>\n'
    )


def _forgetting(probe: Probe) -> Iterator[str]:
    kind = "open" if abs(probe.forgetting) < NOTABLE else "worse"
    kind = "better" if probe.forgetting <= -NOTABLE else kind
    yield f'<section class="card {kind}">\n{_heading("遗忘", "forgetting")}'
    yield f'<p class="big">{columns.signed(probe.forgetting, ".3f")}'
    yield f"<small>nat/token，KL {probe.kl:.3f}</small></p>\n"
    yield (
        f"<p>日常问答的 {probe.num_tokens} 个 token：底座 {probe.nats_base:.3f}，微调后 "
        f"{probe.nats_tuned:.3f} nat/token</p>\n"
        f'<p class="soft" lang="en">{probe.num_tokens} tokens of everyday answers: above 0 the '
        "tuned model finds them less likely than its base</p>\n"
    )
    if probe.rows:
        yield f"<p>{columns.alike_zh(probe)}</p>\n"
        yield f'<p class="soft" lang="en">{columns.alike_en(probe)}</p>\n'
    yield "</section>\n"


def _table(comparison: Comparison) -> Iterator[str]:
    names = [name for name in SIDES if name in comparison.figures]
    heads = [(name, *SIDES[name]) for name in names]
    if "base" in names:
        heads.insert(names.index("base") + 1, ("difference", "差", "difference"))
    yield f'{_heading("指标", "figures")}<div class="scroll"><table>\n<thead><tr><th></th>'
    yield "".join(f"<th>{zh}<small>{en}</small></th>" for _, zh, en in heads)
    yield "</tr></thead>\n<tbody>\n"
    for line in columns.lines(comparison):
        measure = line.measure
        english = "" if measure.zh == measure.en else f"<small>{measure.en}</small>"
        yield f"<tr><th>{measure.zh}{english}</th>"
        for name, _, _ in heads:
            trend = {1: ' class="up"', 0: "", -1: ' class="down"'}[line.trend]
            is_difference = name == "difference"
            value = line.difference if is_difference else line.values[name]
            yield f"<td{trend if is_difference else ''}>{value}</td>"
        yield "</tr>\n"
    yield "</tbody></table></div>\n"


def _rows(comparison: Comparison) -> Iterator[str]:
    rows = comparison.rows
    yield f'{_heading("回答", "answers")}<div class="answers">\n'
    if comparison.contest:
        counts = {name: sum(row.outcome == name for row in rows) for name in OUTCOMES}
        labels = {"all": ("全部", "all")} | OUTCOMES
        for name in labels:
            checked = " checked" if name == "all" else ""
            yield f'<input class="pick" type="radio" name="pick" id="{name}"{checked}>'
        yield '\n<div class="tabs">'
        for name, label in labels.items():
            count = counts.get(name, len(rows))
            yield f'<label for="{name}">{" ".join(label)} {count}</label>'
        yield "</div>\n"
        rows = sorted(rows, key=lambda row: -(row.gain or 0))
    for row in rows:
        yield from _row(row)
    yield "</div>\n"


def _row(row: Row) -> Iterator[str]:
    yield f'<article class="row {row.outcome}">\n<div class="ask">{_text(row.question)}'
    if row.gain is not None:
        kind = {"win": "up", "loss": "down"}.get(row.outcome, "soft")
        label = OUTCOMES[row.outcome][0]
        yield f'<span class="gain {kind}">{label} {columns.signed(row.gain, ".1f")}</span>'
    yield '</div>\n<div class="said">\n'
    yield _said("tuned", row.tuned.answer.text, _tags(row.tuned))
    if row.base:
        yield _said("base", row.base.answer.text, _tags(row.base))
    if row.references:
        yield _said("reference", "\n\n".join(row.references), ())
    yield "</div>\n</article>\n"


def _said(side: str, text: str, tags: Iterable[str]) -> str:
    zh, en = SIDES[side]
    return (
        f'<div class="{side}"><p class="who">{zh} <small>{en}</small></p>{_text(text)}'
        f"{''.join(tags)}</div>\n"
    )


def _tags(said: Said) -> Iterator[str]:
    if near := said.nearness:
        yield f'<span class="tag">chrF {near.chrf:.1f}</span>'
        yield f'<span class="tag">BLEU {near.bleu4:.1f}</span>'
        yield f'<span class="tag">ROUGE-L {near.rouge_l:.1f}</span>'
    if said.is_repetitive:
        yield '<span class="tag bad">⟳ 重复 repetitive</span>'
    if said.answer.is_cut:
        yield '<span class="tag bad">✂ 截断 cut off</span>'


def _probe_rows(probe: Probe | None) -> Iterator[str]:
    if not probe or not probe.rows:
        return
    count = len(probe.rows)
    yield f"<details><summary>日常问题的回答 everyday questions ({count})</summary>\n"
    for row in probe.rows:
        yield f'<article class="row">\n<div class="ask">{_text(row.question)}'
        yield f'<span class="gain soft">相似 alike {row.alike:.0f}</span></div>\n'
        yield '<div class="said">\n'
        yield _said("tuned", row.tuned, ())
        yield _said("base", row.base, ())
        yield _said("reference", row.reference, ())
        yield "</div>\n</article>\n"
    yield "</details>\n"


def _footer(comparison: Comparison) -> Iterator[str]:
    settings = ", ".join(f"{key}={value}" for key, value in comparison.settings.items())
    yield f'<footer class="soft">\n<p>设置 settings: <code>{_safe(settings)}</code></p>\n'
    if comparison.asking.sha256:
        yield f"<p>数据 data sha256: <code>{_safe(comparison.asking.sha256)}</code></p>\n"
    yield (
        "<p>chrF、BLEU-4：sacrebleu（有汉字的行按字切，其余按 13a 切）；ROUGE-L：按字和词；"
        "表中的 chrF 和 BLEU 是所有行合起来算的，胜负按每行的 chrF，相差 1 以上才算。"
        "一个问题有几个参考答案时：chrF、BLEU、ROUGE-L 和它们一起比，损失和比特数把每个参考答案的"
        "每个 token（连同结尾）同样计入，和训练时的验证损失一样。"
        "重复：结尾循环，或三成以上的 4 元组出现过。</p>\n"
        '<p lang="en">chrF and BLEU-4 by sacrebleu (rows with Han characters cut by character, '
        "others by 13a); ROUGE-L of characters and words. The table counts all rows together; wins "
        "are row by row, by more than 1 point of chrF. Where a question has several references, "
        "chrF, BLEU and ROUGE-L are against all of them; loss and bits count each token of each "
        "reference alike, ends included, as the validation loss of a training does. Repetitive: "
        "ends in a loop, or repeats "
        "over 30 % of its 4-grams.</p>\n</footer>\n"
    )
