"""Runs the scenarios of the server at full counts, and writes benchmarks/serving.json.

In: which scenarios. Out: a table, one line of JSON, the file, which keeps what earlier runs found
in scenarios that were not asked for. Each is a module beside this one. The model is scripted (a
fixed time for each token), in a process of its own, behind real sockets; only A1 leaves the sockets
out.
Load (A2) is measured by `benchmarks.serving.load`, with a real model.

    python -m benchmarks.serving.run scenario=A3,A4
    python -m benchmarks.serving.run full=True
"""

import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from chatlm import cli
from chatlm.errors import ConfigError

HERE = Path(__file__).parent
OUT = HERE.parent / "serving.json"
MODULES = {
    "A1": "a1_schemathesis",
    "A3": "a3_slow_clients",
    "A4": "a4_disconnects",
    "A5": "a5_signals",
    "A7": "a7_bodies",
    "S4": "s4_key_timing",
    "S6": "s6_canaries",
}


@dataclass(frozen=True)
class Settings:
    """Settings of `python -m benchmarks.serving.run`."""

    scenario: list[str] = field(
        default_factory=list, metadata={"help": "such as A3,S4; default all"}
    )
    full: bool = field(default=False, metadata={"help": "the promised counts, not a tenth of them"})
    out: str = field(default=str(OUT), metadata={"help": "the file of all figures"})


def main(argv: Sequence[str]) -> int:
    """Runs what argv asks for; 1 if a promise was not kept."""
    if "--help" in argv:
        print(f"{__doc__}\n{cli.help_text(Settings)}")
        return 0
    settings = cli.parse(argv, Settings)
    chosen = [name.upper() for name in settings.scenario] or list(MODULES)
    if unknown := [name for name in chosen if name not in MODULES]:
        raise ConfigError(f"no scenario {', '.join(unknown)}; there are {', '.join(MODULES)}")
    found = {name: _run(name, full=settings.full) for name in chosen}
    _save(Path(settings.out), found)
    Console().print(_table(found))
    print(json.dumps(found, ensure_ascii=False))
    return 0 if all(one["kept"] for one in found.values()) else 1


def _run(name: str, *, full: bool) -> dict[str, Any]:
    """Returns what a scenario found: figures, what was promised of them, whether it was kept."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    module = importlib.import_module(f"{__package__}.{MODULES[name]}")
    began = time.monotonic()
    figures, promises = module.run(full=full)
    return {
        "what": (module.__doc__ or "").splitlines()[0],
        "full": full,
        "figures": figures,
        "promises": promises,
        "kept": all(promises.values()),
        "seconds": round(time.monotonic() - began, 1),
        "machine": f"{os.cpu_count()} CPUs, Python {platform.python_version()}",
    }


def _save(path: Path, found: dict[str, Any]) -> None:
    saved = json.loads(path.read_text()) if path.exists() else {}
    temporary = path.with_name(f".{path.name}.tmp")
    text = json.dumps(dict(sorted({**saved, **found}.items())), ensure_ascii=False, indent=1)
    temporary.write_text(f"{text}\n")
    temporary.replace(path)


def _table(found: dict[str, Any]) -> Table:
    table = Table("", "figure", "value", "promise")
    for name, one in found.items():
        for key, value in one["figures"].items():
            table.add_row(name, key, json.dumps(value, ensure_ascii=False), "")
        for promise, kept in one["promises"].items():
            table.add_row(name, "", "", f"{'kept' if kept else 'BROKEN'}: {promise}")
    return table


if __name__ == "__main__":
    cli.run(main)
