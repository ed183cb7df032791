"""Raw corpora into training data: the policy, and the commands that apply it.

    python -m utils.raw_data_process clean [raw=data/raw] [clean=data/clean] [sources=a,b]
    python -m utils.raw_data_process build [clean=data/clean] [out=data] [sources=a,b] [seed=0]
    python -m utils.raw_data_process stats [clean=data/clean] [sources=a,b]

In: `data/raw/<source>/`. Out: `data/clean/` and `data/rejects/`, then train, valid and test.
The facts about each corpus stand in `chatlm.corpus.sources`; what is asked of it stands here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from chatlm import cli, log
from chatlm.corpus import pipeline
from chatlm.corpus.pipeline import LENGTH_BOUNDS, Recipe, SourceStats
from chatlm.corpus.sources import SOURCES, Source, files_of
from chatlm.corpus.split import SplitSizes
from chatlm.errors import ConfigError, DataError

POLICY: dict[str, Recipe] = {
    # Answers below 10 characters are mostly jokes and thanks. The publisher's floor of 3 stars
    # stays: asking for 5 costs a third of the corpus for no measured gain.
    "webtext2019zh": Recipe(
        min_prompt_chars=4,
        min_response_chars=10,
        min_votes=3,
        min_han_share=0.5,
        min_unended_chars=100,
    ),
    "baike_qa2019": Recipe(
        min_prompt_chars=4, min_response_chars=4, min_han_share=0.5, min_unended_chars=100
    ),
    "medical": Recipe(
        min_prompt_chars=4, min_response_chars=4, min_han_share=0.5, min_unended_chars=100
    ),
    "zhihu_kol": Recipe(
        min_prompt_chars=4,
        min_response_chars=10,
        min_votes=1,
        min_han_share=0.5,
        min_unended_chars=100,
    ),
    # Short answers, no drawn tables, no translation. Code is welcome, so few letters need be Han.
    "belle": Recipe(
        min_response_chars=1,
        min_han_share=0.1,
        drop=("identical", "translation_task", "table"),
    ),
    "alpaca_zh": Recipe(min_han_share=0.1, drop=("identical", "translation_task", "table")),
    # An English word takes several characters where Chinese takes one or two.
    "alpaca_en": Recipe(
        max_prompt_chars=1500,
        max_response_chars=1500,
        drop=("identical", "translation_task", "table"),
    ),
    "zhwiki": Recipe(min_response_chars=20, min_han_share=0.4, min_unended_chars=1),
    "pairs": Recipe(min_prompt_chars=1),
    "finance": Recipe(
        policy="the answers are too poor: advertisements, fragments and phone numbers; "
        "Chat-LM-small cleaned this corpus and then left it out as well"
    ),
}
"""Which corpora, which filters, which thresholds. The order is the order of trust: of two equal
pairs the one of the earlier corpus stays."""


@dataclass(frozen=True)
class CleanSettings:
    """Settings of `clean`."""

    raw: str = field(default="data/raw", metadata={"help": "folder with one folder a source"})
    clean: str = field(default="data/clean", metadata={"help": "where clean parquet files go"})
    sources: str = field(default="", metadata={"help": "names, comma between; default all found"})


@dataclass(frozen=True)
class BuildSettings:
    """Settings of `build`."""

    clean: str = field(default="data/clean", metadata={"help": "folder with clean parquet files"})
    out: str = field(default="data", metadata={"help": "where train, valid and test go"})
    sources: str = field(default="", metadata={"help": "names, comma between; default all found"})
    seed: int = field(default=0, metadata={"help": "another seed, another split and order"})
    valid_rows: int = field(default=25_000, metadata={"help": "validation rows at most"})
    test_rows: int = field(default=25_000, metadata={"help": "test rows at most"})
    max_percent: int = field(default=1, metadata={"help": "of all rows, for each of the two"})


@dataclass(frozen=True)
class StatsSettings:
    """Settings of `stats`."""

    clean: str = field(default="data/clean", metadata={"help": "folder with clean parquet files"})
    sources: str = field(default="", metadata={"help": "names, comma between; default all found"})


def clean(argv: Sequence[str]) -> int:
    """Cleans every source that is present; returns 0, or raises when one could not be done."""
    settings = cli.parse(argv, CleanSettings)
    raw_dir, clean_dir = Path(settings.raw), Path(settings.clean)
    if not raw_dir.is_dir():
        raise DataError(f"{raw_dir}: no such folder; put raw files in {raw_dir}/<source>/")
    failures, absent, num_done = list[str](), list[str](), 0
    for source in _chosen(settings.sources):
        try:
            files = files_of(source, raw_dir)
            if files:
                pipeline.clean(source, files, POLICY[source.name], clean_dir)
                num_done += 1
            else:
                absent.append(source.name)
        except DataError as error:
            # One damaged corpus must not cost the others; its earlier output is untouched.
            failures.append(str(error))
    if not num_done and not failures:
        raise DataError(
            f"{raw_dir}: no raw files; expected {raw_dir}/<source>/ for one of "
            f"{', '.join(absent)} (see data/README.md)"
        )
    if absent:
        log.info(f"clean: not in {raw_dir}: {', '.join(absent)}")
    for failure in failures[:-1]:
        log.warning(failure)
    if failures:
        raise DataError(
            f"{len(failures)} of {num_done + len(failures)} sources failed: {failures[-1]}"
        )
    return 0


def build(argv: Sequence[str]) -> int:
    """Builds the three parts from the clean files; returns 0."""
    settings = cli.parse(argv, BuildSettings)
    clean_dir = Path(settings.clean)
    pipeline.build(
        clean_dir,
        Path(settings.out),
        sources=_cleaned(settings.sources, clean_dir),
        seed=settings.seed,
        sizes=SplitSizes(settings.valid_rows, settings.test_rows, settings.max_percent),
    )
    return 0


def stats(argv: Sequence[str]) -> int:
    """Prints counts beside the published ones, reasons, and length histograms; returns 0."""
    settings = cli.parse(argv, StatsSettings)
    clean_dir = Path(settings.clean)
    rows = pipeline.stats(clean_dir, _cleaned(settings.sources, clean_dir))
    console = Console()
    for table in (_counts_table(rows), _reasons_table(rows), _lengths_table(rows)):
        console.print(table)
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "clean": clean,
    "build": build,
    "stats": stats,
}


def main(argv: Sequence[str]) -> int:
    """Runs one command; returns its exit status.

    Raises:
        ConfigError: No such command.
    """
    if argv and argv[0] in ("-h", "--help", "help"):
        print(__doc__)
        for name, schema in zip(
            COMMANDS, (CleanSettings, BuildSettings, StatsSettings), strict=True
        ):
            print(f"{name}\n{cli.help_text(schema)}")
        return 0
    if not argv or argv[0] not in COMMANDS:
        found = f"'{argv[0]}'" if argv else "nothing"
        raise ConfigError(
            f"raw_data_process: expected a command ({', '.join(COMMANDS)}), found {found}"
        )
    return COMMANDS[argv[0]](argv[1:])


def _chosen(names: str) -> list[Source]:
    """Returns the named sources, or all, in the order of the policy."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in POLICY]
    if unknown:
        raise ConfigError(f"sources: no {', '.join(unknown)}; there are {', '.join(POLICY)}")
    return [SOURCES[name] for name in POLICY if name in wanted or not wanted]


def _cleaned(names: str, clean_dir: Path) -> list[str]:
    """Returns the named sources, or all that have a clean file, in the order of the policy."""
    chosen = [source.name for source in _chosen(names)]
    return chosen if names else [n for n in chosen if (clean_dir / f"{n}.parquet").is_file()]


def _counts_table(rows: Sequence[SourceStats]) -> Table:
    table = Table("source", "rows in", "kept", "dropped", "published", "kept by Chat-LM-small")
    for row in rows:
        source = SOURCES[row.name]
        published = (source.published_raw, source.published_kept)
        numbers = (row.rows_in, row.kept, sum(row.dropped.values()), *published)
        table.add_row(row.name, *("-" if n is None else f"{n:,}" for n in numbers))
    return table


def _reasons_table(rows: Sequence[SourceStats]) -> Table:
    table = Table("source", "", "reason or rule", "rows or texts")
    for row in rows:
        for kind, numbers in (("dropped", row.dropped), ("changed", row.modified)):
            for name, number in sorted(numbers.items(), key=lambda item: -item[1]):
                table.add_row(row.name, kind, name, f"{number:,}")
    return table


def _lengths_table(rows: Sequence[SourceStats]) -> Table:
    bounds = [f"<{bound}" for bound in LENGTH_BOUNDS]
    table = Table("source", "characters of", *bounds, f"{LENGTH_BOUNDS[-1]}+")
    for row in rows:
        for column, numbers in (
            ("prompt", row.prompt_lengths),
            ("response", row.response_lengths),
        ):
            table.add_row(row.name, column, *(f"{number:,}" for number in numbers))
    return table


if __name__ == "__main__":
    cli.run(main)
