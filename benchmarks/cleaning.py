"""Cleaning of one corpus, JSON Lines to a file of clean rows: the predecessor, compat and ours.

    python -m benchmarks.cleaning original=DIR [python=PYTHON] [real=PAIRS.parquet] [rows=60000]

In: a checkout of Chat-LM-small and a Python that has its dependencies; perhaps a parquet file of
real pairs to take sentences from. Out: a table and one line of JSON: rows a second of CPU time and
of wall time on one core, medians of interleaved rounds, and whether compat gave the same rows. The
predecessor's `process_bake_qa` runs unchanged in a process of its own; reading, cleaning, writing
and nothing else is timed, after one round that is not (compilation).
"""

import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from chatlm import cli
from chatlm.corpus.columns import ColumnRoad
from chatlm.corpus.compat_road import CompatRoad
from chatlm.corpus.json_blocks import Block, read_blocks
from chatlm.corpus.kernels import clean
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.shards import ShardWriter, read_shard
from chatlm.corpus.sources import SOURCES
from chatlm.errors import ConfigError

BLOCK_BYTES = 8 << 20
SOURCE = "baike_qa2019"
RECIPE = Recipe(min_prompt_chars=4, min_response_chars=4, min_han_share=0.5, min_unended_chars=100)
_MADE_UP = (
    "先把土豆切成丝，用清水泡十分钟。",
    "这种花喜欢阳光，夏天要早晚各浇一次水！",
    "如果路由器离得太远，信号会变弱，可以换一个位置试试。",
    "我家的猫也这样，后来换了粮就好了。",
    "面试前多了解公司的业务，回答时语速慢一点。",
    "木头桌面可以打蜡，三个月一次就够。",
    "他们三点出发，五点到，路上只停了一次？",
    "晚上少喝咖啡，睡前把手机放到另一个房间。",
)
# Runs in the predecessor's Python: modules that its cleaning does not use may be missing there.
_ORIGINAL = """
import json, sys, time, types
folder, root = sys.argv[1:]
for name in ("matplotlib", "matplotlib.pyplot", "utils.functions", "logger", "opencc"):
    module = sys.modules[name] = types.ModuleType(name)
    module.pyplot = module.get_path_of_suffix_files = module.DropDatasetDuplicate = module
    module.OpenCC = module
sys.modules["logger"].Logger = lambda *a, **k: types.SimpleNamespace(info=lambda *a, **k: None)
sys.path[:0] = [folder, folder + "/utils"]
from utils import raw_data_process as original
original.PROJECT_ROOT = root
wall, cpu = time.perf_counter(), time.process_time()
original.process_bake_qa(response_less_word=15)
seconds = [time.process_time() - cpu, time.perf_counter() - wall]
with open("/proc/self/status") as file:
    peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
print(json.dumps([*seconds, peak]))
"""


@dataclass(frozen=True)
class Settings:
    """Settings of this benchmark."""

    original: str = field(
        default="", metadata={"help": "checkout of Chat-LM-small; none: only ours"}
    )
    python: str = field(default=sys.executable, metadata={"help": "Python with its dependencies"})
    real: str = field(default="", metadata={"help": "parquet file of real pairs"})
    rows: int = field(default=60_000, metadata={"help": "rows of the file that is cleaned"})
    rounds: int = field(default=3, metadata={"help": "timed rounds of each side"})
    seed: int = field(default=0, metadata={"help": "another seed, other rows"})


def main(argv: Sequence[str]) -> int:
    """Prints the table and the line of JSON; returns 0, or 1 if compat gave other rows."""
    settings = cli.parse(argv, Settings)
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        raw = root / "data" / "raw_data" / "baike_qa_train.json"
        raw.parent.mkdir(parents=True)
        (root / "data" / "my_data").mkdir()
        raw.with_name("baike_qa_valid.json").touch()
        write_raw(raw, settings)
        sides: dict[str, Callable[[], list[float]]] = {
            "compat": lambda: _ours(CompatRoad(SOURCE), raw, root / "compat.arrow"),
            "corrected": lambda: _ours(
                ColumnRoad(SOURCES[SOURCE], RECIPE), raw, root / "corrected.arrow"
            ),
        }
        for run in sides.values():
            run()
        _forget_peak()
        if settings.original:
            sides = {"original": lambda: _original(settings, root), **sides}
        times = dict[str, list[list[float]]]()
        for _ in range(settings.rounds):
            for name, run in sides.items():
                times.setdefault(name, []).append(run())
        figures = _figures(times, settings.rows, raw.stat().st_size)
        if settings.original:
            figures["same_rows"] = _rows(root / "compat.arrow") == _rows(_parquet(root))
        figures["corrected_outcomes"] = _outcomes(raw)
    for name in times:
        one = figures[name]
        print(
            f"{name:10} {one['rows_per_cpu_second']:>9,} rows/s of CPU "
            f"{one['rows_per_second']:>9,} rows/s {one['against_original']:>6} x "
            f"{one['peak_mib']:>6} MiB"
        )
    print(json.dumps(figures))
    return 0 if figures.get("same_rows", True) else 1


def write_raw(path: Path, settings: Settings) -> None:
    """Writes a file in the published format of baike_qa2019 with the noise of real scrapes."""
    rng = random.Random(settings.seed)
    asked, answers = _sentences(settings.real, rng)
    with path.open("wb") as file:
        for number in range(settings.rows):
            file.write(orjson.dumps(_record(number, rng, asked, answers)) + b"\n")


def _record(
    number: int, rng: random.Random, asked: Sequence[str], answers: Sequence[str]
) -> dict[str, str]:
    title = rng.choice(asked).strip() + " " * (rng.random() < 0.6)
    detail = rng.random()
    desc = ""
    if detail < 0.45:
        desc = "".join(rng.choice(answers) for _ in range(rng.choice((1, 1, 2))))
    elif detail < 0.55:
        desc = title.strip()
    # Most answers are short and 12 % are long: about 200 characters on average.
    wanted = rng.randrange(520, 1100) if rng.random() < 0.12 else int(rng.lognormvariate(4.4, 0.8))
    parts, length = list[str](), 0
    while length < wanted:
        part = rng.choice(answers)
        noise = rng.random()
        if noise < 0.02:
            part = part.rstrip("。！？") + rng.choice(("！！！", "。。。。", "，，", "~~~~~"))
        elif noise < 0.04:
            part = f"\u3000\u3000{part}"
        if parts and noise > 0.85:
            part = f"\r\r{part}"
        parts.append(part)
        length += len(part)
    answer = "".join(parts)
    return {
        "qid": f"qid_{number:019}",
        "category": "生活",
        "title": title,
        "desc": desc,
        "answer": answer,
    }


def _sentences(real: str, rng: random.Random) -> tuple[list[str], list[str]]:
    """Returns short questions and sentences of answers."""
    if not real:
        return [f"{text.rstrip('。！？')}，怎么办？" for text in _MADE_UP], list(_MADE_UP)
    table = pq.read_table(real, columns=["prompt", "response"])
    table = table.take(sorted(rng.sample(range(len(table)), min(len(table), 30_000))))
    prompts, responses = (table[name].to_pylist() for name in ("prompt", "response"))
    asked = [text.split("\n")[0] for text in prompts]
    answers = [part for text in responses for part in re.findall("[^。！？\n]+[。！？]", text)]
    return (
        [text for text in asked if 6 <= len(text) <= 60],
        [text for text in answers if 6 <= len(text) <= 120],
    )


def _ours(road: CompatRoad | ColumnRoad, raw: Path, out: Path) -> list[float]:
    wall, cpu = time.perf_counter(), time.process_time()
    with ShardWriter(out) as writer:
        for block in _blocks(road, raw):
            writer.write(road.clean_block(block, str(raw)).to_arrow(0))
    seconds = [time.process_time() - cpu, time.perf_counter() - wall]
    return [*seconds, _peak_kib()]


def _peak_kib() -> int:
    """Returns the most memory that this process ever had resident."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _forget_peak() -> None:
    """Makes the peak what is resident now: making up the rows and compiling are not measured."""
    Path("/proc/self/clear_refs").write_text("5")


def _blocks(road: CompatRoad | ColumnRoad, raw: Path) -> Iterator[Block]:
    return read_blocks(raw, *road.fields, block_bytes=BLOCK_BYTES)


def _original(settings: Settings, root: Path) -> list[float]:
    _parquet(root).unlink(missing_ok=True)
    command = [settings.python, "-c", _ORIGINAL, settings.original, str(root)]
    found = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=settings.original
    )
    if found.returncode:
        raise ConfigError(f"original={settings.original}: it did not run: {found.stderr[-500:]}")
    return json.loads(found.stdout.splitlines()[-1])


def _parquet(root: Path) -> Path:
    return root / "data" / "my_data" / "my_baike_qa.parquet"


def _rows(path: Path) -> list[tuple[str, str]]:
    table = (
        pq.read_table(path)
        if path.suffix == ".parquet"
        else pa.Table.from_batches(list(read_shard(path)))
    )
    return list(zip(table["prompt"].to_pylist(), table["response"].to_pylist(), strict=True))


def _outcomes(raw: Path) -> dict[str, float]:
    """Returns the percent of rows that had each outcome under the corrected recipe."""
    road = ColumnRoad(SOURCES[SOURCE], RECIPE)
    totals = [road.clean_block(block, str(raw)).outcomes for block in _blocks(road, raw)]
    shares = (100 * np.sum(totals, axis=0) / np.sum(totals)).round(2).tolist()
    return {name: share for name, share in zip(clean.OUTCOMES, shares, strict=True) if share}


def _figures(times: dict[str, list[list[float]]], rows: int, num_bytes: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"rows": rows, "megabytes": round(num_bytes / 1e6, 1)}
    base = statistics.median(cpu for cpu, _, _ in times.get("original", [[0.0, 0.0, 0.0]]))
    for name, rounds in times.items():
        cpu = statistics.median(one[0] for one in rounds)
        figures[name] = {
            "rows_per_cpu_second": round(rows / cpu),
            "rows_per_second": round(rows / statistics.median(one[1] for one in rounds)),
            "against_original": round(base / cpu, 1),
            "peak_mib": round(max(one[2] for one in rounds) / 1024),
        }
    return figures


if __name__ == "__main__":
    cli.run(main)
