"""The stage `clean` for a whole corpus: plan, tasks, manifest.

In: the raw files of a source, a recipe, an engine. Out: `clean/<source>/` with shards of clean rows
and `manifest.json`, which comes last and names every file with its hash; rejects in
`rejects/<source>/`. Earlier output stays valid until the new manifest is there. It holds no policy.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from chatlm import log, untrusted
from chatlm.corpus import store
from chatlm.corpus.counts import Counts
from chatlm.corpus.reasons import UNREADABLE
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.sources import Source
from chatlm.corpus.tasks import Engine, Task, code_sha256
from chatlm.errors import ChatLMError, DataError

MANIFEST = "manifest.json"
_MAX_UNREADABLE_PERCENT = 1


@dataclass(frozen=True, slots=True)
class CleanSource:
    """A cleaned corpus as its manifest describes it."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of the corpus."""
        return self.manifest["source"]

    @property
    def counts(self) -> Counts:
        """The counts of all its shards together."""
        return Counts.from_dict(self.manifest["counts"])

    @property
    def shards(self) -> list[Path]:
        """Its files of clean rows, in the order of the raw data."""
        return [self.folder / shard["rows"]["name"] for shard in self.manifest["shards"]]

    @property
    def rejects(self) -> list[Path]:
        """Its files of rejects, in the order of the raw data."""
        folder = rejects_folder(self.folder)
        return [folder / shard["rejects"]["name"] for shard in self.manifest["shards"]]


def rejects_folder(clean_folder: Path) -> Path:
    """Returns `rejects/<source>` for `clean/<source>`."""
    return clean_folder.parent.parent / "rejects" / clean_folder.name


@dataclass(frozen=True, slots=True)
class CleanJob:
    """One corpus to clean: its raw files and what is asked of them."""

    source: Source
    files: Sequence[Path]
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class _Planned:
    """A job with the plans of its files and the tasks that they lead to."""

    job: CleanJob
    plans: list[dict[str, Any]]
    tasks: list[Task]


def clean(
    source: Source,
    files: Sequence[Path],
    recipe: Recipe,
    clean_dir: Path,
    engine: Engine | None = None,
) -> Counts:
    """Cleans one corpus into `clean_dir/<source>`.

    Raises:
        DataError: A file as a whole cannot be read, or is damaged (what came before the damage is
            kept), or not one row could be used (then nothing is).
    """
    (done,) = clean_all([CleanJob(source, files, recipe)], clean_dir, engine)
    if isinstance(done, ChatLMError):
        raise done
    return done


def clean_all(
    jobs: Sequence[CleanJob], clean_dir: Path, engine: Engine | None = None
) -> list[Counts | ChatLMError]:
    """Cleans several corpora, their tasks side by side; see `clean`.

    Returns:
        The counts of each, or what was wrong with it: one damaged corpus does not cost the others.
    """
    engine = engine or Engine()
    done: dict[int, Counts | ChatLMError] = {}
    with ExitStack() as stack:
        for number, job in enumerate(jobs):
            folder = clean_dir / job.source.name
            try:
                stack.enter_context(store.locked(folder))
            except DataError as error:
                done[number] = error
                continue
            store.remove_unfinished(folder, rejects_folder(folder))
        planned = _planned(jobs, clean_dir, engine, done)
        tasks = [task for one in planned.values() for task in one.tasks]
        results = iter(engine.attempt(tasks, "clean"))
        for number, one in planned.items():
            found = [next(results) for _ in one.tasks]
            try:
                done[number] = _finished(one, _raise_first(found), clean_dir, engine)
            except DataError as error:
                done[number] = error
    return [done[number] for number in range(len(jobs))]


def _planned(
    jobs: Sequence[CleanJob], clean_dir: Path, engine: Engine, done: dict[int, Counts | ChatLMError]
) -> dict[int, _Planned]:
    """Returns the jobs that can be done; adds to `done` why the others cannot."""
    waiting = {number: job for number, job in enumerate(jobs) if number not in done}
    tasks = [_plan_task(job.source, path) for job in waiting.values() for path in job.files]
    found = iter(engine.attempt(tasks, "plan"))
    planned = dict[int, _Planned]()
    for number, job in waiting.items():
        plans = [next(found) for _ in job.files]
        try:
            good = _raise_first(plans)
        except ChatLMError as error:
            done[number] = error
            continue
        folder = clean_dir / job.source.name
        pieces = [
            _shard_task(job, path, file, piece, index, folder)
            for file, (path, plan) in enumerate(zip(job.files, good, strict=True))
            for index, piece in enumerate(plan["pieces"])
        ]
        planned[number] = _Planned(job, good, pieces)
    return planned


def _raise_first(found: Sequence[dict[str, Any] | ChatLMError]) -> list[dict[str, Any]]:
    """Returns the results, or raises the first error among them."""
    good = list[dict[str, Any]]()
    for result in found:
        if isinstance(result, ChatLMError):
            raise result
        good.append(result)
    return good


def _finished(
    planned: _Planned, results: Sequence[dict[str, Any]], clean_dir: Path, engine: Engine
) -> Counts:
    """Writes the manifest of a corpus whose tasks are done, and returns its counts.

    Raises:
        DataError: Not one row could be used, or a file is damaged.
    """
    job, folder = planned.job, clean_dir / planned.job.source.name
    total = Counts()
    for result in results:
        total.add(Counts.from_dict(result))
    if not total.kept and job.recipe.policy is None:
        _remove_others(_earlier(folder))
        raise DataError(_nothing_usable(job.source, job.files, total))
    manifest = {
        "source": job.source.name,
        "licence": job.source.licence,
        "recipe": asdict(job.recipe),
        "code_sha256": code_sha256(),
        "files": [
            _file_entry(path, plan) for path, plan in zip(job.files, planned.plans, strict=True)
        ],
        "shards": [
            _shard_entry(task, result, engine)
            for task, result in zip(planned.tasks, results, strict=True)
        ],
        "counts": total.as_dict(),
    }
    store.write_json(folder / MANIFEST, manifest)
    _remove_others(CleanSource(folder, manifest))
    _report(job.source, total)
    _refuse_damage(planned.tasks, results)
    return total


def open_clean(clean_dir: Path, name: str) -> CleanSource:
    """Returns the cleaned corpus `name`.

    Raises:
        DataError: It is not there, or its manifest is damaged.
    """
    path = clean_dir / name / MANIFEST
    if not path.is_file():
        raise DataError(f"{clean_dir}: no {name}; run clean for it first")
    manifest = store.read_json(path)
    if not {"source", "shards", "counts", "files"} <= manifest.keys():
        raise DataError(f"{path}: is no manifest of this version; run clean again")
    corpus = CleanSource(path.parent, manifest)
    _refuse_strange_names(path, corpus)
    return corpus


def _refuse_strange_names(path: Path, corpus: CleanSource) -> None:
    """Raises unless all that a manifest names are files in the corpus's own folders."""
    shards: Any = corpus.manifest["shards"]
    folders = {"rows": corpus.folder, "rejects": rejects_folder(corpus.folder)}
    try:
        found = [
            (folders[part], shard[part]["name"])
            for shard in shards
            for part in folders
            if part in shard
        ]
    except (TypeError, KeyError) as error:
        raise DataError(f"{path}: is damaged ({error}); run clean again") from error
    for folder, name in [*found, (corpus.folder, corpus.manifest["source"])]:
        if not untrusted.is_name(name) or (folder / name).is_symlink():
            what = untrusted.shown(name)
            raise DataError(f"{path}: {what} is no file of this corpus; run clean again")


def cleaned_sources(clean_dir: Path) -> list[str]:
    """Returns the names of the corpora that `clean_dir` holds."""
    return sorted(path.parent.name for path in clean_dir.glob(f"*/{MANIFEST}"))


def _plan_task(source: Source, path: Path) -> Task:
    return Task(
        name=f"plan/{source.name}/{path.name}",
        function="chatlm.corpus.clean_shard:plan_file",
        params={"path": str(path)},
        weight=_size(path),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _shard_task(
    job: CleanJob, path: Path, file: int, piece: dict[str, Any], index: int, folder: Path
) -> Task:
    """Returns the task of one piece; its output is named after what it is made from."""
    source, recipe = job.source, job.recipe
    asked = orjson.dumps([piece, asdict(recipe), code_sha256()], option=orjson.OPT_SORT_KEYS)
    name = f"{file:03}-{index:05}-{hashlib.sha256(asked).hexdigest()[:8]}"
    out = str(folder / f"{name}.arrow")
    rejects = str(rejects_folder(folder) / f"{name}.jsonl.zst")
    return Task(
        name=f"clean/{source.name}/{name}",
        function="chatlm.corpus.clean_shard:clean_shard",
        params={
            "path": str(path),
            "file": file,
            "piece": piece,
            "source": source.name,
            "recipe": asdict(recipe),
            "out": out,
            "rejects": rejects,
        },
        outputs=(out, rejects),
        weight=piece["bytes"],
    )


def _file_entry(path: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "path": str(path),
        "bytes": plan["bytes"],
        "sha256": plan["sha256"],
        "layout": plan["layout"],
        "verified": plan.get("verified", True),
    }


def _shard_entry(task: Task, result: Mapping[str, Any], engine: Engine) -> dict[str, Any]:
    rows, rejects = task.outputs
    return {
        "file": task.params["file"],
        "piece": task.params["piece"],
        "rows": {"name": Path(rows).name, "sha256": engine.sha256(rows)},
        "rejects": {"name": Path(rejects).name, "sha256": engine.sha256(rejects)},
        "counts": dict(result),
    }


def _earlier(folder: Path) -> CleanSource:
    """Returns what an earlier run left, perhaps nothing."""
    if (folder / MANIFEST).is_file():
        return open_clean(folder.parent, folder.name)
    return CleanSource(folder, {"shards": []})


def _remove_others(cleaned: CleanSource) -> None:
    """Removes the files of other runs, which the manifest does not name."""
    named = {path.name for path in (*cleaned.shards, *cleaned.rejects)}
    for pattern, folder in (
        ("*.arrow", cleaned.folder),
        ("*.jsonl.zst", rejects_folder(cleaned.folder)),
    ):
        for path in folder.glob(pattern):
            if path.name not in named:
                path.unlink()


def _nothing_usable(source: Source, files: Sequence[Path], counts: Counts) -> str:
    names = ", ".join(path.name for path in files)
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts.dropped.most_common(3))
    return (
        f"{source.name}: not one of {counts.rows_in} rows of {names} could be used "
        f"({reasons or 'no rows'}); are these the published files?"
    )


def _refuse_damage(tasks: Sequence[Task], results: Sequence[Mapping[str, Any]]) -> None:
    """Raises the `DataError` that names the broken files."""
    broken = Counter[str]()
    for task, result in zip(tasks, results, strict=True):
        if result["damaged"]:
            broken[f"{task.params['path']} ({result['damaged']})"] += 1
    if broken:
        raise DataError(
            f"{', '.join(broken)}: damaged; the rows before the damage are kept and the loss is "
            "counted, get the file again"
        )


def _report(source: Source, counts: Counts) -> None:
    log.info(
        f"clean {source.name}: {counts.rows_in} rows in, {counts.kept} kept, "
        f"{counts.dropped.total()} dropped"
    )
    unreadable = sum(count for reason, count in counts.dropped.items() if reason in UNREADABLE)
    if unreadable * 100 > counts.rows_in * _MAX_UNREADABLE_PERCENT:
        log.warning(
            f"{source.name}: {unreadable} of {counts.rows_in} rows are unreadable, more than "
            f"{_MAX_UNREADABLE_PERCENT} %; see rejects/{source.name}/"
        )
