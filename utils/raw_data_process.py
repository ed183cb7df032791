"""Raw corpora into training data: the policy, and the commands that apply it.

    python -m utils.raw_data_process download [raw=data/raw] [sources=a,b] [mirror=folder]
    python -m utils.raw_data_process clean [raw=data/raw] [clean=data/clean] [sources=a,b]
    python -m utils.raw_data_process build [clean=data/clean] [out=data] [sources=a,b] [seed=0]
    python -m utils.raw_data_process stats [clean=data/clean] [sources=a,b]
    python -m utils.raw_data_process verify [clean=data/clean] [out=data]
    python -m utils.raw_data_process explain row=train:17 | row=belle/train_2M_CN.json:123

In: `data/raw/<source>/`. Out: `data/clean/` and `data/rejects/`, then train, valid and test.
The facts about each corpus stand in `chatlm.corpus.sources`; what is asked of it stands here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from chatlm import cli, log
from chatlm.corpus import build_stage, clean_stage, download, history, statistics, tables, verify
from chatlm.corpus.build_stage import BuildSettings
from chatlm.corpus.clean_stage import CleanJob
from chatlm.corpus.duplicates.decide import DuplicateSettings
from chatlm.corpus.executors import executor_for
from chatlm.corpus.recipe import QUALITY, Recipe
from chatlm.corpus.sources import SOURCES, Source, files_of
from chatlm.corpus.split import SplitSizes
from chatlm.corpus.tasks import Engine
from chatlm.errors import ChatLMError, ConfigError, DataError

# Code with tags is what some of their questions ask for, and no one pasted it there by mistake.
_GENERATED = tuple(name for name in QUALITY if name != "markup")
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
    # Doctors wish good health at the end of every answer.
    "medical": Recipe(
        min_prompt_chars=4,
        min_response_chars=4,
        min_han_share=0.5,
        min_unended_chars=100,
        wishes=True,
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
        quality=_GENERATED,
    ),
    "alpaca_zh": Recipe(
        min_han_share=0.1,
        drop=("identical", "translation_task", "table"),
        quality=_GENERATED,
    ),
    # An English word takes several characters where Chinese takes one or two.
    "alpaca_en": Recipe(
        max_prompt_chars=1500,
        max_response_chars=1500,
        drop=("identical", "translation_task", "table"),
        quality=_GENERATED,
    ),
    # An article thanks nobody, and may be about anything.
    "zhwiki": Recipe(
        min_response_chars=20,
        min_han_share=0.4,
        min_unended_chars=1,
        quality=("mojibake", "markup", "repetition"),
        boilerplate=False,
    ),
    # What you bring is taken as given, but for private data.
    "pairs": Recipe(min_prompt_chars=1, quality=(), boilerplate=False),
    "finance": Recipe(
        policy="the answers are too poor: advertisements, fragments and phone numbers; "
        "Chat-LM-small cleaned this corpus and then left it out as well"
    ),
}
"""Which corpora, which filters, which thresholds. The order is the order of trust: of two equal
pairs the one of the earlier corpus stays."""


@dataclass(frozen=True)
class _Where:
    """Where the tasks of a command run."""

    engine: str = field(default="local", metadata={"help": "local processes or ray"})
    workers: int = field(default=0, metadata={"help": "processes; 0: one for each core"})
    address: str = field(default="", metadata={"help": "of a Ray cluster; empty: one is started"})

    def open(self, receipts: Path) -> Engine:
        """Returns the engine, which remembers finished tasks in the folder `receipts`."""
        return Engine(executor_for(self.engine, self.workers, self.address), receipts)


_SOURCES = field(default="", metadata={"help": "names, comma between; default all found"})
_CLEAN = field(default="data/clean", metadata={"help": "folder of clean corpora"})


@dataclass(frozen=True)
class DownloadSettings:
    """Settings of `download`."""

    raw: str = field(default="data/raw", metadata={"help": "folder with one folder a source"})
    sources: str = field(default="", metadata={"help": "names, comma between; default all"})
    mirror: str = field(default="", metadata={"help": "local folder <owner>/<name>/<files>"})
    only: str = field(default="", metadata={"help": "patterns of file names, comma between"})


@dataclass(frozen=True)
class CleanSettings(_Where):
    """Settings of `clean`."""

    raw: str = field(default="data/raw", metadata={"help": "folder with one folder a source"})
    clean: str = _CLEAN
    sources: str = _SOURCES
    recipe: str = field(
        default="policy",
        metadata={"help": "policy, or compat: Chat-LM-small's rules, for comparison only"},
    )


@dataclass(frozen=True)
class BuildCommandSettings(_Where):
    """Settings of `build`."""

    clean: str = _CLEAN
    out: str = field(default="data", metadata={"help": "where train, valid and test go"})
    sources: str = _SOURCES
    seed: int = field(default=0, metadata={"help": "another seed, another split and order"})
    valid_rows: int = field(default=25_000, metadata={"help": "validation rows at most"})
    test_rows: int = field(default=25_000, metadata={"help": "test rows at most"})
    max_percent: int = field(default=1, metadata={"help": "of all rows, for each of the two"})
    near: bool = field(default=True, metadata={"help": "drop near duplicates, not only equal rows"})
    evaluation: str = field(
        default="",
        metadata={"help": "folder of C-Eval or CMMLU files whose questions are kept out"},
    )


@dataclass(frozen=True)
class StatsSettings:
    """Settings of `stats`."""

    clean: str = _CLEAN
    sources: str = _SOURCES


@dataclass(frozen=True)
class VerifySettings(_Where):
    """Settings of `verify`."""

    clean: str = _CLEAN
    out: str = field(default="data", metadata={"help": "folder with train, valid and test"})


@dataclass(frozen=True)
class ExplainSettings:
    """Settings of `explain`."""

    row: str = field(default="", metadata={"help": "train:17, or source/file:line of a raw file"})
    clean: str = _CLEAN
    out: str = field(default="data", metadata={"help": "folder with train, valid and test"})


def fetch(argv: Sequence[str]) -> int:
    """Downloads what has public files, says how to get the rest, and checks it; returns 0."""
    settings = cli.parse(argv, DownloadSettings)
    raw_dir, mirror = Path(settings.raw), Path(settings.mirror) if settings.mirror else None
    only = [name.strip() for name in settings.only.split(",") if name.strip()]
    for source in _chosen(settings.sources):
        if source.name == "pairs":
            continue
        by_hand = download.instructions(source.name, raw_dir)
        if by_hand is not None:
            checked = download.check_by_hand(source.name, raw_dir)
            print(f"{by_hand} ({checked} published files there, checked)" if checked else by_hand)
            continue
        done = download.download(source.name, raw_dir, mirror=mirror, only=only)
        print(
            f"{source.name}: {len(done.files)} files, {done.num_bytes:,} bytes in "
            f"{raw_dir / source.name} ({done.num_present} were there before)"
        )
    return 0


def clean(argv: Sequence[str]) -> int:
    """Cleans every source that is present; returns 0, or raises when one could not be done."""
    settings = cli.parse(argv, CleanSettings)
    if settings.recipe not in ("policy", "compat"):
        raise ConfigError(f"recipe={settings.recipe}: there are policy and compat")
    raw_dir, clean_dir = Path(settings.raw), Path(settings.clean)
    if not raw_dir.is_dir():
        raise DataError(f"{raw_dir}: no such folder; put raw files in {raw_dir}/<source>/")
    failures, absent, jobs = list[str](), list[str](), list[CleanJob]()
    for source in _chosen(settings.sources):
        try:
            files = files_of(source, raw_dir)
        except DataError as error:
            failures.append(str(error))
            continue
        if files:
            jobs.append(CleanJob(source, files, _recipe(source, settings)))
        else:
            absent.append(source.name)
    if not jobs and not failures:
        raise DataError(
            f"{raw_dir}: no raw files; expected {raw_dir}/<source>/ for one of "
            f"{', '.join(absent)} (see data/README.md)"
        )
    # One damaged corpus must not cost the others; its earlier output is untouched.
    with settings.open(clean_dir / ".receipts") as engine:
        done = clean_stage.clean_all(jobs, clean_dir, engine)
    num_named = len(jobs) + len(failures)
    failures += [str(result) for result in done if isinstance(result, ChatLMError)]
    if absent:
        log.info(f"clean: not in {raw_dir}: {', '.join(absent)}")
    for failure in failures[:-1]:
        log.warning(failure)
    if failures:
        raise DataError(f"{len(failures)} of {num_named} sources failed: {failures[-1]}")
    return 0


def build(argv: Sequence[str]) -> int:
    """Builds the three parts from the clean files; returns 0."""
    settings = cli.parse(argv, BuildCommandSettings)
    clean_dir, out_dir = Path(settings.clean), Path(settings.out)
    asked = BuildSettings(
        settings.seed,
        SplitSizes(settings.valid_rows, settings.test_rows, settings.max_percent),
        DuplicateSettings(near=settings.near, eval_dir=settings.evaluation),
    )
    sources = _cleaned(settings.sources, clean_dir)
    with settings.open(build_stage.work_folder(out_dir) / "receipts") as engine:
        build_stage.build(clean_dir, sources, out_dir, asked, engine)
    return 0


def stats(argv: Sequence[str]) -> int:
    """Prints counts beside the published ones, reasons, and length histograms; returns 0."""
    settings = cli.parse(argv, StatsSettings)
    clean_dir = Path(settings.clean)
    rows = statistics.stats(clean_dir, _cleaned(settings.sources, clean_dir))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    for table in (
        tables.counts_table(rows),
        tables.reasons_table(rows),
        tables.lengths_table(rows),
    ):
        console.print(table)
    return 0


def check(argv: Sequence[str]) -> int:
    """Recomputes every hash and count of the manifests; returns 0 if all agree.

    Raises:
        DataError: Something does not agree; every disagreement was printed.
    """
    settings = cli.parse(argv, VerifySettings)
    clean_dir, out_dir = Path(settings.clean), Path(settings.out)
    executor = executor_for(settings.engine, settings.workers, settings.address)
    with Engine(executor) as engine:
        checked = verify.verify(clean_dir, out_dir, engine)
    for line in checked.notes:
        print(line)
    if checked.problems:
        for problem in checked.problems:
            print(problem)
        raise DataError(f"{len(checked.problems)} disagreements between files and manifests")
    return 0


def explain(argv: Sequence[str]) -> int:
    """Prints the history of one row; returns 0."""
    words = [f"row={word}" if ":" in word and "=" not in word else word for word in argv]
    settings = cli.parse(words, ExplainSettings)
    if not settings.row:
        raise ConfigError("explain: name a row: row=train:17, or row=belle/train_2M_CN.json:123")
    for line in history.explain(settings.row, Path(settings.clean), Path(settings.out)):
        print(line)
    return 0


_FILE_WIDTH = 160
"""How wide tables are in a file or a pipe, where no terminal says it."""

COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], type]] = {
    "download": (fetch, DownloadSettings),
    "clean": (clean, CleanSettings),
    "build": (build, BuildCommandSettings),
    "stats": (stats, StatsSettings),
    "verify": (check, VerifySettings),
    "explain": (explain, ExplainSettings),
}


def main(argv: Sequence[str]) -> int:
    """Runs one command; returns its exit status.

    Raises:
        ConfigError: No such command.
    """
    if argv and argv[0] in ("-h", "--help", "help"):
        print(__doc__)
        for name, (_, schema) in COMMANDS.items():
            print(f"{name}\n{cli.help_text(schema)}")
        return 0
    if not argv or argv[0] not in COMMANDS:
        found = f"'{argv[0]}'" if argv else "nothing"
        raise ConfigError(
            f"raw_data_process: expected a command ({', '.join(COMMANDS)}), found {found}"
        )
    return COMMANDS[argv[0]][0](argv[1:])


def _recipe(source: Source, settings: CleanSettings) -> Recipe:
    recipe = POLICY[source.name]
    return replace(recipe, compat=True) if settings.recipe == "compat" else recipe


def _chosen(names: str) -> list[Source]:
    """Returns the named sources, or all, in the order of the policy."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in POLICY]
    if unknown:
        raise ConfigError(f"sources: no {', '.join(unknown)}; there are {', '.join(POLICY)}")
    return [SOURCES[name] for name in POLICY if name in wanted or not wanted]


def _cleaned(names: str, clean_dir: Path) -> list[str]:
    """Returns the named sources, or all that were cleaned, in the order of the policy."""
    chosen = [source.name for source in _chosen(names)]
    if names:
        return chosen
    if not clean_dir.is_dir():
        raise DataError(f"{clean_dir}: no such folder; run clean first")
    return [name for name in chosen if name in clean_stage.cleaned_sources(clean_dir)]


if __name__ == "__main__":
    cli.run(main)
