"""Reading JSON Lines: ours against a plain ujson loop, with 0 to 1 % of malformed lines.

    python benchmarks/json_reader.py [real=pairs.parquet] [rows=60000] [rounds=7]

In: made-up sentences, or those of a parquet file with the columns prompt and response. Out: a table
and one JSON line. Every reader takes three text fields out of a file in the shape of baike_qa2019
and notes the malformed lines; the figures are medians of CPU seconds of one core, and the readers
take turns. Ours must name every malformed line and what is wrong with it, or there is no figure.
"""

import json
import platform
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import ujson

from chatlm import cli
from chatlm.corpus.json_blocks import read_blocks
from chatlm.corpus.read_json import read_jsonl
from chatlm.corpus.records import Rejected
from chatlm.errors import ConfigError

FIELDS = ("title", "desc", "answer")
SHARES = (0.0, 0.0001, 0.001, 0.01)
REAL_ROWS = 20_000
Bad = dict[int, str]

_SUBJECTS = (
    "春天的韭菜",
    "老房子的水管",
    "刚学游泳的孩子",
    "二手自行车",
    "阳台上的月季",
    "这款旧手机",
)
_ADVICE = (
    "要先看清楚原因，再决定怎么处理。",
    "每隔三五天检查一次就够了，不必太担心。",
    "最怕的是着急，慢慢来反而更快！",
    "可以问问邻居，也许他们也遇到过。",
    "价格大约在20到50元之间，不同的地方差别很大。",
    "应该放在通风、干燥而且晒不到太阳的地方。",
    "用温水泡10分钟，然后轻轻擦干。",
)
_QUESTIONS = ("怎么办？", "需要注意什么", "一般能用多久？", "有什么好办法吗")


@dataclass(frozen=True)
class Settings:
    """Settings of `benchmarks/json_reader.py`."""

    real: str = field(default="", metadata={"help": "parquet file to take sentences from"})
    rows: int = field(default=60_000, metadata={"help": "lines of the file"})
    rounds: int = field(default=7, metadata={"help": "how often each reader reads it"})

    def __post_init__(self) -> None:
        """Refuses what cannot work.

        Raises:
            ConfigError: no rows or no rounds.
        """
        if self.rows < 1 or self.rounds < 1:
            raise ConfigError("expected rows >= 1 and rounds >= 1")


def sentences_of(real: str) -> tuple[list[str], list[str]]:
    """Returns (titles, sentences of answers), made up unless `real` names a file."""
    if not real:
        return (
            ["".join(parts) for parts in product(_SUBJECTS, _QUESTIONS)],
            ["".join(parts) for parts in product(_SUBJECTS, _ADVICE)],
        )
    rows = next(pq.ParquetFile(real).iter_batches(REAL_ROWS, columns=["prompt", "response"]))
    answers = "\n".join(rows["response"].to_pylist())
    titles = [prompt for prompt in rows["prompt"].to_pylist() if len(prompt) <= 60]
    return titles, [
        found for found in re.findall(r"[^。！？\n]+[。！？]?", answers) if found.strip()
    ]


def write_corpus(path: Path, settings: Settings, share: float) -> Bad:
    """Writes the file and returns which of its lines are malformed, and how."""
    rng = random.Random(settings.rows)
    titles, sentences = sentences_of(settings.real)
    bad = Bad()
    with path.open("wb") as file:
        for number in range(1, settings.rows + 1):
            line = _line(rng, number, titles, sentences)
            if rng.random() < share:
                line, bad[number] = _hurt(rng, line)
            file.write(line + b"\n")
    return bad


def _line(rng: random.Random, number: int, titles: list[str], sentences: list[str]) -> bytes:
    paragraphs = list[str]()
    chars = rng.randrange(120, 330)
    while sum(map(len, paragraphs)) < chars:
        paragraphs.append("".join(rng.choices(sentences, k=3)))
    row = {
        "qid": f"qid_{number:07d}",
        "category": rng.choice(("生活-家居", "生活-育儿", "电脑/网络-硬件", "健康-运动")),
        "title": rng.choice(titles),
        "desc": rng.choice(sentences) if rng.random() < 0.4 else "",
        "answer": "\r\r".join(paragraphs),
    }
    return orjson.dumps(row)


def _hurt(rng: random.Random, line: bytes) -> tuple[bytes, str]:
    """Returns a line with one of the faults of real files, and its reason."""
    end = line.rindex(b'"')
    faults = (
        (line[: len(line) // 2].decode(errors="ignore").encode(), "malformed_json"),
        (line[:end] + b"\xe4\xb8" + line[end:], "invalid_utf8"),
        (line[:end] + b"\\ud83d" + line[end:], "lone_surrogate"),
        (line[:end] + b"\t" + line[end:], "malformed_json"),
        (line[:end] + b'" "' + line[end:], "malformed_json"),
        (b"[" + line + b"]", "not_an_object"),
    )
    return rng.choice(faults)


def with_ujson(path: Path) -> tuple[int, Bad]:
    """The plain loop over bytes."""
    with path.open("rb") as file:
        return _loop(file)


def with_ujson_text(path: Path) -> tuple[int, Bad]:
    """The plain loop over text, as most scripts have it; bytes that are no UTF-8 become U+FFFD."""
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        return _loop(file)


def _loop(file: Iterable[str | bytes]) -> tuple[int, Bad]:
    """Fills a list for each field; returns their length and the numbers of the lines that raise."""
    titles, details, answers, bad = list[str](), list[str](), list[str](), Bad()
    for number, line in enumerate(file, start=1):
        try:
            row = ujson.loads(line)
            title, detail, answer = row["title"], row["desc"], row["answer"]
        except (ValueError, TypeError):
            bad[number] = "?"
            continue
        titles.append(title)
        details.append(detail)
        answers.append(answer)
    return len(answers), bad


def with_rows(path: Path) -> tuple[int, Bad]:
    """Our reader of rows, the definition of what is right."""
    columns, bad = ([], [], []), Bad()
    for found in read_jsonl(path):
        if isinstance(found, Rejected):
            bad[found.position] = found.reason
            continue
        for column, name in zip(columns, FIELDS, strict=True):
            column.append(found.fields[name])
    return len(columns[0]), bad


def with_blocks(path: Path) -> tuple[int, Bad]:
    """Our reader of blocks, as the cleaning uses it: columns that the next block overwrites."""
    num_rows, bad = 0, Bad()
    for block in read_blocks(path, FIELDS):
        assert all(len(block.texts[name]) == len(block) for name in FIELDS)
        num_rows += len(block)
        bad.update((one.position, one.reason) for one in block.others if isinstance(one, Rejected))
    return num_rows, bad


def with_kept_blocks(path: Path) -> tuple[int, Bad]:
    """The same, every column kept as an Arrow array of its own."""
    columns, bad = list[pa.Array](), Bad()
    for block in read_blocks(path, FIELDS):
        for name in FIELDS:
            array = block.texts[name].to_arrow()
            columns.append(pa.concat_arrays([array, array.slice(0, 0)]))
        bad.update((one.position, one.reason) for one in block.others if isinstance(one, Rejected))
    return sum(map(len, columns)) // len(FIELDS), bad


READERS: dict[str, Callable[[Path], tuple[int, Bad]]] = {
    "ujson loop": with_ujson,
    "ujson loop, text": with_ujson_text,
    "our rows": with_rows,
    "our blocks": with_blocks,
    "our blocks, kept": with_kept_blocks,
}


def measure(path: Path, rounds: int, bad: Bad, rows: int) -> dict[str, dict[str, float]]:
    """Returns for each reader its median CPU seconds and how many malformed lines it named."""
    seconds: dict[str, list[float]] = {name: [] for name in READERS}
    named = dict[str, int]()
    for _ in range(rounds + 1):
        for name, reader in READERS.items():
            begin = time.process_time()
            num_rows, found = reader(path)
            seconds[name].append(time.process_time() - begin)
            named[name] = len(found.keys() & bad.keys())
            if "ujson" not in name and (found, num_rows) != (bad, rows - len(bad)):
                raise SystemExit(f"{name}: found {found} and {num_rows} rows, expected {bad}")
    # The first round compiles and warms up.
    return {
        name: {"seconds": median(taken[1:]), "named": named[name]}
        for name, taken in seconds.items()
    }


def main(argv: Sequence[str]) -> int:
    """Prints the table and the JSON line."""
    if any(token in ("-h", "--help", "help") for token in argv):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(Settings)}")
        return 0
    settings = cli.parse(argv, Settings)
    results, size = list[dict[str, object]](), 0
    print(f"{'malformed':>9}  {'reader':<18}{'rows/s':>12}{'MB/s':>8}{'x ujson':>9}  named")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "baike.json"
        for share in SHARES:
            bad = write_corpus(path, settings, share)
            size = path.stat().st_size
            measured = measure(path, settings.rounds, bad, settings.rows)
            base = measured["ujson loop"]["seconds"]
            for name, one in measured.items():
                result = {
                    "malformed": share,
                    "reader": name,
                    "rows_per_s": round(settings.rows / one["seconds"]),
                    "mb_per_s": round(size / one["seconds"] / 1e6),
                    "times_ujson": round(base / one["seconds"], 2),
                    "named": f"{one['named']:.0f}/{len(bad)}",
                }
                results.append(result)
                print(
                    f"{share:>9.2%}  {name:<18}{result['rows_per_s']:>12,}{result['mb_per_s']:>8,}"
                    f"{result['times_ujson']:>9}  {result['named']}"
                )
    about = {"rows": settings.rows, "bytes": size, "rounds": settings.rounds}
    print(
        json.dumps(
            {"benchmark": "json_reader", "python": platform.python_version()}
            | about
            | {"real": bool(settings.real), "results": results}
        )
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
