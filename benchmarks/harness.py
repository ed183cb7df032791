"""What the harnesses that attack the program share: scenarios found, run, timed and written down.

In: a folder of scenarios, settings. Out: a record for each scenario, a table on stdout, and a JSON
file, which keeps what earlier runs found in scenarios that were not asked for.

A scenario is a module of that folder named by a letter and two digits, as `r01_kills.py`. It has a
`TITLE`, `COUNTS = {"full": 200, "slice": 20}`, `SECONDS` (CPU seconds a fault, for the estimate)
and a `run` that returns a `Result`. `slice` is what the tests run.
"""

import importlib
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from os import times
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from chatlm.errors import ConfigError

Record = Mapping[str, Any]
LONGEST_FIGURES = 300
"""Characters of a scenario's figures in the table; the file has all."""


@dataclass(frozen=True)
class Settings:
    """Settings of a harness."""

    scenarios: list[str] = field(
        default_factory=list, metadata={"help": "such as R1,R3; default all"}
    )
    counts: str = field(default="full", metadata={"help": "full, slice, or a number of faults"})
    seed: int = field(default=0, metadata={"help": "repeats a run"})
    out: str = field(default="", metadata={"help": "the file of all figures"})
    jobs: int = field(default=2, metadata={"help": "processes at a time"})


@dataclass
class Result:
    """What a scenario found.

    `id` is "R1", `title` a few words, `faults` how many were really injected, `failures` one line
    for each that was not survived as promised, `figures` whatever else was measured (JSON). A
    scenario that cannot run here says why in `skipped`.
    """

    id: str
    title: str
    faults: int = 0
    failures: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""


def discovered(folder: Path) -> dict[str, ModuleType]:
    """Returns id -> module of every scenario in a folder below this one, in order."""
    return {
        f"{path.stem[0].upper()}{int(path.stem[1:3])}": importlib.import_module(
            f"{__package__}.{folder.name}.{path.stem}"
        )
        for path in sorted(folder.glob("[a-z][0-9][0-9]_*.py"))
    }


def number_of(name: str) -> int:
    """Returns 3 for R3, 0 for a name without a number."""
    return int(name[1:]) if name[1:].isdigit() else 0


def asked(
    settings: Settings, known: Mapping[str, ModuleType], only_if_named: Collection[str] = ()
) -> list[str]:
    """Returns the scenarios that settings ask for, in the order of the known ones.

    Raises:
        ConfigError: there is no such scenario.
    """
    named = [name.upper() for name in settings.scenarios]
    if unknown := [name for name in named if name not in known]:
        raise ConfigError(f"no scenario {', '.join(unknown)}; there are {', '.join(known)}")
    wanted = named or [name for name in known if name not in only_if_named]
    return [name for name in known if name in wanted]


def count_of(module: ModuleType, counts: str) -> int:
    """Returns how many faults a scenario injects.

    Raises:
        ConfigError: `counts` is none of its counts and no number.
    """
    if counts in module.COUNTS:
        return module.COUNTS[counts]
    if not counts.isdigit():
        raise ConfigError(f"counts={counts}: full, slice, or a number")
    return int(counts)


def recorded(
    name: str, module: ModuleType, work: Callable[[], Result], repeat: str
) -> dict[str, Any]:
    """Runs one scenario; returns its result as a record.

    Args:
        name: its id.
        module: it.
        work: runs it; an exception of it is a failure.
        repeat: the command that does so again.
    """
    started, before = time.monotonic(), sum(times()[:4])
    try:
        result = work()
    except Exception as error:
        traceback.print_exc()
        result = Result(name, module.TITLE, failures=[f"the scenario broke off: {error!r}"])
    record = asdict(result)
    record["seconds"] = round(time.monotonic() - started, 1)
    record["cpu_seconds"] = round(sum(times()[:4]) - before, 1)
    if result.failures:
        record["repeat"] = repeat
    return record


def merged(
    out: Path, found: Iterable[Record], libraries: Iterable[str], faults: str = "faults"
) -> dict[str, Any]:
    """Returns the file's content with these results in place of earlier ones.

    One that was skipped here takes no earlier result's place.

    Args:
        out: the file, which may not be there yet.
        found: records.
        libraries: whose versions say where the figures come from.
        faults: what the sum of all faults is called.
    """
    before = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    scenarios = dict(before.get("scenarios", {}))
    for one in found:
        if not one["skipped"] or one["id"] not in scenarios:
            scenarios[one["id"]] = dict(one)
    machine = {"system": platform.system(), "python": platform.python_version()}
    return {
        **before,
        "machine": machine | {name: version(name) for name in libraries},
        faults: sum(one["faults"] for one in scenarios.values()),
        "failures": sum(len(one["failures"]) for one in scenarios.values()),
        "scenarios": {name: scenarios[name] for name in sorted(scenarios, key=number_of)},
    }


def write(out: Path, record: Mapping[str, Any]) -> None:
    """Writes the file of all figures."""
    out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def show(found: Sequence[Record], faults: str = "faults") -> None:
    """Prints one line for each scenario, and every failure with how to repeat it."""
    table = Table("", "scenario", faults, "failures", "seconds", "CPU", "figures")
    for one in found:
        failures = one["skipped"] or str(len(one["failures"]))
        figures = ", ".join(f"{key} {value}" for key, value in one["figures"].items())
        row = [one["id"], one["title"], str(one["faults"]), failures, f"{one['seconds']:.0f}"]
        row.append(f"{one.get('cpu_seconds', 0):.0f}")
        is_long = len(figures) > LONGEST_FIGURES
        table.add_row(*row, f"{figures[:LONGEST_FIGURES]} ..." if is_long else figures)
    Console(width=None if sys.stdout.isatty() else 160, markup=False).print(table)
    for one in found:
        for failure in one["failures"]:
            print(f"{one['id']}: {failure}")
        if "repeat" in one:
            print(f"{one['id']}: again with: {one['repeat']}")


def finished(found: Sequence[Record], faults: str = "faults") -> int:
    """Prints the table and one line of JSON; returns 1 if anything failed."""
    show(found, faults)
    print(json.dumps({one["id"]: one for one in found}, ensure_ascii=False))
    return int(any(one["failures"] for one in found))
