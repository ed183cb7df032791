"""The data pipeline end to end: seconds, rows and memory of every command, on one machine.

    python benchmarks/data.py raw=raw out=whole [workers=2] [engine=local] [tokenizer=folder]
    python benchmarks/data.py parts original=checkout python=its/python real=pairs.parquet

The first form runs `clean`, `build`, `verify` and, with a tokenizer, the token store on raw corpora
(`generate_corpora.py` makes them in any size), each as a process of its own, and samples the memory
of all their processes together. The second runs the benchmarks of the single parts beside the
original, one after another. Prints a table and then one line of JSON with the same figures.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from chatlm import cli

ROOT = Path(__file__).parents[1]
PARTS = ("json_reader", "cleaning", "near_duplicates", "wiki")
_SAMPLE_SECONDS = 0.5


@dataclass(frozen=True)
class WholeSettings:
    """Settings of the run end to end."""

    raw: str = field(default="data/raw", metadata={"help": "folder with one folder a source"})
    out: str = field(default="out/whole", metadata={"help": "an empty or absent folder"})
    workers: int = field(default=2, metadata={"help": "processes"})
    engine: str = field(default="local", metadata={"help": "local or ray"})
    tokenizer: str = field(default="", metadata={"help": "folder of a tokenizer, for the store"})
    sources: str = field(default="", metadata={"help": "names, comma between; default all found"})


@dataclass(frozen=True)
class PartsSettings:
    """Settings of the parts beside the original."""

    original: str = field(default="", metadata={"help": "checkout of Chat-LM-small"})
    python: str = field(default=sys.executable, metadata={"help": "a Python that can run it"})
    real: str = field(default="", metadata={"help": "parquet of real pairs"})


@dataclass(frozen=True, slots=True)
class Measured:
    """One command: wall and processor seconds, and the largest memory of all its processes.

    `peak_gib` sums what each process has for itself and its share of what several have (PSS), file
    pages that are mapped included; `anonymous_gib` leaves mapped files out.
    """

    name: str
    seconds: float
    cpu_seconds: float
    peak_gib: float
    anonymous_gib: float


class Sampler(threading.Thread):
    """Watches the memory of a process and all its descendants."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self.peak_kib = self.anonymous_kib = 0

    def run(self) -> None:
        """Samples until `stop`."""
        while not self._ended.wait(_SAMPLE_SECONDS):
            found = [_memory(pid) for pid in _family(self._pid)]
            self.peak_kib = max(self.peak_kib, sum(one[0] for one in found))
            self.anonymous_kib = max(self.anonymous_kib, sum(one[1] for one in found))

    def stop(self) -> None:
        """Ends the sampling."""
        self._ended.set()
        self.join()


def _family(root: int) -> list[int]:
    """Returns a process and its descendants."""
    parents = dict[int, int]()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue  # It ended meanwhile.
    family, added = {root}, True
    while added:
        added = {pid for pid, parent in parents.items() if parent in family} - family
        family |= added
    return sorted(family)


def _memory(pid: int) -> tuple[int, int]:
    """Returns PSS and anonymous PSS of a process, in KiB."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}
    return sizes.get("Pss", 0), sizes.get("Pss_Anon", 0)


def measured(name: str, argv: Sequence[str]) -> Measured:
    """Runs a command and returns what it cost.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    before, start = os.times(), time.monotonic()
    process = subprocess.Popen([sys.executable, *argv], cwd=ROOT)
    sampler = Sampler(process.pid)
    sampler.start()
    status = process.wait()
    sampler.stop()
    seconds, after = time.monotonic() - start, os.times()
    if status:
        raise subprocess.CalledProcessError(status, list(argv))
    used = after.children_user + after.children_system
    cpu = used - before.children_user - before.children_system
    gib = 1 << 20
    return Measured(name, seconds, cpu, sampler.peak_kib / gib, sampler.anonymous_kib / gib)


def whole(settings: WholeSettings) -> list[Measured]:
    """Runs the pipeline and returns what each command cost."""
    out = Path(settings.out).resolve()
    process = "utils.raw_data_process"
    where = [f"workers={settings.workers}", f"engine={settings.engine}"]
    chosen = [f"sources={settings.sources}"] if settings.sources else []
    raw, clean = Path(settings.raw).resolve(), f"clean={out / 'clean'}"
    found = [
        measured("clean", ["-m", process, "clean", f"raw={raw}", clean, *where, *chosen]),
        measured("build", ["-m", process, "build", clean, f"out={out / 'data'}", *where]),
        measured("verify", ["-m", process, "verify", clean, f"out={out / 'data'}", *where]),
    ]
    if settings.tokenizer:
        script = str(ROOT / "benchmarks" / "tokenizing.py")
        pairs = f"data={out / 'data' / 'train.parquet'}"
        tokenizer = f"tokenizer={Path(settings.tokenizer).resolve()}"
        found.append(measured("tokens", [script, "speed", tokenizer, pairs, "library=False"]))
    return found


def report(found: Sequence[Measured], settings: WholeSettings) -> None:
    """Prints the table and the line of JSON."""
    out = Path(settings.out)
    manifests = [json.loads(path.read_text()) for path in out.glob("clean/*/manifest.json")]
    rows = sum(manifest["counts"]["rows_in"] for manifest in manifests)
    parts = {
        part: pq.ParquetFile(out / "data" / f"{part}.parquet").metadata.num_rows
        for part in ("train", "valid", "test")
    }
    table = Table("command", "seconds", "CPU seconds", "rows/s", "peak GiB", "without files GiB")
    for one in found:
        table.add_row(
            one.name,
            f"{one.seconds:.1f}",
            f"{one.cpu_seconds:.1f}",
            f"{rows / one.seconds:,.0f}",
            f"{one.peak_gib:.2f}",
            f"{one.anonymous_gib:.2f}",
        )
    console = Console()
    console.print(f"{rows:,} rows in; {', '.join(f'{n:,} {part}' for part, n in parts.items())}")
    console.print(table)
    figures = [asdict(one) for one in found]
    print(json.dumps({"rows_in": rows, "parts": parts, "commands": figures, **asdict(settings)}))


def parts(settings: PartsSettings) -> None:
    """Runs the benchmarks of the parts, one after another."""
    own = {
        "json_reader": [f"real={settings.real}"] if settings.real else [],
        "wiki": [f"peer={settings.python}", f"original={settings.original}"],
    }
    usual = [f"original={settings.original}", f"python={settings.python}", f"real={settings.real}"]
    for name in PARTS:
        print(f"== {name}", flush=True)
        argv = own.get(name, usual)
        script = ["benchmarks/wiki.py"] if name == "wiki" else ["-m", f"benchmarks.{name}"]
        subprocess.run([sys.executable, *script, *argv], cwd=ROOT, check=True)


def main(argv: Sequence[str]) -> int:
    """Runs one of the two forms."""
    if argv and argv[0] == "parts":
        parts(cli.parse(argv[1:], PartsSettings))
        return 0
    settings = cli.parse(argv, WholeSettings)
    report(whole(settings), settings)
    return 0


if __name__ == "__main__":
    cli.run(main)
