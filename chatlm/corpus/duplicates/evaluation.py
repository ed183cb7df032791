"""Rows that are in an evaluation set.

In: a folder of evaluation sets (C-Eval and CMMLU as published, or any JSON Lines or parquet with
questions), signed shards. Out: for every row the question that its prompt repeats; questions are
numbered through, with the file and line of each. What repeating means is said in `questions`.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from chatlm.corpus import store
from chatlm.corpus.duplicates.questions import QuestionIndex
from chatlm.corpus.duplicates.settings import DuplicateSettings
from chatlm.corpus.duplicates.shards import save
from chatlm.corpus.duplicates.signing import NAMES, Signed, files_of, load
from chatlm.corpus.tasks import Engine, Task
from chatlm.errors import DataError

COLUMNS = ("question", "Question", "prompt", "instruction")
"""Where a question stands, the first one that there is."""
Place = tuple[str, int]


def find(
    folders: Sequence[str], work: str, engine: Engine, settings: DuplicateSettings
) -> tuple[list[str], tuple[Place, ...]]:
    """Returns a file for each shard with the question that each of its rows repeats, or -1.

    Returns:
        The files, and the file and line (from 1; of parquet the row) of every question.

    Raises:
        DataError: The folder has no evaluation sets, or one cannot be read.
    """
    files = evaluation_files(Path(settings.eval_dir))
    index = f"{work}/questions.json"
    collect_task = Task(
        name="evaluation/questions",
        function=f"{__name__}:collect",
        params={"files": [str(path) for path in files], "out": index},
        inputs=tuple(str(path) for path in files),
        outputs=(index,),
    )
    engine.run([collect_task], "read evaluation sets")
    tasks = [
        Task(
            name=f"evaluation/{number:05}",
            function=f"{__name__}:check",
            params={
                "folder": folder,
                "questions": index,
                "settings": settings.signature
                | {
                    "threshold": settings.threshold,
                    "min_contained_chars": settings.min_contained_chars,
                },
                "out": f"{work}/hits-{number:05}.npy",
            },
            inputs=(index, *files_of(folder)),
            outputs=(f"{work}/hits-{number:05}.npy",),
        )
        for number, folder in enumerate(folders)
    ]
    engine.run(tasks, "look for evaluation questions")
    places = tuple((file, line) for file, line, _ in _read_index(index))
    return [task.outputs[0] for task in tasks], places


def evaluation_files(folder: Path) -> list[Path]:
    """Returns the evaluation sets of a folder and those below it, by name.

    Raises:
        DataError: There are none.
    """
    found = [path for path in sorted(folder.rglob("*")) if path.suffix in _READERS]
    if not found:
        raise DataError(f"{folder}: no evaluation sets; expected {', '.join(_READERS)} files")
    return found


def read_questions(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the line and the text of every question of a file; empty ones are passed over.

    Raises:
        DataError: The file is damaged or has no column of questions.
    """
    try:
        for line, record in _READERS[path.suffix](path):
            name = next((name for name in COLUMNS if name in record), None)
            if name is None or not isinstance(record[name], str):
                raise DataError(f"{path}:{line}: no text in any of {', '.join(COLUMNS)}")
            if record[name].strip():
                yield line, record[name]
    except (
        OSError,
        UnicodeDecodeError,
        csv.Error,
        orjson.JSONDecodeError,
        pa.ArrowException,
    ) as error:
        raise DataError(f"{path}: not a readable evaluation set ({error})") from error


def collect(files: Sequence[str], out: str) -> dict[str, Any]:
    """Task: writes file, line and text of all questions."""
    rows = [(file, line, text) for file in files for line, text in read_questions(Path(file))]
    with store.replacing(Path(out)) as file:
        file.write(orjson.dumps(rows))
    return {"rows_in": len(rows)}


def check(folder: str, questions: str, settings: Mapping[str, Any], out: str) -> dict[str, Any]:
    """Task: writes for each row of a signed shard the question that it repeats, or -1."""
    index = QuestionIndex.of(
        [text for _, _, text in _read_index(questions)], DuplicateSettings(**settings)
    )
    rows = Signed(**{name: np.asarray(load(folder, name)) for name in NAMES})
    hits = index.repeated_by(rows)
    save(out, hits)
    return {"rows_in": len(hits), "hits": int((hits >= 0).sum())}


def _read_index(path: str) -> list[tuple[str, int, str]]:
    return orjson.loads(Path(path).read_bytes())


def _read_csv(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        before = 1
        for record in reader:
            yield before + 1, record
            before = reader.line_num


def _read_jsonl(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open("rb") as file:
        for line, text in enumerate(file, 1):
            if text.strip():
                record = orjson.loads(text)
                yield line, record if isinstance(record, dict) else {}


def _read_parquet(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    line = 1
    with pq.ParquetFile(path) as file:
        names = [name for name in COLUMNS if name in file.schema_arrow.names]
        for batch in file.iter_batches(columns=names):
            for record in batch.to_pylist():
                yield line, record
                line += 1


_READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
