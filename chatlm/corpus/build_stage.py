"""From clean corpora to `train`, `valid` and `test`.

In: cleaned corpora, best first. Out: `train.parquet`, `valid.parquet`, `test.parquet` and
`manifest.json` in one folder. Near duplicates are dropped, questions that are alike stay in one
part, and the order is a hash of the row. The files are a function of the rows, the order of the
sources and the settings: not of workers, shards or machines. It holds no policy and asks nothing.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chatlm import log
from chatlm.corpus import store
from chatlm.corpus.clean_stage import CleanSource, open_clean
from chatlm.corpus.counts import Counts
from chatlm.corpus.duplicates.decide import Decisions, DuplicateSettings, decide
from chatlm.corpus.duplicates.shards import save
from chatlm.corpus.shuffle import bucket_bits, mix
from chatlm.corpus.split import PARTS, SplitSizes, assign
from chatlm.corpus.tasks import Engine, Task, code_sha256
from chatlm.errors import DataError

DROPPED = -1
MANIFEST = "manifest.json"
_SHUFFLE = "chatlm.corpus.shuffle"


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What a build is asked for.

    Attributes:
        seed: Another seed gives another split and another order.
        sizes: How much to hold out.
        duplicates: What counts as a duplicate.
    """

    seed: int = 0
    sizes: SplitSizes = field(default_factory=SplitSizes)
    duplicates: DuplicateSettings = field(default_factory=DuplicateSettings)


def build(
    clean_dir: Path,
    sources: Sequence[str],
    out_dir: Path,
    settings: BuildSettings | None = None,
    engine: Engine | None = None,
) -> Counts:
    """Removes duplicates, splits by question, shuffles, and writes the three parts.

    Args:
        clean_dir: Folder of cleaned corpora.
        sources: Their names, best first: of two equal rows the one of the earlier corpus stays.
        out_dir: Where the parts go; earlier ones are replaced when all are complete.
        settings: See there.
        engine: Where the tasks run.

    Raises:
        DataError: There is nothing to read, or a file is damaged.
    """
    settings, engine = settings or BuildSettings(), engine or Engine()
    corpora = [open_clean(clean_dir, name) for name in sources]
    if not corpora:
        raise DataError(f"{clean_dir}: no clean corpora; run clean first")
    work = work_folder(out_dir)
    with store.locked(out_dir):
        store.remove_unfinished(out_dir, work)
        shards = _checked(corpora, engine)
        decided = decide(shards, work, engine, settings.duplicates)
        if not decided.num_rows:
            raise DataError(f"{clean_dir}: no rows in {', '.join(sources)}")
        questions = [[file, line] for file, line in decided.questions]
        store.write_json(work / "decisions" / "questions.json", {"questions": questions})
        rows = _split(decided, settings)
        paths = _write_parts(decided, rows, work, engine)
        counts = _counts(decided)
        written = {
            part: {"rows": rows[number], "sha256": engine.sha256(str(path))}
            for number, (part, path) in enumerate(zip(PARTS, paths, strict=True))
        }
        _publish(paths, out_dir)
        store.write_json(
            out_dir / MANIFEST,
            {
                "sources": [_source_entry(corpus) for corpus in corpora],
                "settings": asdict(settings),
                "code_sha256": code_sha256(),
                "counts": counts.as_dict(),
                "parts": written,
            },
        )
        _tidy(work, decided)
    named = ", ".join(f"{name} {part['rows']:,}" for name, part in written.items())
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in counts.dropped.most_common())
    log.info(f"build: {counts.rows_in:,} rows in; {reasons or 'none dropped'}; {named}")
    return counts


def work_folder(out_dir: Path) -> Path:
    """Returns where a build keeps what it decided about every row."""
    return out_dir / "work"


def check_shards(paths: Sequence[str], sha256: Sequence[str]) -> dict[str, Any]:
    """Task: refuses shards that are not what `clean` wrote.

    Raises:
        DataError: One is missing or has changed.
    """
    for path, expected in zip(paths, sha256, strict=True):
        try:
            found = store.file_sha256(Path(path))
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); run clean again"
            ) from error
        if found != expected:
            raise DataError(f"{path}: has changed since clean wrote it; run clean again")
    return {}


def _checked(corpora: Sequence[CleanSource], engine: Engine) -> list[Path]:
    """Returns all shards, after their hashes were compared with the manifests."""
    shards, known = list[Path](), dict[str, str]()
    tasks = list[Task]()
    for corpus in corpora:
        sha256 = [shard["rows"]["sha256"] for shard in corpus.manifest["shards"]]
        paths = [str(path) for path in corpus.shards]
        known |= dict(zip(paths, sha256, strict=True))
        shards += corpus.shards
        tasks.append(
            Task(
                name=f"check/{corpus.name}",
                function="chatlm.corpus.build_stage:check_shards",
                params={"paths": paths, "sha256": sha256},
                weight=corpus.counts.kept,
            )
        )
    engine.run(tasks, "check clean files")
    engine.know(known)
    return shards


def _split(decided: Decisions, settings: BuildSettings) -> list[int]:
    """Writes the part of every row beside the other decisions; returns the rows of each part."""
    kept, clusters = decided.kept(), decided.clusters()
    num_valid, num_test = settings.sizes.rows(int(kept.sum()))
    parts = np.full(len(kept), DROPPED, np.int8)
    parts[kept] = assign(mix(clusters[kept], settings.seed), num_valid, num_test)
    start = 0
    for shard in decided.shards:
        end = start + shard.num_rows
        save(f"{shard.folder}/parts.npy", parts[start:end])
        keys = np.load(shard.folder / "order.npy")
        save(f"{shard.folder}/keys.npy", mix(keys, settings.seed))
        start = end
    return [int((parts == number).sum()) for number in range(len(PARTS))]


def _write_parts(decided: Decisions, rows: Sequence[int], work: Path, engine: Engine) -> list[Path]:
    """Shuffles the kept rows and writes the parts into the work folder; returns their paths."""
    bits = [bucket_bits(number) for number in rows]
    folder = work / "shuffle"
    deals = [
        Task(
            name=f"shuffle/deal-{number:05}",
            function=f"{_SHUFFLE}:deal",
            params={
                "shard": str(shard.path),
                "parts": str(shard.folder / "parts.npy"),
                "keys": str(shard.folder / "keys.npy"),
                "bits": bits,
                "out": (out := str(folder / f"dealt-{number:05}.arrow")),
            },
            inputs=(
                str(shard.path),
                str(shard.folder / "parts.npy"),
                str(shard.folder / "keys.npy"),
            ),
            outputs=(out,),
            weight=shard.num_rows,
        )
        for number, shard in enumerate(decided.shards)
    ]
    dealt = engine.run(deals, "deal rows into buckets")
    buckets: list[list[list[list[Any]]]] = [[[] for _ in range(1 << width)] for width in bits]
    for task, result in zip(deals, dealt, strict=True):
        for index, (part, bucket) in enumerate(result["batches"]):
            buckets[part][bucket].append([task.outputs[0], index])
    gathers = [
        Task(
            name=f"shuffle/gather-{PARTS[part]}-{bucket:05}",
            function=f"{_SHUFFLE}:gather",
            params={
                "fragments": fragments,
                "out": (out := str(folder / f"{PARTS[part]}-{bucket:05}.arrow")),
            },
            inputs=tuple(path for path, _ in fragments),
            outputs=(out,),
        )
        for part, of_part in enumerate(buckets)
        for bucket, fragments in enumerate(of_part)
    ]
    engine.run(gathers, "sort buckets")
    writes = [
        Task(
            name=f"shuffle/{part}",
            function=f"{_SHUFFLE}:write_part",
            params={
                "buckets": (
                    sorted_buckets := [
                        str(folder / f"{part}-{bucket:05}.arrow")
                        for bucket in range(1 << bits[number])
                    ]
                ),
                "out": (out := str(work / f"{part}.parquet")),
            },
            inputs=tuple(sorted_buckets),
            outputs=(out,),
            weight=rows[number] + 1,
        )
        for number, part in enumerate(PARTS)
    ]
    for part, expected, result in zip(PARTS, rows, engine.run(writes, "write parts"), strict=True):
        if result["rows_in"] != expected:
            raise RuntimeError(f"build {part}: {result['rows_in']} of {expected} rows written")
    return [Path(task.outputs[0]) for task in writes]


def _counts(decided: Decisions) -> Counts:
    counts = Counts(rows_in=decided.num_rows, kept=int(decided.kept().sum()))
    counts.dropped.update(decided.dropped)
    counts.check("build")
    return counts


def _publish(paths: Sequence[Path], out_dir: Path) -> None:
    """Puts the finished parts in place of the earlier ones, whose manifest goes first."""
    (out_dir / MANIFEST).unlink(missing_ok=True)
    for path in paths:
        target = out_dir / path.name
        if target.exists() and target.samefile(path):
            # A run that was killed had come so far, and renaming a link onto its twin does nothing.
            continue
        linked = out_dir / f".{path.name}.{os.getpid()}.tmp"
        os.link(path, linked)
        linked.replace(target)
    store.sync_folder(out_dir)


def _source_entry(corpus: CleanSource) -> dict[str, Any]:
    return {
        "name": corpus.name,
        "licence": corpus.manifest["licence"],
        "manifest_sha256": store.file_sha256(corpus.folder / MANIFEST),
        "counts": corpus.manifest["counts"],
    }


def _tidy(work: Path, decided: Decisions) -> None:
    """Removes what only the run itself needed; the decisions stay for `explain`."""
    keep = {shard.folder.parent for shard in decided.shards}
    for path in work.iterdir():
        if path in keep:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
