"""Writes raw corpora of any size in their published formats, for measuring the data pipeline.

In: a parquet file of real pairs, whose sentences are recombined. Out: `out/<source>/<files>` of the
seven large corpora in their published proportions, `rows` in total, and `out/truth.json` with the
rows, the malformed records and the planted copies of each file. The same seed gives the same bytes
for any number of workers. The texts make no sense: they are for measuring, not for training.

    python benchmarks/generate_corpora.py out=raw rows=1000000 real=pairs.parquet seed=0 workers=2
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import corpora_formats as formats
import corpora_wiki
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from corpora_rows import CHUNK_ROWS, COPY_EVERY, Pool, Shape, chunk_rows, generator, load_pool

from chatlm import cli
from chatlm.corpus.store import replacing, write_json
from chatlm.errors import ConfigError

MALFORMED_SHARE = 1e-4
PARQUET_GROUP_ROWS = 1000
_DATA, _DOCTORS = (
    "Data_数据",
    (
        ("Andriatria_男科/男科5-13000.csv", 94_596),
        ("IM_内科/内科5000-33000.csv", 220_606),
        ("OAGD_妇产科/妇产科6-28000.csv", 183_751),
        ("Oncology_肿瘤科/肿瘤科5-10000.csv", 75_553),
        ("Pediatric_儿科/儿科5-14000.csv", 101_602),
        ("Surgical_外科/外科5-14000.csv", 115_991),
    ),
)
_ZHIHU_HASHES = (
    "a1278ede4e8c5cdb",
    "1fc2da944397e9c2",
    "68ced004a1458143",
    "1b809cf5dd2fe5ad",
    "c374cc9fbda9fda7",
)


@dataclass(frozen=True)
class Settings:
    """Settings of `benchmarks/generate_corpora.py`."""

    out: str = field(metadata={"help": "folder to fill"})
    real: str = field(metadata={"help": "parquet file with columns prompt and response"})
    rows: int = field(default=10_000_000, metadata={"help": "of all corpora together"})
    seed: int = field(default=0, metadata={"help": "another seed, other texts"})
    workers: int = field(default=2, metadata={"help": "processes"})

    def __post_init__(self) -> None:
        """Refuses what cannot work.

        Raises:
            ConfigError: fewer than 100 rows, or no worker.
        """
        if self.rows < 100 or self.workers < 1 or not 0 <= self.seed < 1 << 40:
            raise ConfigError("expected rows >= 100, workers >= 1 and 0 <= seed < 2^40")


@dataclass(frozen=True)
class File:
    """One file to write; `share` is in rows as published."""

    source: str
    name: str
    share: int
    shape: Shape
    format: formats.Format | None = None
    kind: str = "jsonl"
    header: str = ""
    encoding: str = "utf-8"


def _plan() -> list[File]:
    web, baike = Shape(200, "\n", answers=2), Shape(150, "\r\r")
    belle, talk = Shape(100, "\n\n"), Shape(60)
    wiki = "zhwiki-20230901-pages-articles-multistream.xml.bz2"
    files = [
        File("webtext2019zh", f"web_text_zh_{part}.json", share, web, formats.webtext)
        for part, share in (("train", 3_964_000), ("valid", 68_000), ("test", 68_000))
    ]
    files += [
        File("baike_qa2019", f"baike_qa_{part}.json", share, baike, formats.baike)
        for part, share in (("train", 1_355_000), ("valid", 45_000))
    ]
    asked = "department,title,ask,answer\n"
    files += [
        File("medical", f"{_DATA}/{name}", share, Shape(110, "\n"), formats.medical, "csv", asked)
        for name, share in _DOCTORS
    ]
    head, shape = "title,question,reply,is_best\n", Shape(80, answers=3)
    name = "financezhidao_filter.csv"
    files.append(File("finance", name, 770_000, shape, formats.finance, "csv", head))
    shape = Shape(400, " ", answers=2)
    files += [
        File("zhihu_kol", f"data/train-{part:05d}-of-00005-{name}.parquet", 200_000, shape)
        for part, name in enumerate(_ZHIHU_HASHES)
    ]
    files += [
        File("belle", name, share, shape, form)
        for name, share, shape, form in (
            ("Belle_open_source_0.5M.json", 220_000, belle, formats.instruction),
            ("Belle_open_source_1M.json", 440_000, belle, formats.instruction),
            ("train_2M_CN.json", 880_000, belle, formats.instruction),
            ("train_3.5M_CN.json", 1_530_000, belle, formats.conversations),
            ("multiturn_chat_0.8M.json", 360_000, talk, formats.multiturn),
            ("generated_chat_0.4M.json", 170_000, talk, formats.generated_chat),
            ("school_math_0.25M.json", 100_000, talk, formats.math),
        )
    ]
    return [*files, File("zhwiki", wiki, 1_190_000, Shape(0), kind="wiki")]


def rows_of_files(rows: int) -> list[tuple[File, int]]:
    """Returns the files with their numbers of rows, `rows` in total, at least one each."""
    plan = _plan()
    shares = np.array([file.share for file in plan], float)
    ends = np.rint(np.cumsum(shares) / shares.sum() * rows).astype(int)
    counts = np.maximum(np.diff(ends, prepend=0), 1)
    counts[0] -= counts.sum() - rows
    return [(file, int(count)) for file, count in zip(plan, counts, strict=True)]


@dataclass(frozen=True)
class Piece:
    """One chunk of a file: its bytes, or the columns of its table, and what was planted in it."""

    content: bytes
    num_lines: int = 0
    malformed: tuple[int, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)


_pool: Pool  # made once, before the workers are forked


def make_piece(seed: int, number: int, file: File, chunk: int, count: int) -> Piece:
    """Returns one chunk of a file; a pure function of its arguments and the pool."""
    if file.kind == "wiki":
        content, kinds = corpora_wiki.chunk_streams(_pool, seed, number, chunk, count)
        return Piece(content, counts=kinds)
    rows = chunk_rows(_pool, file.shape, seed, number, chunk, count)
    planted = {"exact_copies": rows.exact, "near_copies": rows.near}
    rng = generator(seed, number, (1 << 41) + chunk)
    numbers = rng.integers(1 << 30, size=count).tolist()
    asked = {prompt: place for place, (prompt, _) in enumerate(rows.pairs)}
    questions = [chunk * CHUNK_ROWS + asked[prompt] for prompt, _ in rows.pairs]
    if file.format is None:
        table = pa.table(formats.zhihu_columns(rows.pairs, questions, numbers), _ZHIHU_SCHEMA)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return Piece(sink.getvalue().to_pybytes(), counts=planted)
    records = file.format(rows.pairs, questions, numbers)
    # Only copies are spoilt: nothing else is a copy of a spoilt record.
    copies = np.arange(COPY_EVERY - 1, count, COPY_EVERY)
    spoilt = copies[rng.random(len(copies)) < MALFORMED_SHARE * COPY_EVERY].tolist()
    for place in spoilt:
        records[place] = formats.spoil(records[place], file.kind, rng)
    planted["malformed"] = len(spoilt)
    starts = np.cumsum([0, *(record.count(b"\n") for record in records)])
    lines = tuple(int(starts[place]) + 1 for place in spoilt)
    return Piece(b"".join(records), int(starts[-1]), lines, planted)


_ZHIHU_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("INSTRUCTION", "RESPONSE", "SOURCE", "METADATA")]
)


def pieces_in_order(
    pool: ProcessPoolExecutor | None, seed: int, number: int, file: File, rows: int
) -> Iterator[Piece]:
    """Yields the chunks of a file in their order, made ahead by the workers, a few at a time."""
    calls = [
        (seed, number, file, start // CHUNK_ROWS, min(CHUNK_ROWS, rows - start))
        for start in range(0, rows, CHUNK_ROWS)
    ]
    if pool is None:
        yield from (make_piece(*call) for call in calls)
        return
    waiting: deque[Future[Piece]] = deque()
    for call in calls:
        waiting.append(pool.submit(make_piece, *call))
        if len(waiting) == 6:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def write_file(path: Path, file: File, pieces: Iterator[Piece]) -> dict[str, Any]:
    """Writes one file and returns what is true of it."""
    truth: dict[str, Any] = {"malformed_lines": []}
    lines = file.header.count("\n")
    with replacing(path) as sink:
        table = None
        if file.kind == "wiki":
            sink.write(corpora_wiki.header_stream())
        sink.write(file.header.encode())
        for piece in pieces:
            for key, count in piece.counts.items():
                truth[key] = truth.get(key, 0) + count
            truth["malformed_lines"] += [lines + line for line in piece.malformed]
            lines += piece.num_lines
            if file.source != "zhihu_kol":
                sink.write(piece.content)
                continue
            table = table or pq.ParquetWriter(sink, _ZHIHU_SCHEMA)
            rows = pa.ipc.open_stream(piece.content).read_all()
            table.write_table(rows, row_group_size=PARQUET_GROUP_ROWS)
        if file.kind == "wiki":
            sink.write(corpora_wiki.tail_stream())
        if table:
            table.close()
    return truth | {"bytes": path.stat().st_size}


def main(argv: Sequence[str]) -> int:
    """Writes everything and prints one line a file."""
    global _pool
    if any(token in ("-h", "--help", "help") for token in argv):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(Settings)}")
        return 0
    settings = cli.parse(argv, Settings)
    out, begin = Path(settings.out), time.monotonic()
    _pool = load_pool(Path(settings.real))
    print(f"{len(_pool.sentences)} sentences, {time.monotonic() - begin:.0f} s", flush=True)
    workers = None
    if settings.workers > 1:
        workers = ProcessPoolExecutor(settings.workers, mp_context=get_context("fork"))
    truth: dict[str, Any] = {}
    for number, (file, rows) in enumerate(rows_of_files(settings.rows)):
        name = f"{file.source}/{file.name}"
        pieces = pieces_in_order(workers, settings.seed, number, file, rows)
        truth[name] = {"rows": rows} | write_file(out / name, file, pieces)
        size = truth[name]["bytes"] / 1e6
        print(f"{name}: {rows} rows, {size:.1f} MB, {time.monotonic() - begin:.0f} s", flush=True)
    if workers:
        workers.shutdown()
    total = {"rows": settings.rows, "seed": settings.seed, "files": truth}
    write_json(out / "truth.json", total)
    return 0


if __name__ == "__main__":
    cli.run(main)
