"""Statistics of corpora as tables for a terminal.

In: `SourceStats`. Out: rich tables; whoever asked for them prints them.
"""

from collections.abc import Sequence

from rich.table import Table

from chatlm.corpus.sources import SOURCES
from chatlm.corpus.statistics import LENGTH_BOUNDS, SourceStats


def counts_table(rows: Sequence[SourceStats]) -> Table:
    """Returns rows in, kept and dropped, beside the published counts."""
    table = Table("source", "rows in", "kept", "dropped", "published", "kept by Chat-LM-small")
    for row in rows:
        source, counts = SOURCES[row.name], row.counts
        published = (source.published_raw, source.published_kept)
        numbers = (counts.rows_in, counts.kept, counts.dropped.total(), *published)
        table.add_row(row.name, *("-" if n is None else f"{n:,}" for n in numbers))
    return table


def reasons_table(rows: Sequence[SourceStats]) -> Table:
    """Returns how many rows each reason dropped and how many texts each rule changed."""
    table = Table("source", "", "reason or rule", "rows or texts")
    for row in rows:
        for kind, numbers in (("dropped", row.counts.dropped), ("changed", row.counts.modified)):
            for name, number in numbers.most_common():
                table.add_row(row.name, kind, name, f"{number:,}")
    return table


def lengths_table(rows: Sequence[SourceStats]) -> Table:
    """Returns histograms of the lengths in characters, with bars."""
    bounds = [f"<{bound}" for bound in LENGTH_BOUNDS]
    table = Table("source", "characters of", *bounds, f"{LENGTH_BOUNDS[-1]}+")
    for row in rows:
        for column, numbers in (
            ("prompt", row.prompt_lengths),
            ("response", row.response_lengths),
        ):
            most = max(numbers) or 1
            cells = (f"{number:,} {_bar(number / most)}" for number in numbers)
            table.add_row(row.name, column, *cells)
    return table


def _bar(share: float) -> str:
    """Returns a block whose height, in eighths, shows a share."""
    return "▁▂▃▄▅▆▇█"[min(7, int(share * 8))] if share else " "
