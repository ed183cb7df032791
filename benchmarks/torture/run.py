"""Runs the torture scenarios, prints what they found, and writes benchmarks/torture.json.

In: which scenarios, how many faults. Out: a table, one line of JSON, the file. Each scenario is a
module `rNN_*.py` beside this one; it gets a workbench of its own whose random numbers follow from
`seed` and its name, so one scenario repeats without the others. Two run at a time, in processes of
their own. The file keeps what earlier runs found in scenarios that were not asked for.

    python -m benchmarks.torture.run                              # all of ours, full counts
    python -m benchmarks.torture.run scenarios=R1,R18 counts=slice
    python -m benchmarks.torture.run scenarios=peers
"""

import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.torture import report
from benchmarks.torture.victim import Result, Workbench
from chatlm import cli
from chatlm.errors import ChatLMError, ConfigError

HERE = Path(__file__).parent
OUT = HERE.parent / "torture.json"
PEERS = "PEERS"
LINKED = ("R1", "R3", "R18")
"""The last reads what the others left behind."""


@dataclass(frozen=True)
class Settings:
    """Settings of `python -m benchmarks.torture.run`."""

    scenarios: list[str] = field(
        default_factory=list, metadata={"help": "such as R1,R3, or peers; default all R"}
    )
    counts: str = field(default="full", metadata={"help": "full, slice, or a number of faults"})
    seed: int = field(default=0, metadata={"help": "repeats a run"})
    out: str = field(default=str(OUT), metadata={"help": "the file of all figures"})
    jobs: int = field(default=2, metadata={"help": "scenarios at a time"})
    folder: str = field(default="", metadata={"help": "where to work; default a temporary folder"})


def discovered() -> dict[str, ModuleType]:
    """Returns id -> module of every scenario, in the order of their numbers, peers last."""
    modules = {}
    for path in sorted(HERE.glob("r[0-9][0-9]_*.py")):
        modules[f"R{int(path.stem[1:3])}"] = importlib.import_module(f"{__package__}.{path.stem}")
    # The ledger is read from what the kills left, so it comes after them.
    if "R18" in modules:
        modules["R18"] = modules.pop("R18")
    modules[PEERS] = importlib.import_module(f"{__package__}.peers")
    return modules


def main(argv: Sequence[str]) -> int:
    """Runs what argv asks for; 1 if anything was not survived."""
    if "--help" in argv:
        print(f"{__doc__}\n{cli.help_text(Settings)}")
        return 0
    settings = cli.parse(argv, Settings)
    known = discovered()
    asked = [name.upper() for name in settings.scenarios]
    chosen = asked or [name for name in known if name != PEERS]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ConfigError(f"no scenario {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = [name for name in known if name in chosen]
    counts = {name: _count(known[name], settings.counts) for name in chosen}
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
    report.show(found)
    print(json.dumps({one["id"]: one for one in found}, ensure_ascii=False))
    return int(any(one["failures"] for one in found))


def number_of(name: str) -> int:
    """Returns 3 for R3, 0 for the peers."""
    return int(name[1:]) if name[1:].isdigit() else 0


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
    return sorted(found, key=lambda one: number_of(one["id"]))


def write(out: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """Writes these results into the file, beside what else it holds."""
    record = merged(out, [one for one in found if one["id"] != PEERS])
    for one in found:
        if one["id"] == PEERS and not one["skipped"] and not one["failures"]:
            record["peers"] = one["figures"]
    out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _count(module: ModuleType, counts: str) -> int:
    if counts in module.COUNTS:
        return module.COUNTS[counts]
    if not counts.isdigit():
        raise ConfigError(f"counts={counts}: full, slice, or a number")
    return int(counts)


def run_one(name: str, module: ModuleType, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Runs one scenario; returns its result as a record."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    if not count and module.SECONDS:
        skipped = Result(name, module.TITLE, skipped="takes long: it runs with counts=full")
        return {**asdict(skipped), "seconds": 0.0}
    started, before = time.monotonic(), sum(os.times()[:4])
    with Workbench(folder, seed * 1000 + number_of(name)) as bench:
        try:
            result = module.run(count, bench)
        except Exception as error:
            traceback.print_exc()
            result = Result(name, module.__name__, failures=[f"the scenario broke off: {error!r}"])
    if not result.failures:
        shutil.rmtree(folder / "runs", ignore_errors=True)
    record = asdict(result)
    record["seconds"] = round(time.monotonic() - started, 1)
    record["cpu_seconds"] = round(sum(os.times()[:4]) - before, 1)
    if result.failures:
        record["repeat"] = (
            f"python -m benchmarks.torture.run scenarios={name} counts={count} seed={seed}"
        )
    return record


def merged(out: Path, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the file's content with these results in place of earlier ones."""
    before = json.loads(out.read_text()) if out.exists() else {}
    scenarios = dict(before.get("scenarios", {}))
    for one in found:
        if not one["skipped"] or one["id"] not in scenarios:
            scenarios[one["id"]] = dict(one)
    order = sorted(scenarios, key=number_of)
    machine = {
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "accelerate", "transformers")},
    }
    return {
        "machine": machine,
        "faults": sum(one["faults"] for one in scenarios.values()),
        "failures": sum(len(one["failures"]) for one in scenarios.values()),
        "scenarios": {name: scenarios[name] for name in order},
        "peers": before.get("peers", {}),
    }


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ChatLMError as error:
        sys.exit(f"error: {error}")
