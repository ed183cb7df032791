"""A comparison on the terminal: the table of figures, what it means, and some of the answers.

In: a `Comparison`. Out: tables of rich, as wide as the terminal. All texts are made safe to print;
long ones are shortened here, and whole in the files.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from chatlm.comparison import columns
from chatlm.comparison.columns import OUTCOMES, SIDES
from chatlm.comparison.result import Comparison, Row, Said
from chatlm.sanitize import sanitize

MOST_CHARS = 240
NARROW = 72
"""Columns below which answers stand one under the other."""
_STYLES = {1: "green", 0: "", -1: "red"}
_OUTCOME_STYLES = {"win": "green", "loss": "red", "tie": "dim", "": ""}


def show(comparison: Comparison, rows: int, console: Console | None = None) -> None:
    """Prints the figures and up to so many rows."""
    console = console or Console(highlight=False)
    console.print(_figures(comparison))
    for label, text in _remarks(comparison):
        console.print(Text.assemble((f"{label}：", "bold"), sanitize(text)))
    for title, some in columns.picked(comparison.rows, rows):
        console.print()
        console.print(Rule(Text(f"{title} {len(some)} 行", "bold"), align="left", style="dim"))
        for number, row in enumerate(some):
            if number and console.width < NARROW:
                console.print()
            console.print(_question(row))
            console.print(_answers(row, console.width))


def _figures(comparison: Comparison) -> Table:
    versus = f" ↔ {comparison.base}" if comparison.base else ""
    title = Text(sanitize(f"{comparison.model}{versus}"), "bold")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    names = [name for name in SIDES if name in comparison.figures]
    has_base = "base" in names
    for name in names:
        table.add_column(SIDES[name][0], justify="right")
        if name == "base":
            table.add_column("差", justify="right")
    for line in columns.lines(comparison):
        cells = [Text(line.values[name]) for name in names]
        if has_base:
            place = names.index("base") + 1
            cells.insert(place, Text(line.difference, _STYLES[line.trend]))
        table.add_row(line.measure.zh, *cells)
    return table


def _remarks(comparison: Comparison) -> Sequence[tuple[str, str]]:
    found = [("问题", columns.data_zh(comparison))]
    if comparison.contest:
        found.append(("胜负", columns.contest_zh(comparison.contest)))
    if comparison.probe:
        found.append(("遗忘", columns.probe_zh(comparison.probe)))
    return [*found, *(("注意", note.zh) for note in comparison.notes)]


def _question(row: Row) -> Text:
    head = Text("问 ", "bold") + Text(_short(row.question))
    if row.gain is not None:
        mark = f"  {OUTCOMES[row.outcome][0]} {columns.signed(row.gain, '.1f')}"
        head.append(mark, _OUTCOME_STYLES[row.outcome])
    return head


def _answers(row: Row, width: int) -> Table:
    cells = [("tuned", _said(row.tuned))]
    if row.base:
        cells.append(("base", _said(row.base)))
    if row.references:
        cells.append(("reference", _first(row.references)))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    if width < NARROW:
        table.box, table.show_header = None, False
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in cells:
            table.add_row(SIDES[name][0], text)
        return table
    table.expand = True
    for name, _ in cells:
        table.add_column(SIDES[name][0], ratio=1, overflow="fold")
    table.add_row(*(text for _, text in cells))
    return table


def _said(said: Said) -> Text:
    text = Text(_short(said.answer.text) or "（空）", "" if said.answer.text else "dim")
    if said.is_repetitive:
        text.append("  ⟳重复", "yellow")
    if said.answer.is_cut:
        text.append("  ✂截断", "yellow")
    return text


def _first(references: Sequence[str]) -> Text:
    """Returns the first reference, and how many more the page has."""
    text, more = Text(_short(references[0])), len(references) - 1
    return text.append(f"  另有 {more} 个", "dim") if more else text


def _short(text: str) -> str:
    safe = sanitize(text)
    return safe if len(safe) <= MOST_CHARS else f"{safe[:MOST_CHARS]}…"
