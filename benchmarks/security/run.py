"""Runs the scenarios of security, prints what they found, and writes benchmarks/security.json.

In: which scenarios, how many attacks. Out: a table, one line of JSON, the file. Each scenario is a
module `sNN_*.py` beside this one; its random choices follow from `seed`. The file keeps what
earlier runs found in scenarios that were not asked for.

    python -m benchmarks.security.run                         # all, full counts
    python -m benchmarks.security.run scenarios=S3 counts=slice
"""

import importlib
import json
import os
import platform
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

from rich.console import Console
from rich.table import Table

from benchmarks.security.bench import Bench
from benchmarks.torture.outcome import Result
from chatlm import cli
from chatlm.errors import ChatLMError, ConfigError

HERE = Path(__file__).parent
OUT = HERE.parent / "security.json"
LIBRARIES = ("torch", "safetensors", "tokenizers", "sentencepiece", "pyte")


@dataclass(frozen=True)
class Settings:
    """Settings of `python -m benchmarks.security.run`."""

    scenarios: list[str] = field(
        default_factory=list, metadata={"help": "such as S1,S3; default all"}
    )
    counts: str = field(default="full", metadata={"help": "full, slice, or a number of attacks"})
    seed: int = field(default=0, metadata={"help": "repeats a run"})
    out: str = field(default=str(OUT), metadata={"help": "the file of all figures"})
    jobs: int = field(default=2, metadata={"help": "processes at a time"})


def discovered() -> dict[str, ModuleType]:
    """Returns id -> module of every scenario, in the order of their numbers."""
    return {
        f"S{int(path.stem[1:3])}": importlib.import_module(f"{__package__}.{path.stem}")
        for path in sorted(HERE.glob("s[0-9][0-9]_*.py"))
    }


def main(argv: Sequence[str]) -> int:
    """Runs what argv asks for; 1 if anything was not refused as promised."""
    if "--help" in argv:
        print(f"{__doc__}\n{cli.help_text(Settings)}")
        return 0
    settings = cli.parse(argv, Settings)
    known = discovered()
    chosen = [name.upper() for name in settings.scenarios] or list(known)
    if unknown := [name for name in chosen if name not in known]:
        raise ConfigError(f"no scenario {', '.join(unknown)}; there are {', '.join(known)}")
    # One thread each: the readers are forked, and a second thread could hold a lock meanwhile.
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
    found = []
    for name in chosen:
        module = known[name]
        count = _count(module, settings.counts)
        print(f"{name}: {count} attacks, {count * module.SECONDS:.0f} CPU seconds", file=sys.stderr)
        found.append(run_one(name, module, count, settings))
        write(Path(settings.out), found)
    show(found)
    print(json.dumps({one["id"]: one for one in found}, ensure_ascii=False))
    return int(any(one["failures"] for one in found))


def run_one(name: str, module: ModuleType, count: int, settings: Settings) -> dict[str, Any]:
    """Runs one scenario; returns its result as a record."""
    started, before = time.monotonic(), sum(os.times()[:4])
    shared_memory = Path("/dev/shm")
    place = shared_memory if shared_memory.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="security-", dir=place) as folder:
        try:
            result = module.run(count, Bench(Path(folder), settings.seed, settings.jobs))
        except Exception as error:
            traceback.print_exc()
            result = Result(name, module.TITLE, failures=[f"the scenario broke off: {error!r}"])
    record = asdict(result)
    record["seconds"] = round(time.monotonic() - started, 1)
    record["cpu_seconds"] = round(sum(os.times()[:4]) - before, 1)
    if result.failures:
        record["repeat"] = (
            f"python -m benchmarks.security.run scenarios={name} counts={count} "
            f"seed={settings.seed} jobs={settings.jobs}"
        )
    return record


def write(out: Path, found: Sequence[Mapping[str, Any]]) -> None:
    """Writes these results into the file, in place of earlier ones of the same scenarios."""
    before = json.loads(out.read_text()) if out.exists() else {}
    scenarios = {**before.get("scenarios", {}), **{one["id"]: dict(one) for one in found}}
    order = sorted(scenarios, key=lambda name: int(name[1:]))
    record = {
        "machine": {
            "system": platform.system(),
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        "attacks": sum(one["faults"] for one in scenarios.values()),
        "failures": sum(len(one["failures"]) for one in scenarios.values()),
        "scenarios": {name: scenarios[name] for name in order},
    }
    out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def show(found: Sequence[Mapping[str, Any]]) -> None:
    """Prints one line for each scenario, and every failure with how to repeat it."""
    table = Table("", "scenario", "attacks", "failures", "seconds", "CPU", "figures")
    for one in found:
        figures = ", ".join(f"{key} {value}" for key, value in one["figures"].items())
        failures = one["skipped"] or str(len(one["failures"]))
        row = [one["id"], one["title"], str(one["faults"]), failures, f"{one['seconds']:.0f}"]
        table.add_row(*row, f"{one['cpu_seconds']:.0f}", figures)
    Console(width=None if sys.stdout.isatty() else 160, markup=False).print(table)
    for one in found:
        for failure in one["failures"]:
            print(f"{one['id']}: {failure}")
        if "repeat" in one:
            print(f"{one['id']}: again with: {one['repeat']}")


def _count(module: ModuleType, counts: str) -> int:
    if counts in module.COUNTS:
        return module.COUNTS[counts]
    if not counts.isdigit():
        raise ConfigError(f"counts={counts}: full, slice, or a number")
    return int(counts)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ChatLMError as error:
        sys.exit(f"error: {error}")
