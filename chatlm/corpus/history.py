"""The whole history of one row: raw record, every change, why it stayed or went, where it is now.

In: the name of a row (`train:17`, or `belle/train_2M_CN.json:123` for the raw side). Out: lines of
text. The raw record is read and cleaned again with the recorded recipe; what the build decided is
read from its work folder. It changes nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chatlm.corpus import pieces, store
from chatlm.corpus.build_stage import MANIFEST, work_folder
from chatlm.corpus.clean_stage import CleanSource, open_clean
from chatlm.corpus.cleaning import clean_batch
from chatlm.corpus.duplicates.settings import REASONS
from chatlm.corpus.example import Skipped
from chatlm.corpus.normalize import RULES
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.records import Record, Rejected
from chatlm.corpus.shards import Origin, read_shard
from chatlm.corpus.sources import SOURCES
from chatlm.corpus.split import PARTS
from chatlm.errors import DataError

_SHOWN_CHARS = 300
_PART_ROW = re.compile(rf"({'|'.join(PARTS)}):(\d+)\Z")
_RAW_ROW = re.compile(r"([^/]+)/(.+):(\d+)\Z")
_KEPT = REASONS.index("kept")


@dataclass(frozen=True, slots=True)
class _Built:
    """What a build decided about the rows of one shard, and the number of its first row."""

    corpus: CleanSource
    shard: Path
    folder: Path
    first: int


def explain(row: str, clean_dir: Path, out_dir: Path) -> Iterator[str]:
    """Yields the history of a row.

    Args:
        row: `train:17` (rows of a part count from 0), or `source/file:position` (lines, elements
            and rows of a raw file count from 1).
        clean_dir: Folder of cleaned corpora.
        out_dir: Folder of the parts.

    Raises:
        DataError: No such row, or what would tell about it is not there any more.
    """
    if match := _PART_ROW.match(row):
        built = _built(clean_dir, out_dir)
        corpus, origin = _origin_of(built, match[1], int(match[2]))
        yield f"{row}: from {_name(corpus, origin)}"
    elif match := _RAW_ROW.match(row):
        corpus = open_clean(clean_dir, match[1])
        origin = Origin(_file_number(corpus, match[2]), int(match[3]))
        built = _built(clean_dir, out_dir) if (out_dir / MANIFEST).is_file() else []
    else:
        raise DataError(f"row={row}: expected train:17, or source/file:line such as belle/a.json:9")
    record = _record(corpus, origin)
    yield from _cleaning(corpus, record)
    yield from _decisions(built, corpus, origin)


def _built(clean_dir: Path, out_dir: Path) -> list[_Built]:
    """Returns the shards of the build in `out_dir`, in the order in which rows were numbered."""
    manifest = store.read_json(out_dir / MANIFEST)
    sources: Any = manifest.get("sources")
    if not isinstance(sources, list) or not all(isinstance(entry, dict) for entry in sources):
        raise DataError(f"{out_dir}: its parts were not built from clean corpora")
    found, first = list[_Built](), 0
    for entry in sources:
        corpus = open_clean(clean_dir, entry["name"])
        if store.file_sha256(corpus.folder / "manifest.json") != entry["manifest_sha256"]:
            raise DataError(f"{corpus.name} was cleaned again since {out_dir} was built; run build")
        for shard in corpus.shards:
            folder = work_folder(out_dir) / "decisions" / f"{len(found):05}"
            found.append(_Built(corpus, shard, folder, first))
            first += len(_load(folder, "reasons"))
    return found


def _load(folder: Path, name: str) -> np.ndarray[Any, Any]:
    try:
        return np.load(folder / f"{name}.npy", mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: what the build decided is not there; run build") from error


def _origin_of(built: list[_Built], part: str, number: int) -> tuple[CleanSource, Origin]:
    """Returns where row `number` of a part came from: the row with the number-th smallest key."""
    members = [np.flatnonzero(_load(one.folder, "parts") == PARTS.index(part)) for one in built]
    keys = [_load(one.folder, "keys")[rows] for one, rows in zip(built, members, strict=True)]
    all_keys = np.concatenate([np.zeros(0, np.uint64), *keys])
    if number >= len(all_keys):
        raise DataError(f"{part}:{number}: {part} has {len(all_keys)} rows, counted from 0")
    place = int(np.argpartition(all_keys, number)[number])
    for one, rows in zip(built, members, strict=True):
        if place < len(rows):
            return one.corpus, _origins(one.shard)[int(rows[place])]
        place -= len(rows)
    raise AssertionError("a place beyond all rows")


def _origins(shard: Path) -> list[Origin]:
    columns = (batch.column("origin").to_pylist() for batch in read_shard(shard))
    return [Origin.unpack(bits) for column in columns for bits in column]


def _name(corpus: CleanSource, origin: Origin) -> str:
    file = Path(corpus.manifest["files"][origin.file]["path"])
    turn = f", turn {origin.turn}" if origin.turn else ""
    return f"{corpus.name}/{file.name}:{origin.position}{turn}"


def _file_number(corpus: CleanSource, name: str) -> int:
    paths = [entry["path"] for entry in corpus.manifest["files"]]
    found = [number for number, path in enumerate(paths) if f"/{path}".endswith(f"/{name}")]
    if len(found) != 1:
        names = ", ".join(Path(path).name for path in paths)
        raise DataError(f"{corpus.name}: no single file {name}; it was made from {names}")
    return found[0]


def _record(corpus: CleanSource, origin: Origin) -> Record | Rejected:
    """Returns the raw record, read again."""
    entry = corpus.manifest["files"][origin.file]
    path = Path(entry["path"])
    if not path.is_file():
        raise DataError(f"{path}: the raw file is not there any more")
    source = SOURCES[corpus.name]
    for shard in corpus.manifest["shards"]:
        if shard["file"] != origin.file:
            continue
        for record in pieces.read_piece(path, shard["piece"], source.columns):
            if record.position == origin.position:
                return record
    raise DataError(f"{path}: has no record {origin.position} (blank lines are none)")


def _cleaning(corpus: CleanSource, record: Record | Rejected) -> Iterator[str]:
    """Yields what the stage `clean` did to a record."""
    if isinstance(record, Rejected):
        yield f"read: dropped as {record.reason}: {_short(record.excerpt)}"
        return
    for name, value in record.fields.items():
        yield f"raw {name}: {_short(str(value))}"
    source, recipe = SOURCES[corpus.name], Recipe.from_dict(corpus.manifest["recipe"])
    if recipe.compat:
        yield "clean: by the rules of Chat-LM-small (recipe=compat), which give no reasons"
        return
    found = source.convert(record.fields)
    if isinstance(found, str):
        yield f"convert: dropped as {found}"
        return
    for turn, example in enumerate(found):
        if isinstance(example, Skipped):
            continue  # Told below, as the rejects are.
        for side in ("prompt", "response"):
            text = getattr(example, side)
            yield f"{side} {turn}: {_short(text)}"
            for name, rule in RULES:
                after = rule(text)
                if after != text:
                    yield f"  {name}: {_short(after)}"
                text = after
    done = clean_batch([record], str(corpus.folder), source, recipe)
    if done.counts.modified:
        yield f"changed by: {', '.join(sorted(done.counts.modified))}"
    for turn, example in zip(done.turns, done.examples, strict=True):
        yield f"clean {turn}: kept: {_short(example.prompt)} -> {_short(example.response)}"
    for reject in done.rejects:
        yield f"clean {reject.turn}: dropped as {reject.reason}"


def _decisions(built: list[_Built], corpus: CleanSource, origin: Origin) -> Iterator[str]:
    """Yields what the build decided about the rows of a record."""
    if not built:
        yield "build: not built yet"
        return
    for one in built:
        if one.corpus.name != corpus.name:
            continue
        for row, place in enumerate(_origins(one.shard)):
            if (place.file, place.position) == (origin.file, origin.position):
                yield from _decision(built, one, row, place)


def _decision(built: list[_Built], one: _Built, row: int, place: Origin) -> Iterator[str]:
    name = _name(one.corpus, place)
    code = int(_load(one.folder, "reasons")[row])
    if code != _KEPT:
        other = int(_load(one.folder, "of")[row])
        yield f"build: {name} dropped as {REASONS[code]}: {_other(built, REASONS[code], other)}"
        return
    part = int(_load(one.folder, "parts")[row])
    key = _load(one.folder, "keys")[row]
    number = sum(
        int(((_load(o.folder, "parts") == part) & (_load(o.folder, "keys") < key)).sum())
        for o in built
    )
    yield f"build: {name} is {PARTS[part]}:{number}"


def _other(built: list[_Built], reason: str, number: int) -> str:
    """Returns the row or question because of which a row was dropped."""
    if reason == "in_evaluation_set":
        questions: Any = store.read_json(built[0].folder.parent / "questions.json")["questions"]
        file, line = questions[number]
        return f"question at {file}:{line}"
    one = [candidate for candidate in built if candidate.first <= number][-1]
    origin = _origins(one.shard)[number - one.first]
    texts = [row for batch in read_shard(one.shard) for row in batch.to_pylist()]
    kept = texts[number - one.first]
    return (
        f"{_name(one.corpus, origin)} stays: {_short(kept['prompt'])} -> {_short(kept['response'])}"
    )


def _short(text: str) -> str:
    """Returns the beginning of a text on one line."""
    line = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return line if len(line) <= _SHOWN_CHARS else f"{line[:_SHOWN_CHARS]}… ({len(text)} characters)"
