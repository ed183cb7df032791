"""What becomes of every row of the cleaned corpora.

In: clean shards, best corpus first. Out: for every row whether it is kept, or why not and because
of which other one; and of kept rows the cluster of their question, which the split keeps together,
and a key for their order. Which rows stay depends on their texts and the trust in their corpora,
not on the order of rows, on shards or on workers. It does not write the rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatlm.corpus.duplicates import evaluation
from chatlm.corpus.duplicates.exact import group_tasks
from chatlm.corpus.duplicates.near import connect
from chatlm.corpus.duplicates.settings import (
    EVALUATED,
    EXACT,
    KEPT,
    NEAR,
    REASONS,
    DuplicateSettings,
)
from chatlm.corpus.duplicates.shards import Rows, save
from chatlm.corpus.duplicates.signing import files_of, load
from chatlm.corpus.kernels.grouping import best_of_tree, smallest_of_tree
from chatlm.corpus.tasks import Engine, Task

__all__ = ["Decisions", "DuplicateSettings", "Shard", "decide"]


@dataclass(frozen=True, slots=True)
class Shard:
    """A clean shard and what was decided about its rows.

    `folder` holds one array a file, one entry a row: `reasons.npy` (uint8, codes of
    `settings.REASONS`); `of.npy` (int64: of a duplicate the number of the row that stays, of a row
    in an evaluation set the number of the question, else -1); `clusters.npy` and `order.npy`
    (uint64).
    """

    path: Path
    folder: Path
    num_rows: int


@dataclass(frozen=True, slots=True)
class Decisions:
    """What became of every row.

    Attributes:
        shards: In the order in which rows are numbered.
        dropped: Rows dropped by reason.
        questions: Of the evaluation sets, by number: file and line.
    """

    shards: tuple[Shard, ...]
    dropped: dict[str, int]
    questions: tuple[tuple[str, int], ...] = ()

    @property
    def num_rows(self) -> int:
        """All rows, kept or not."""
        return sum(shard.num_rows for shard in self.shards)

    def kept(self) -> NDArray[np.bool_]:
        """Returns (rows,): whether each is kept."""
        return self._column("reasons", np.uint8) == KEPT

    def clusters(self) -> NDArray[np.uint64]:
        """Returns (rows,): the hash that all kept rows with like questions share."""
        return self._column("clusters", np.uint64)

    def _column(self, name: str, dtype: type) -> NDArray[Any]:
        parts = [np.load(shard.folder / f"{name}.npy") for shard in self.shards]
        return np.concatenate([np.zeros(0, dtype), *parts])


def decide(
    shards: Sequence[Path], work_dir: Path, engine: Engine, settings: DuplicateSettings
) -> Decisions:
    """Decides about every row of clean shards.

    Memory: about 100 bytes a row of all shards in a task that sees all rows, and 150 MB.

    Args:
        shards: Arrow files with columns `prompt` and `response`, one folder a corpus, in the order
            of trust.
        work_dir: Takes the work files (about 3 bytes for each of the text); those of `decisions`
            are the result, the rest can be removed.
        engine: Where the tasks run.
        settings: What counts as a duplicate.

    Raises:
        DataError: A shard or an evaluation set cannot be read.
    """
    work = str(work_dir)
    folders = [f"{work}/signed/{number:05}" for number in range(len(shards))]
    ranks = _ranks(shards)
    sizes = [
        result["rows_in"]
        for result in engine.run(
            [
                Task(
                    name=f"signed/{number:05}",
                    function="chatlm.corpus.duplicates.signing:sign_shard",
                    params={
                        "shard": str(shard),
                        "folder": folder,
                        "settings": settings.signature,
                    },
                    inputs=(str(shard),),
                    outputs=files_of(folder),
                )
                for number, (shard, folder) in enumerate(zip(shards, folders, strict=True))
            ],
            "fold and sign rows",
        )
    ]
    outputs = [work_dir / "decisions" / f"{number:05}" for number in range(len(shards))]
    decided = tuple(
        Shard(shard, out, size) for shard, out, size in zip(shards, outputs, sizes, strict=True)
    )
    if not shards:
        return Decisions((), {})
    hits, questions = _evaluated(folders, work, engine, settings)
    seeds = _plant("exact", "digests", folders, ranks, hits, work, engine)
    pairs = seeds
    if settings.near:
        pairs = connect(folders, seeds, f"{work}/pairs", engine, settings, questions=False)
    kept = f"{work}/kept.npy"
    reasons = _run(
        engine,
        "choose the best rows",
        Task(
            name="duplicates/choose",
            function=f"{__name__}:choose",
            params={
                "folders": folders,
                "ranks": ranks,
                "hits": hits,
                "seeds": seeds,
                "forest": pairs,
                "work": work,
            },
            inputs=(
                *hits,
                seeds,
                pairs,
                *(file for folder in folders for file in files_of(folder, "contents")),
            ),
            outputs=(kept, f"{work}/reasons.npy", f"{work}/of.npy"),
        ),
    )
    asked = _plant("questions", "questions", folders, ranks, [], work, engine, kept)
    clusters = connect(folders, asked, f"{work}/questions", engine, settings, questions=True)
    _run(
        engine,
        "write decisions",
        Task(
            name="duplicates/finish",
            function=f"{__name__}:finish",
            params={
                "folders": folders,
                "forest": clusters,
                "work": work,
                "outputs": [str(out) for out in outputs],
            },
            inputs=(clusters, f"{work}/reasons.npy", f"{work}/of.npy"),
            outputs=tuple(
                f"{out}/{name}.npy"
                for out in outputs
                for name in ("reasons", "of", "clusters", "order")
            ),
        ),
    )
    dropped = {name: number for name, number in reasons["dropped"].items() if number}
    return Decisions(decided, dropped, questions)


def plant(
    num_rows: int, hits: Sequence[str], kept: str, duplicates: Sequence[str], out: str
) -> dict[str, Any]:
    """Task: writes a forest (see `near`) of rows that take part, equal ones joined to the best.

    Args:
        num_rows: Rows in all.
        hits: One file a shard, numbers of evaluation questions: rows below zero take part. Or none.
        kept: A forest to begin with, or "" for one in which every row stands alone.
        duplicates: Files of (row, better row).
        out: The file to write.
    """
    forest = np.load(kept) if kept else np.arange(num_rows)
    if hits:
        found = np.concatenate([np.load(path) for path in hits])
        forest[found >= 0] = -1
    for path in duplicates:
        some = np.load(path)
        forest[some[:, 0]] = some[:, 1]
    save(out, forest)
    return {"rows_in": num_rows}


def choose(
    folders: Sequence[str],
    ranks: Sequence[int],
    hits: Sequence[str],
    seeds: str,
    forest: str,
    work: str,
) -> dict[str, Any]:
    """Task: writes which row of every tree stays, and why the others do not."""
    rows = Rows.of(folders)
    trust = np.repeat(np.array(ranks, np.uint16), np.diff(rows.starts))
    best = best_of_tree(np.load(forest), trust, rows.column("contents"))
    numbers = np.arange(len(rows))
    reasons = np.full(len(rows), NEAR, np.uint8)
    reasons[np.load(seeds, mmap_mode="r") != numbers] = EXACT
    reasons[best == numbers] = KEPT
    reasons[best < 0] = EVALUATED
    of = np.where(reasons == KEPT, -1, best)
    if hits:
        found = np.concatenate([np.load(path) for path in hits])
        of[reasons == EVALUATED] = found[reasons == EVALUATED]
    save(f"{work}/reasons.npy", reasons)
    save(f"{work}/of.npy", of)
    save(f"{work}/kept.npy", np.where(reasons == KEPT, numbers, -1))
    counts = np.bincount(reasons, minlength=len(REASONS)).tolist()
    return {"rows_in": len(rows), "dropped": dict(zip(REASONS[1:], counts[1:], strict=True))}


def finish(
    folders: Sequence[str], forest: str, work: str, outputs: Sequence[str]
) -> dict[str, Any]:
    """Task: writes the decisions of every shard into a folder of its own."""
    rows = Rows.of(folders)
    clusters = smallest_of_tree(np.load(forest), rows.column("questions"))
    reasons = np.load(f"{work}/reasons.npy", mmap_mode="r")
    of = np.load(f"{work}/of.npy", mmap_mode="r")
    for (folder, part), out in zip(rows.shards(), outputs, strict=True):
        save(f"{out}/reasons.npy", reasons[part])
        save(f"{out}/of.npy", of[part])
        save(f"{out}/clusters.npy", clusters[part])
        save(f"{out}/order.npy", load(folder, "contents"))
    return {"rows_in": len(rows)}


def _ranks(shards: Sequence[Path]) -> list[int]:
    """Returns the place of each shard's corpus, which is its folder."""
    corpora = list(dict.fromkeys(shard.parent for shard in shards))
    return [corpora.index(shard.parent) for shard in shards]


def _plant(
    name: str,
    field: str,
    folders: Sequence[str],
    ranks: Sequence[int],
    hits: Sequence[str],
    work: str,
    engine: Engine,
    kept: str = "",
) -> str:
    """Returns the file of a forest in which rows with the same key are joined."""
    num_rows = len(Rows.of(folders))
    if not kept:
        kept = f"{work}/{name}/taking-part.npy"
        _run(engine, "number rows", _plant_task(f"{name}/rows", num_rows, hits, "", [], kept))
    tasks = group_tasks(name, field, folders, ranks, kept, f"{work}/{name}")
    engine.run(tasks, f"find equal {field}")
    duplicates = [task.outputs[0] for task in tasks]
    out = f"{work}/{name}/seeds.npy"
    _run(
        engine,
        f"join equal {field}",
        _plant_task(f"{name}/seeds", num_rows, [], kept, duplicates, out),
    )
    return out


def _plant_task(
    name: str, num_rows: int, hits: Sequence[str], kept: str, duplicates: Sequence[str], out: str
) -> Task:
    return Task(
        name=name,
        function=f"{__name__}:plant",
        params={
            "num_rows": num_rows,
            "hits": list(hits),
            "kept": kept,
            "duplicates": list(duplicates),
            "out": out,
        },
        inputs=(*hits, *([kept] if kept else []), *duplicates),
        outputs=(out,),
    )


def _evaluated(
    folders: Sequence[str], work: str, engine: Engine, settings: DuplicateSettings
) -> tuple[list[str], tuple[tuple[str, int], ...]]:
    """Returns the files of evaluation questions found in each shard, and where these stand."""
    if not settings.eval_dir:
        return [], ()
    return evaluation.find(folders, f"{work}/evaluation", engine, settings)


def _run(engine: Engine, title: str, task: Task) -> Mapping[str, Any]:
    return engine.run([task], title)[0]
