"""What the loader delivers, how much of it is filler, and what memory it takes.

    python benchmarks/loader.py                      # ten million made-up pairs, 2.8 GB of disk
    python benchmarks/loader.py rows=100000 steps=5
    python benchmarks/loader.py store=data/cache/tokens-...   # pairs that are already tokenised

Made-up pairs have log-normal lengths like real ones: a mean of about 24 source and 103 target
tokens. Every figure is one thread's; tokens are those of one process, by CPU time, medians of
steps. Filler is the share of a side's positions that hold no real token. Beside ours stand the
layouts that lost: rows into which several pairs are packed (best fit), and padded batches. Memory
is that of a fresh process beyond the interpreter with torch and this package imported: anonymous
memory is the process's own; resident memory also counts pages of the mapped files, which the system
shares among processes. Prints tables and one line of JSON.
"""

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ujson
from rich.console import Console
from rich.table import Table

from chatlm import cli
from chatlm.corpus.store import file_sha256
from chatlm.dataset.batches import Batch, Loader, Step, lengths_of
from chatlm.dataset.order import Order
from chatlm.dataset.token_store import FORMAT_VERSION, TokenStore, open_store

SIDES = {"source": (2.72, 1.0, 256), "target": (4.33, 0.85, 320)}
"""Mean and deviation of the logarithm of a length, and the longest."""
CHUNK = 1 << 20
NUM_IDS = 29298
CONSUMED = {"one H200, 0.2B model at 55 % MFU": 712_000, "one CPU core, 53M model": 500}
"""Tokens a second that a model takes; the first is computed, the second measured."""
ROW_TOKENS = (512, 1024)
SOURCE_MARGINS = (1.0, 1.1, 1.25, 1.5)
LOSER_STEPS = 10


@dataclass(frozen=True)
class Settings:
    """Settings of `benchmarks/loader.py`."""

    rows: int = field(default=10_000_000, metadata={"help": "pairs to make up"})
    store: str = field(default="", metadata={"help": "a token store to read instead"})
    folder: str = field(default="", metadata={"help": "where to make it; default: a temporary one"})
    batch_sizes: str = field(default="256,1024", metadata={"help": "pairs a step"})
    processes: str = field(default="1,2,8", metadata={"help": "that share a step"})
    max_tokens: int = field(default=16384, metadata={"help": "of a microbatch"})
    steps: int = field(default=40, metadata={"help": "steps of every measurement"})


@dataclass(frozen=True)
class Case:
    """One way to load. Without fixed shapes there is no filler."""

    batch_size: int
    num_processes: int
    fixed_shapes: bool


def write_store(folder: Path, rows: int) -> None:
    """Writes a token store of random ids, a piece at a time."""
    rng = np.random.default_rng(0)
    for side, (mean, deviation, longest) in SIDES.items():
        lengths = np.clip(rng.lognormal(mean, deviation, rows), 2, longest).astype(np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        np.save(folder / f"{side}_offsets.npy", offsets)
        with (folder / f"{side}s.bin").open("wb") as file:
            for start in range(0, int(offsets[-1]), CHUNK):
                num = min(CHUNK, int(offsets[-1]) - start)
                file.write(rng.integers(2, NUM_IDS, num, np.uint16).data)
            file.flush()
            os.fsync(file.fileno())
    np.save(folder / "target_chars.npy", np.ones(rows, np.uint32))
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    meta = {"format": FORMAT_VERSION, "dtype": "uint16", "rows": rows, "files": files}
    (folder / "meta.json").write_text(ujson.dumps(meta))


def memory() -> dict[str, float]:
    """Returns this process's memory in MiB."""
    text = Path("/proc/self/smaps_rollup").read_text()
    sizes = {line.split(":")[0]: line.split()[1] for line in text.splitlines()[1:]}
    return {"anonymous": int(sizes["Anonymous"]) / 1024, "resident": int(sizes["Rss"]) / 1024}


def most_resident() -> float:
    """Returns the most memory in MiB that this process ever had mapped and present."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def forget(folder: Path) -> None:
    """Lets the system drop what it keeps of the files in memory."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cold(folder: Path, settings: Settings) -> dict[str, Any]:
    """Returns what opening takes, the first steps on files that are not in memory, and memory."""
    forget(folder)
    before = memory()
    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start, used = time.perf_counter(), time.process_time()
        result = call()
        seconds[name] = round(time.perf_counter() - start, 3)
        seconds[f"{name}_cpu"] = round(time.process_time() - used, 3)
        return result

    store: TokenStore = timed("open", lambda: open_store(folder))
    opened = memory()
    batch_size = int(settings.batch_sizes.split(",")[-1])
    order = Order(len(store), batch_size, seed=0)
    timed("permutation", lambda: order.rows(0))
    loader = Loader(store, order, settings.max_tokens, fixed_shapes=True)
    peak = memory()
    tokens = [0, 0]
    for half in (0, 1):
        start = time.perf_counter()
        for index in range(half * settings.steps, (half + 1) * settings.steps):
            tokens[half] += loader.step(index).num_tokens
            peak = {name: max(size, peak[name]) for name, size in memory().items()}
        tokens[half] = round(tokens[half] / (time.perf_counter() - start))
    peak["resident"] = most_resident()
    return {
        "pairs": len(store),
        "seconds": seconds,
        "mib_after_opening": _beyond(before, opened),
        "mib_peak": _beyond(before, peak),
        "tokens_per_second_first_steps": tokens[0],
        "tokens_per_second_next_steps": tokens[1],
    }


def _beyond(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {name: round(after[name] - before[name], 1) for name in before}


def speed(folder: Path, settings: Settings) -> list[dict[str, Any]]:
    """Returns tokens a second and filler of every case, the cases taken in turn."""
    store = open_store(folder)
    cases = [
        Case(batch_size, num_processes, fixed_shapes)
        for batch_size in map(int, settings.batch_sizes.split(","))
        for num_processes in map(int, settings.processes.split(","))
        for fixed_shapes in (False, True)
    ]
    loaders = [
        Loader(
            store,
            Order(len(store), case.batch_size, seed=0),
            settings.max_tokens,
            num_processes=case.num_processes,
            fixed_shapes=case.fixed_shapes,
        )
        for case in cases
    ]
    taken: list[list[tuple[Step, float, float]]] = [[] for _ in cases]
    for index in range(-2, settings.steps):  # the first two of each are not counted
        for loader, steps in zip(loaders, taken, strict=True):
            start, used = time.perf_counter(), time.process_time()
            step = loader.step(index % loader.order.steps_per_epoch)
            spent = time.process_time() - used, time.perf_counter() - start
            if index >= 0:
                steps.append((step, *spent))
    return [_figures(case, steps) for case, steps in zip(cases, taken, strict=True)]


def _figures(case: Case, steps: Sequence[tuple[Step, float, float]]) -> dict[str, Any]:
    real, filled, shapes, num = np.zeros(2), np.zeros(2), set(), 0
    cpu, wall = [], []
    for step, cpu_seconds, wall_seconds in steps:
        tokens = np.zeros(2)
        for batch in step.microbatches:
            tokens += real_tokens(batch)
            filled += (len(batch.input_ids), len(batch.labels))
            shapes.add(tuple(len(tensor) for tensor in batch.tensors()))
        num += len(step.microbatches)
        real += tokens
        cpu.append(tokens.sum() / cpu_seconds)
        wall.append(tokens.sum() / wall_seconds)
    return {
        "batch_size": case.batch_size,
        "processes": case.num_processes,
        "fixed_shapes": case.fixed_shapes,
        "microbatches": round(num / len(steps), 2),
        "shapes": len(shapes),
        "source_filler": round(1 - real[0] / filled[0], 4),
        "target_filler": round(1 - real[1] / filled[1], 4),
        "tokens_per_cpu_second": round(statistics.median(cpu)),
        "tokens_per_second": round(statistics.median(wall)),
    }


def real_tokens(batch: Batch) -> tuple[int, int]:
    """Returns the source and target tokens that are no filler: random ids are 2 or more."""
    return int((batch.input_ids > 0).sum()), int((batch.labels > 0).sum())


def losers(folder: Path, settings: Settings) -> list[dict[str, Any]]:
    """Returns the share of padding that other layouts have on the same steps."""
    store = open_store(folder)
    batch_size = int(settings.batch_sizes.split(",")[-1])
    order = Order(len(store), batch_size, seed=0)
    layouts: dict[str, Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]] = {
        "16 random pairs, padded": lambda lengths: padded(lengths, 16),
        "16 pairs of similar length, padded": lambda lengths: padded(
            lengths[np.lexsort(lengths.T)], 16
        ),
    }
    for size in ROW_TOKENS:
        layouts[f"best fit, rows of {size} target tokens"] = lambda lengths, size=size: best_fit(
            lengths, size
        )
    found = []
    for name, layout in layouts.items():
        tokens, positions = np.zeros(2), np.zeros(2)
        for index in range(min(settings.steps, LOSER_STEPS, order.steps_per_epoch)):
            lengths = np.stack(lengths_of(store, order.rows(index)), 1)
            tokens += lengths.sum(0)
            positions += layout(lengths)
        source, target = (1 - tokens / positions).round(4).tolist()
        found.append({"layout": name, "source_padding": source, "target_padding": target})
    return found


def padded(lengths: npt.NDArray[np.int64], num: int) -> npt.NDArray[np.int64]:
    """Returns the positions of batches of `num` pairs, each padded to its longest (2,)."""
    parts = [lengths[start : start + num] for start in range(0, len(lengths), num)]
    return np.sum([len(part) * part.max(0) for part in parts], axis=0)


def best_fit(lengths: npt.NDArray[np.int64], target_tokens: int) -> npt.NDArray[np.int64]:
    """Returns the positions of fixed rows into which pairs are packed, longest targets first (2,).

    A pair goes where its target leaves least room. Rows are `target_tokens` long on the decoder's
    side; on the encoder's they have the length, of some, that takes fewest positions in all.
    """
    share = lengths[:, 0].sum() / lengths[:, 1].sum()
    longest = int(lengths[:, 0].max())
    found = []
    for margin in SOURCE_MARGINS:
        source_tokens = max(int(-(-target_tokens * share * margin // 64) * 64), longest)
        room = np.zeros((0, 2), np.int64)
        for pair in lengths[np.argsort(-lengths[:, 1], kind="stable")]:
            left = np.where((room >= pair).all(1), room[:, 1], target_tokens + 1)
            if not len(room) or left.min() > target_tokens:
                room = np.concatenate([room, [[source_tokens, target_tokens]]])
                left = np.append(left, 0)
            room[left.argmin()] -= pair
        found.append(len(room) * np.array([source_tokens, target_tokens]))
    return min(found, key=lambda positions: int(positions.sum()))


def in_new_process(call: Callable[..., Any], *arguments: Any) -> Any:
    """Returns what a function returns in a fresh interpreter."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(call, *arguments).result()


def show(found: dict[str, Any]) -> None:
    """Prints the figures as tables."""
    console = Console(width=110)
    for title, rows in (("loader", found["speed"]), ("padding of others", found["losers"])):
        table = Table(*(name.replace("_", "\n") for name in rows[0]), title=title)
        for row in rows:
            cells = [
                str(one) if isinstance(one, bool | float | str) else f"{one:,}"
                for one in row.values()
            ]
            table.add_row(*cells)
        console.print(table)
    table = Table("files not in memory", "value")
    for name, value in found["cold"].items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, number in parts:
            table.add_row(f"{name} {part}".replace("_", " "), f"{number:,}")
    for name, times in found["times_consumption"].items():
        table.add_row(f"slowest case beside {name}", f"{times:,} x")
    console.print(table)


def main(argv: Sequence[str]) -> int:
    """Runs the measurements and prints what they found."""
    if argv and argv[0] in ("-h", "--help", "help"):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(Settings)}")
        return 0
    settings = cli.parse(argv, Settings)
    with tempfile.TemporaryDirectory(dir=settings.folder or None) as made:
        folder = Path(settings.store or made)
        if not settings.store:
            write_store(folder, settings.rows)
        found: dict[str, Any] = {
            "cold": in_new_process(cold, folder, settings),
            "speed": speed(folder, settings),
            "losers": losers(folder, settings),
        }
    slowest = min(case["tokens_per_cpu_second"] for case in found["speed"])
    found["times_consumption"] = {
        name: round(slowest / tokens, 1) for name, tokens in CONSUMED.items()
    }
    show(found)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    cli.run(main)
