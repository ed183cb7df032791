"""Runs the torture scenarios, prints what they found, and writes benchmarks/torture.json.

In: which scenarios, how many faults. Out: a table, one line of JSON, the file. Each scenario is a
module `rNN_*.py` beside this one; it gets a workbench of its own whose random numbers follow from
`seed` and its name, so one scenario repeats without the others. Two run at a time, in processes of
their own. `benchmarks.harness` says what a scenario is.

    python -m benchmarks.torture.run                              # all of ours, full counts
    python -m benchmarks.torture.run scenarios=R1,R18 counts=slice
    python -m benchmarks.torture.run scenarios=peers
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import harness
from benchmarks.harness import Result
from benchmarks.torture import peers
from benchmarks.torture.victim import Workbench
from chatlm import cli

HERE = Path(__file__).parent
OUT = HERE.parent / "torture.json"
PEERS = "PEERS"
LIBRARIES = ("torch", "accelerate", "transformers")
LINKED = ("R1", "R3", "R18")
"""The last reads what the others left behind."""


@dataclass(frozen=True)
class Settings(harness.Settings):
    """Settings of `python -m benchmarks.torture.run`."""

    scenarios: list[str] = field(
        default_factory=list, metadata={"help": "such as R1,R3, or peers; default all R"}
    )
    out: str = field(default=str(OUT), metadata={"help": "the file of all figures"})
    jobs: int = field(default=2, metadata={"help": "scenarios at a time"})
    folder: str = field(default="", metadata={"help": "where to work; default a temporary folder"})


def discovered() -> dict[str, ModuleType]:
    """Returns id -> module of every scenario, in the order of their numbers, peers last."""
    modules = harness.discovered(HERE)
    # The ledger is read from what the kills left, so it comes after them.
    modules["R18"] = modules.pop("R18")
    return modules | {PEERS: peers}


def main(argv: Sequence[str]) -> int:
    """Runs what argv asks for; 1 if anything was not survived."""
    if "--help" in argv:
        print(f"{__doc__}\n{cli.help_text(Settings)}")
        return 0
    settings = cli.parse(argv, Settings)
    known = discovered()
    chosen = harness.asked(settings, known, [PEERS])
    counts = {name: harness.count_of(known[name], settings.counts) for name in chosen}
    seconds = {name: counts[name] * known[name].SECONDS for name in chosen}
    for name in chosen:
        print(f"{name}: {counts[name]} faults, {seconds[name]:.0f} CPU seconds", file=sys.stderr)
    total = sum(seconds.values())
    minutes = total / min(settings.jobs, len(units(chosen))) / 60
    print(f"estimated: {total:.0f} CPU seconds, {minutes:.0f} minutes", file=sys.stderr)
    out = Path(settings.out)
    with tempfile.TemporaryDirectory(prefix="torture-") as temporary:
        folder = Path(settings.folder or temporary)
        for old in ("runs", "logs", "references"):
            shutil.rmtree(folder / old, ignore_errors=True)
        if settings.jobs > 1 and len(units(chosen)) > 1:
            found = side_by_side(settings, shared(chosen, seconds, settings.jobs), folder)
        else:
            found = []
            for name in chosen:
                found.append(run_one(name, known[name], counts[name], settings.seed, folder))
                write(out, found)
    write(out, found)
    return harness.finished(found)


def units(chosen: Sequence[str]) -> list[list[str]]:
    """Returns the scenarios that have to share a folder together, the others alone."""
    linked = [name for name in LINKED if name in chosen]
    return [*([linked] if linked else []), *([name] for name in chosen if name not in LINKED)]


def shared(chosen: Sequence[str], seconds: Mapping[str, float], jobs: int) -> list[list[str]]:
    """Returns the scenarios of each job, so that all take about as long."""
    lots: list[list[str]] = [[] for _ in range(jobs)]
    for unit in sorted(units(chosen), key=lambda names: -sum(seconds[one] for one in names)):
        min(lots, key=lambda lot: sum(seconds[one] for one in lot)).extend(unit)
    return [lot for lot in lots if lot]


def side_by_side(settings: Settings, lots: Sequence[Sequence[str]], folder: Path) -> list[Any]:
    """Runs each lot in a process of its own; returns all results in the order of their numbers."""
    jobs: list[tuple[Sequence[str], Path, subprocess.Popen[bytes]]] = []
    for number, lot in enumerate(lots):
        own = folder / f"job-{number}"
        own.mkdir(parents=True, exist_ok=True)
        out = own / "found.json"
        out.unlink(missing_ok=True)
        told = [f"scenarios={','.join(lot)}", f"counts={settings.counts}", f"seed={settings.seed}"]
        argv = [sys.executable, "-m", __spec__.name, *told, "jobs=1", f"out={out}", f"folder={own}"]
        jobs.append((lot, out, subprocess.Popen(argv, stdout=subprocess.DEVNULL)))
    found: list[dict[str, Any]] = []
    for lot, out, process in jobs:
        code = process.wait()
        results = json.loads(out.read_text())["scenarios"] if out.exists() else {}
        for name in lot:
            why = f"the harness ended with {code} before it came to this scenario"
            lost = {**asdict(Result(name, "", failures=[why])), "seconds": 0.0}
            found.append(results.get(name, lost))
    return sorted(found, key=lambda one: harness.number_of(one["id"]))


def write(out: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """Writes these results into the file, beside what else it holds."""
    record = harness.merged(out, [one for one in found if one["id"] != PEERS], LIBRARIES)
    record.setdefault("peers", {})
    for one in found:
        if one["id"] == PEERS and not one["skipped"] and not one["failures"]:
            record["peers"] = one["figures"]
    harness.write(out, record)


def run_one(name: str, module: ModuleType, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Runs one scenario; returns its result as a record."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    if not count and module.SECONDS:
        skipped = Result(name, module.TITLE, skipped="takes long: it runs with counts=full")
        return {**asdict(skipped), "seconds": 0.0}

    def work() -> Result:
        with Workbench(folder, seed * 1000 + harness.number_of(name)) as bench:
            result = module.run(count, bench)
        if not result.failures:
            shutil.rmtree(folder / "runs", ignore_errors=True)
        return result

    repeat = f"scenarios={name} counts={count} seed={seed}"
    return harness.recorded(name, module, work, f"python -m benchmarks.torture.run {repeat}")


if __name__ == "__main__":
    cli.run(main)
