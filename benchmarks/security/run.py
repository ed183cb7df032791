"""Runs the scenarios of security, prints what they found, and writes benchmarks/security.json.

In: which scenarios, how many attacks. Out: a table, one line of JSON, the file. Each scenario is a
module `sNN_*.py` beside this one; its random choices follow from `seed`. `benchmarks.harness` says
what a scenario is.

    python -m benchmarks.security.run                         # all, full counts
    python -m benchmarks.security.run scenarios=S3 counts=slice
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import harness
from benchmarks.harness import Result
from benchmarks.security.bench import Bench
from chatlm import cli

HERE = Path(__file__).parent
OUT = HERE.parent / "security.json"
LIBRARIES = ("torch", "safetensors", "tokenizers", "sentencepiece", "pyte")


@dataclass(frozen=True)
class Settings(harness.Settings):
    """Settings of `python -m benchmarks.security.run`."""

    scenarios: list[str] = field(
        default_factory=list, metadata={"help": "such as S1,S3; default all"}
    )
    counts: str = field(default="full", metadata={"help": "full, slice, or a number of attacks"})
    out: str = field(default=str(OUT), metadata={"help": "the file of all figures"})


def main(argv: Sequence[str]) -> int:
    """Runs what argv asks for; 1 if anything was not refused as promised."""
    if "--help" in argv:
        print(f"{__doc__}\n{cli.help_text(Settings)}")
        return 0
    settings = cli.parse(argv, Settings)
    known = harness.discovered(HERE)
    # One thread each: the readers are forked, and a second thread could hold a lock meanwhile.
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ |= {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
    found, out = [], Path(settings.out)
    for name in harness.asked(settings, known):
        module = known[name]
        count = harness.count_of(module, settings.counts)
        print(f"{name}: {count} attacks, {count * module.SECONDS:.0f} CPU seconds", file=sys.stderr)
        found.append(run_one(name, module, count, settings))
        harness.write(out, harness.merged(out, found, LIBRARIES, "attacks"))
    return harness.finished(found, "attacks")


def run_one(name: str, module: ModuleType, count: int, settings: Settings) -> dict[str, Any]:
    """Runs one scenario; returns its result as a record."""
    shared_memory = Path("/dev/shm")
    place = shared_memory if shared_memory.is_dir() else None

    def work() -> Result:
        with tempfile.TemporaryDirectory(prefix="security-", dir=place) as folder:
            return module.run(count, Bench(Path(folder), settings.seed, settings.jobs))

    repeat = f"scenarios={name} counts={count} seed={settings.seed} jobs={settings.jobs}"
    return harness.recorded(name, module, work, f"python -m benchmarks.security.run {repeat}")


if __name__ == "__main__":
    cli.run(main)
