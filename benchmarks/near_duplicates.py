"""Near duplicates: the predecessor's class and ours, speed, memory, and both against the truth.

    python -m benchmarks.near_duplicates original=DIR python=PYTHON real=PAIRS.parquet

In: a checkout of Chat-LM-small, a Python that has datasketch, and a parquet file of real pairs.
Out: a table and one line of JSON. Speed: rows a second of CPU time on one core, the predecessor's
`DropDatasetDuplicate` on some rows, ours on the same and on all, after one round that is not timed
(compilation), medians of interleaved rounds; ours is the whole stage with its files, from shards to
decisions: exact and near duplicates of rows, and (left out in `without_questions`) clusters of
questions, of which the predecessor has none. `in_memory` is what the predecessor's class does, by
our loops: from texts in memory to which rows stay, without files, hashes and tasks. Quality: rows
that are linked to another one, against the exact Jaccard similarity of the 3-grams of all pairs of
real rows and planted edits; the rules for numbers and responses are switched off there.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.duplicates_in_memory import blocks_of, in_memory
from chatlm import cli
from chatlm.corpus.duplicates.decide import Decisions, DuplicateSettings, decide
from chatlm.corpus.kernels.folding import SEPARATOR
from chatlm.corpus.keys import folded
from chatlm.corpus.tasks import Engine, Result, Task
from chatlm.errors import ConfigError

SHARD_ROWS = 100_000
_ORIGINAL = """
import ast, json, re, sys, time
from collections import defaultdict
from datasketch import MinHash, MinHashLSH
names = {"DropDatasetDuplicate", "_get_doc_mini_hash"}
tree = ast.parse(open(sys.argv[1] + "/utils/functions.py", encoding="utf-8").read())
wanted = [
    node for node in tree.body
    if getattr(node, "name", "") in names
    or isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "NON_CHAR"
]
exec(compile(ast.Module(wanted, []), "functions.py", "exec"))
texts = json.load(sys.stdin)
start = time.process_time()
finder = DropDatasetDuplicate(threshold=0.85, num_perm=256)
for index, text in enumerate(texts):
    finder.add_doc(index, text)
found = finder.get_duplicate_indexs()
json.dump({"seconds": time.process_time() - start, "dropped": sorted(found)}, sys.stdout)
"""
_PEAKS = """
import json, sys
from pathlib import Path
from chatlm.corpus.duplicates.decide import DuplicateSettings, decide
from chatlm.corpus.tasks import Engine
peaks = []
for text in sys.argv[1:]:
    shards, work = json.loads(text)
    decide([Path(shard) for shard in shards], Path(work), Engine(), DuplicateSettings())
    status = Path("/proc/self/status").read_text()
    peaks.append(int(status.split("VmHWM:")[1].split()[0]) * 1.024)
print(json.dumps(peaks))
"""
Rows = list[tuple[str, str]]


class Clock(Engine):
    """Runs tasks and notes the CPU seconds of each title."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = dict[str, float]()
        self._start = time.process_time()

    def run(self, tasks: Sequence[Task], title: str) -> list[Result]:
        """Returns what `Engine.run` returns."""
        start = time.process_time()
        results = super().run(tasks, title)
        self._seconds[title] = time.process_time() - start
        return results

    def stop(self) -> None:
        """Ends the measurement."""
        self._end = time.process_time()

    def total(self) -> float:
        """CPU seconds from the start to `stop`."""
        return self._end - self._start

    def of(self, word: str) -> float:
        """CPU seconds of the steps with this word in their titles."""
        return sum(seconds for title, seconds in self._seconds.items() if word in title)


@dataclass(frozen=True)
class Settings:
    """What to measure."""

    original: str = field(default="", metadata={"help": "checkout of Chat-LM-small"})
    python: str = field(default=sys.executable, metadata={"help": "a Python that has datasketch"})
    real: str = field(default="", metadata={"help": "parquet of real pairs"})
    rows: int = field(default=3_000, metadata={"help": "rows that both measure"})
    truth: int = field(default=8_000, metadata={"help": "real rows compared with all others"})
    memory_rows: int = field(
        default=1_000_000, metadata={"help": "rows, made of the real ones, to measure memory with"}
    )
    rounds: int = field(default=3, metadata={"help": "rounds of the speed measurement"})
    seed: int = field(default=0, metadata={"help": "which rows, which edits"})


def main(argv: Sequence[str]) -> int:
    """Measures and prints; returns 0."""
    settings = cli.parse(argv, Settings)
    if not settings.real:
        raise ConfigError("real= is needed: a parquet file with prompt and response")
    table = pq.read_table(settings.real, columns=["prompt", "response"])
    rows = list(zip(*(table.column(name).to_pylist() for name in table.schema.names), strict=True))
    rng = random.Random(settings.seed)
    some = rng.sample(rows, settings.rows)
    result = speed(rows, some, settings) | quality(
        planted(rng.sample(rows, settings.truth), rng), settings
    )
    for name, value in result.items():
        print(f"{name:32} {value:,}" if isinstance(value, int) else f"{name:32} {value:,.5g}")
    print(json.dumps(result))
    return 0


def speed(rows: Rows, some: Rows, settings: Settings) -> dict[str, Any]:
    """Returns rows a second of both, their ratio, and our memory."""
    all_s, rows_only_s, some_s, original_s, core_s = (list[float]() for _ in range(5))
    blocks = blocks_of(rows)
    num_kept = int(in_memory(blocks).sum())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        some_shards = shards_of(some, folder / "some")
        all_shards = shards_of(rows, folder / "all")
        run(some_shards, folder / "warm")
        for number in range(settings.rounds):
            clock = run(all_shards, folder / f"all-{number}")[1]
            all_s.append(clock.total())
            rows_only_s.append(clock.total() - clock.of("question") - clock.of("decisions"))
            start = time.process_time()
            in_memory(blocks)
            core_s.append(time.process_time() - start)
            some_s.append(run(some_shards, folder / f"some-{number}")[1].total())
            if settings.original:
                original_s.append(run_original(some, settings)["seconds"])
        many = shards_of(resampled(rows, settings.memory_rows, settings.seed), folder / "many")
        growth = memory_growth(many[:1], many, folder)
    found = {
        "rows": len(rows),
        "rows_per_s": len(rows) / statistics.median(all_s),
        "rows_per_s_without_questions": len(rows) / statistics.median(rows_only_s),
        "rows_per_s_in_memory": len(rows) / statistics.median(core_s),
        "kept_in_memory": num_kept,
        "some_rows": len(some),
        "some_rows_per_s": len(some) / statistics.median(some_s),
        "memory_rows": settings.memory_rows,
        "memory_gb_more_than_one_shard": growth,
    }
    if original_s:
        rate = len(some) / statistics.median(original_s)
        found |= {"original_rows_per_s": rate, "ratio": found["rows_per_s"] / rate}
        found["ratio_without_questions"] = found["rows_per_s_without_questions"] / rate
        found["ratio_in_memory"] = found["rows_per_s_in_memory"] / rate
        found["ratio_same_rows"] = found["some_rows_per_s"] / rate
    return found


def resampled(rows: Rows, size: int, seed: int) -> Rows:
    """Returns so many rows, each with the prompt of one real row and the response of another."""
    rng = random.Random(seed)
    return [(rng.choice(rows)[0], rng.choice(rows)[1]) for _ in range(size)]


def memory_growth(first: list[Path], then: list[Path], folder: Path) -> float:
    """Returns by how many GB the peak of a process grows when it takes `then` after `first`."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAKS, json.dumps([[str(one) for one in first], str(folder / "a")]),
         json.dumps([[str(one) for one in then], str(folder / "b")])],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
    )  # fmt: skip
    before, after = json.loads(done.stdout)
    return (after - before) / 1e6


def quality(rows: Rows, settings: Settings) -> dict[str, Any]:
    """Returns precision and recall of rows that have a near duplicate among `rows`."""
    truth = components(len(rows), true_links([joined(row) for row in rows], 0.85))
    found: dict[str, Any] = {"truth_rows": len(rows), "truth_dropped": num_dropped(truth)}
    with tempfile.TemporaryDirectory() as name:
        shards = shards_of(rows, Path(name) / "rows")
        for bands, width in ((16, 8), (20, 6)):
            chosen = DuplicateSettings(
                pair_bands=bands,
                pair_band_rows=width,
                respect_digits=False,
                response_threshold=0.0,
            )
            decided, _ = run(shards, Path(name) / f"{bands}", chosen)
            best = np.concatenate([np.load(one.folder / "of.npy") for one in decided.shards])
            best = np.where(best < 0, np.arange(len(best)), best)
            precision, recall = agreement(best, truth)
            found |= {
                f"precision_{bands}x{width}": precision,
                f"recall_{bands}x{width}": recall,
                f"dropped_{bands}x{width}": num_dropped(best),
            }
    if settings.original:
        dropped = set(run_original(rows, settings)["dropped"])
        first = {int(group): number for number, group in reversed(list(enumerate(truth)))}
        expected = set(range(len(rows))) - set(first.values())
        found["original_dropped"] = len(dropped)
        found["original_precision"] = len(dropped & expected) / max(1, len(dropped))
        found["original_recall"] = len(dropped & expected) / max(1, len(expected))
    return found


def planted(rows: Rows, rng: random.Random) -> Rows:
    """Returns the rows and edited copies of a quarter of them, of five kinds."""
    copies = Rows()
    for prompt, response in rng.sample(rows, len(rows) // 4):
        copies.append((prompt, edited(response, rng)))
    mixed = rows + copies
    rng.shuffle(mixed)
    return mixed


def edited(text: str, rng: random.Random) -> str:
    """Returns `text` with edits of 0.5 to 8 % of its characters, or cut, or otherwise ordered."""
    kind = rng.randrange(4)
    if kind == 0:
        return text[: int(len(text) * rng.uniform(0.8, 1.0))]
    if kind == 1:
        return text.translate(str.maketrans("，。！？", ",.!?"))
    if kind == 2:
        sentences = text.split("。")
        rng.shuffle(sentences)
        return "。".join(sentences)
    chars = list(text)
    for _ in range(max(1, int(len(chars) * rng.uniform(0.005, 0.08)))):
        place = rng.randrange(len(chars) + 1)
        chars[place : place + rng.randrange(2)] = rng.choice(["", "的", "了", "a"])
    return "".join(chars)


def joined(row: tuple[str, str]) -> str:
    """Returns the text by which a row is compared."""
    return f"{folded(row[0])}{chr(SEPARATOR)}{folded(row[1])}"


def true_links(texts: Sequence[str], threshold: float) -> list[tuple[int, int]]:
    """Returns all pairs with at least this Jaccard similarity, by an index of all 3-grams."""
    sets = [
        {text[i : i + 3] for i in range(len(text) - 2)} if len(text) > 3 else () for text in texts
    ]
    index = dict[str, list[int]]()
    links = list[tuple[int, int]]()
    for number, grams in enumerate(sets):
        shared = np.zeros(0, np.int64)
        lists = [index[gram] for gram in grams if gram in index]
        if lists:
            others, counts = np.unique(
                np.concatenate([np.array(one) for one in lists]), return_counts=True
            )
            sizes = np.array([len(sets[other]) for other in others.tolist()])
            shared = others[counts / (sizes + len(grams) - counts) >= threshold]
        links += [(int(other), number) for other in shared]
        for gram in grams:
            index.setdefault(gram, []).append(number)
    return links


def components(size: int, links: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Returns for each row the smallest row that links connect it to."""
    root = list(range(size))

    def find(row: int) -> int:
        while root[row] != row:
            root[row] = root[root[row]]
            row = root[row]
        return row

    for left, right in links:
        one, other = find(left), find(right)
        root[max(one, other)] = min(one, other)
    return np.array([find(row) for row in range(size)])


def num_dropped(groups: NDArray[np.int64]) -> int:
    """Returns how many rows go if one of each group stays."""
    return len(groups) - len(np.unique(groups))


def agreement(found: NDArray[np.int64], truth: NDArray[np.int64]) -> tuple[float, float]:
    """Returns precision and recall of what is dropped, groups against groups.

    What both drop is the number of rows less the number of groups, for the meeting of the two.
    """
    both = num_dropped(
        np.unique(np.stack([found, truth]), axis=1, return_inverse=True)[1].reshape(-1)
    )
    return both / max(1, num_dropped(found)), both / max(1, num_dropped(truth))


def shards_of(rows: Rows, folder: Path) -> list[Path]:
    """Writes clean shards; returns their paths."""
    folder.mkdir(parents=True)
    paths = list[Path]()
    for start in range(0, len(rows), SHARD_ROWS):
        some = rows[start : start + SHARD_ROWS]
        table = pa.table({"prompt": [row[0] for row in some], "response": [row[1] for row in some]})
        paths.append(folder / f"{start:09}.arrow")
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(str(paths[-1]), table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=16_384)
    return paths


def run(
    shards: list[Path], work: Path, chosen: DuplicateSettings | None = None
) -> tuple[Decisions, Clock]:
    """Runs the whole stage in this process; returns what it decided and what it took."""
    clock = Clock()
    decided = decide(shards, work, clock, chosen or DuplicateSettings())
    clock.stop()
    return decided, clock


def run_original(rows: Rows, settings: Settings) -> dict[str, Any]:
    """Runs the predecessor's class on prompt and response, as the predecessor does."""
    done = subprocess.run(
        [settings.python, "-c", _ORIGINAL, settings.original],
        input=json.dumps([prompt + response for prompt, response in rows]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    cli.run(main)
