"""Does everything add up? Recomputes what the manifests say.

In: the folders of clean corpora and of the parts. Out: a list of disagreements, one line each. It
changes nothing and prints nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from chatlm.corpus import store
from chatlm.corpus.build_stage import MANIFEST, PARTS
from chatlm.corpus.clean_stage import CleanSource, cleaned_sources, open_clean
from chatlm.corpus.counts import Counts
from chatlm.corpus.shards import Origin, read_rejects, read_shard
from chatlm.corpus.tasks import Engine, Task
from chatlm.errors import DataError

_SHOWN = 3


@dataclass(slots=True)
class Verified:
    """What was found: `problems` are disagreements, `notes` say what was and was not checked."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(clean_dir: Path, out_dir: Path, engine: Engine) -> Verified:
    """Compares every hash and count of the manifests with the files.

    Raises:
        DataError: There is no manifest at all.
    """
    found = Verified()
    corpora = [open_clean(clean_dir, name) for name in cleaned_sources(clean_dir)]
    if not corpora and not (out_dir / MANIFEST).is_file():
        raise DataError(f"no manifest in {clean_dir} or {out_dir}; run clean and build first")
    tasks = [task for corpus in corpora for task in _tasks(corpus)]
    for result in engine.run(tasks, "verify"):
        found.problems += result["problems"]
        found.notes += result["notes"]
    for corpus in corpora:
        found.problems += _sums(corpus)
        counts = corpus.counts
        found.notes.append(
            f"{corpus.name}: {counts.rows_in:,} rows in = {counts.kept:,} kept + "
            f"{counts.dropped.total():,} dropped, {len(corpus.shards)} shards"
        )
    if (out_dir / MANIFEST).is_file():
        _verify_parts(out_dir, {corpus.name: corpus for corpus in corpora}, found)
        if not found.problems:
            _verify_overlap(out_dir, engine, found)
    else:
        found.notes.append(f"{out_dir}: no parts built yet")
    return found


def _tasks(corpus: CleanSource) -> Iterable[Task]:
    """Yields one task for each raw file and each shard."""
    for number, entry in enumerate(corpus.manifest["files"]):
        yield Task(
            name=f"verify/{corpus.name}/file-{number:03}",
            function="chatlm.corpus.verify:verify_raw",
            params={"path": entry["path"], "sha256": entry["sha256"]},
            weight=entry["bytes"],
        )
    for shard, rows, rejects in zip(
        corpus.manifest["shards"], corpus.shards, corpus.rejects, strict=True
    ):
        yield Task(
            name=f"verify/{corpus.name}/{rows.stem}",
            function="chatlm.corpus.verify:verify_shard",
            params={
                "rows": {"path": str(rows), "sha256": shard["rows"]["sha256"]},
                "rejects": {"path": str(rejects), "sha256": shard["rejects"]["sha256"]},
                "file": shard["file"],
                "counts": shard["counts"],
            },
            weight=shard["piece"]["bytes"],
        )


def verify_raw(path: str, sha256: str) -> dict[str, Any]:
    """Task: compares a raw file with its recorded hash; an absent one is noted, not a problem."""
    if not Path(path).is_file():
        return {"problems": [], "notes": [f"{path}: not there any more, not compared"]}
    return {"problems": _hash_problem(path, sha256), "notes": []}


def verify_shard(
    rows: dict[str, str], rejects: dict[str, str], file: int, counts: dict[str, Any]
) -> dict[str, Any]:
    """Task: compares a shard and its rejects with their hashes and counts.

    Every raw record must be in exactly one of the two files.
    """
    problems = _hash_problem(**rows) + _hash_problem(**rejects)
    if problems:
        return {"problems": problems, "notes": []}
    try:
        batches = [batch.column("origin").to_numpy() for batch in read_shard(Path(rows["path"]))]
        kept = np.concatenate([np.zeros(0, np.uint64), *batches])
        lines = list(read_rejects(Path(rejects["path"])))
    except DataError as error:
        return {"problems": [str(error)], "notes": []}
    reasons = Counter(line["reason"] for line in lines)
    dropped = [Origin(file, line["position"], line["turn"]).pack() for line in lines]
    if len(kept) != counts["kept"]:
        problems.append(f"{rows['path']}: {len(kept)} rows, the manifest says {counts['kept']}")
    if reasons != Counter(counts["dropped"]):
        problems.append(f"{rejects['path']}: {dict(reasons)}, not {counts['dropped']}")
    places = np.concatenate([kept, np.array(dropped, np.uint64)])
    unique, times = np.unique(places, return_counts=True)
    for place in unique[times > 1][:_SHOWN]:
        origin = Origin.unpack(place)
        problems.append(f"{rows['path']}: record {origin.position} is accounted for twice")
    return {"problems": problems, "notes": []}


def _hash_problem(path: str, sha256: str) -> list[str]:
    try:
        found = store.file_sha256(Path(path))
    except OSError as error:
        return [f"{path}: cannot be read ({error.strerror})"]
    return [] if found == sha256 else [f"{path}: sha256 is {found}, the manifest says {sha256}"]


def _sums(corpus: CleanSource) -> list[str]:
    """Returns where the totals of a corpus are not the sums of its shards."""
    total = Counts()
    for shard in corpus.manifest["shards"]:
        total.add(Counts.from_dict(shard["counts"]))
    problems = []
    if total.as_dict() != corpus.manifest["counts"]:
        problems.append(f"{corpus.folder}: the shards add up to {total.as_dict()}")
    if total.rows_in != total.kept + total.dropped.total():
        problems.append(f"{corpus.folder}: {total.rows_in} rows in are not kept plus dropped")
    return problems


def _verify_parts(out_dir: Path, corpora: dict[str, CleanSource], found: Verified) -> None:
    """Compares the parts with their manifest and with the corpora that went in."""
    manifest = store.read_json(out_dir / MANIFEST)
    counts: Any = manifest.get("counts")
    parts: Any = manifest.get("parts")
    sources: Any = manifest.get("sources")
    if not (isinstance(counts, dict) and isinstance(parts, dict) and isinstance(sources, list)):
        found.notes.append(f"{out_dir}: its parts were not built from clean corpora")
        return
    book = Counts.from_dict(counts)
    for name in PARTS:
        path = out_dir / f"{name}.parquet"
        problems = _hash_problem(str(path), parts[name]["sha256"])
        if not problems and store.num_rows(path) != parts[name]["rows"]:
            problems.append(f"{path}: its footer does not say {parts[name]['rows']} rows")
        found.problems += problems
    if sum(part["rows"] for part in parts.values()) != book.kept:
        found.problems.append(f"{out_dir}: the parts do not add up to {book.kept} rows")
    if book.rows_in != book.kept + book.dropped.total():
        found.problems.append(f"{out_dir}: {book.rows_in} rows in are not kept plus dropped")
    found.problems += _inputs(out_dir, sources, corpora, book.rows_in)
    found.notes.append(
        f"{out_dir}: {book.rows_in:,} rows in = {book.kept:,} kept + {book.dropped.total():,} "
        f"dropped; " + ", ".join(f"{name} {part['rows']:,}" for name, part in parts.items())
    )


def _verify_overlap(out_dir: Path, engine: Engine, found: Verified) -> None:
    """Looks for held-out questions that training asks too, perhaps in other words."""
    tasks = [
        Task(
            name=f"verify/overlap-{part}",
            function="chatlm.corpus.verify:verify_overlap",
            params={"train": str(out_dir / "train.parquet"), "held_out": str(path)},
        )
        for part in PARTS
        if part != "train" and store.num_rows(path := out_dir / f"{part}.parquet")
    ]
    for result in engine.run(tasks, "look for overlap"):
        found.problems += result["problems"]
        found.notes += result["notes"]


def verify_overlap(train: str, held_out: str) -> dict[str, Any]:
    """Task: compares the questions of a held-out part with those of training."""
    from chatlm.corpus.duplicates.overlap import overlapping

    pairs = overlapping(Path(train), Path(held_out))
    problems = [
        f"{held_out}: row {other} asks what row {row} of {train} asks"
        for row, other in pairs[:_SHOWN]
    ]
    notes = [] if pairs else [f"{held_out}: no question is near one of training"]
    return {"problems": problems, "notes": notes}


def _inputs(
    out_dir: Path, sources: Sequence[dict[str, Any]], corpora: dict[str, CleanSource], rows_in: int
) -> list[str]:
    problems = list[str]()
    for entry in sources:
        corpus = corpora.get(entry["name"])
        if corpus is None:
            problems.append(f"{out_dir}: was built from {entry['name']}, which is not there")
        elif store.file_sha256(corpus.folder / MANIFEST) != entry["manifest_sha256"]:
            problems.append(f"{out_dir}: {entry['name']} was cleaned again since; run build")
    if sum(entry["counts"]["kept"] for entry in sources) != rows_in:
        problems.append(f"{out_dir}: {rows_in} rows in are not what the corpora kept")
    return problems
