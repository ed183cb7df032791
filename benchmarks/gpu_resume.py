"""Is a training that was resumed the same to the bit? On a GPU, with and without `deterministic`.

In: nothing but settings; the pairs are sums. Out: a table, then one line of JSON. In each mode a
small model is trained twice from its beginning, and once more from the first one's checkpoint in
the middle, each time in a new process, so that nothing is left over from an earlier one. Losses and
weights are compared bit by bit; where bits differ, the largest relative difference of a loss is
what remains to be said. With `device=cpu` the same is done on a CPU, which always repeats itself.

    python benchmarks/gpu_resume.py
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table

from chatlm import cli
from tests import tiny_data

ROOT = Path(__file__).parents[1]
LONGEST_SECONDS = 300


@dataclass(frozen=True)
class Settings:
    """Settings of `benchmarks/gpu_resume.py`."""

    device: str = field(default="cuda", metadata={"help": "cuda or cpu"})
    precision: str = field(default="bf16", metadata={"help": "bf16 or fp32"})
    steps: int = field(default=40, metadata={"help": "optimizer steps; resumed in the middle"})
    pairs: int = field(default=2000, metadata={"help": "pairs to train on"})
    batch_size: int = field(default=64, metadata={"help": "pairs a step"})
    d_model: int = field(default=256, metadata={"help": "width; heads have 32"})
    layers: int = field(default=2, metadata={"help": "on either side"})
    dropout: float = field(default=0.0, metadata={"help": "dropout rate"})
    optimizer: str = field(default="adamw", metadata={"help": "adamw or muon"})
    compile: str = field(
        default="False", metadata={"help": "True: compile the layers, takes longer"}
    )
    modes: str = field(default="False,True", metadata={"help": "values of `deterministic`"})


def argv(settings: Settings, folder: Path, run: str, mode: str) -> list[str]:
    """Returns the command line of one training."""
    wanted = {
        "data": folder / "data",
        "out": folder / run,
        "device": settings.device,
        "precision": settings.precision,
        "deterministic": mode,
        "compile": settings.compile,
        "optimizer": settings.optimizer,
        "max_steps": settings.steps,
        "save_every_steps": settings.steps // 2,
        "eval_every_steps": settings.steps,
        "eval_answers": 0,
        "keep_checkpoints": 3,
        "batch_size": settings.batch_size,
        "microbatch_tokens": 2048,
        "model.d_model": settings.d_model,
        "model.d_kv": 32,
        "model.d_ff": 2 * settings.d_model,
        "model.num_heads": settings.d_model // 32,
        "model.num_layers": settings.layers,
        "model.num_decoder_layers": settings.layers,
        "model.dropout_rate": settings.dropout,
    }
    return ["train", *tiny_data.argv(**wanted)]


def start(words: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """Starts a training in a process of its own."""
    command = [sys.executable, str(ROOT / "train.py"), *words]
    found = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(found), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    """Waits for a training; returns what it said.

    Raises:
        RuntimeError: it failed.
    """
    _, log = process.communicate(timeout=LONGEST_SECONDS)
    if process.returncode:
        raise RuntimeError(f"a training failed:\n{log[-3000:]}")
    return log


def compare(one: Path, other: Path, step: int, first: int) -> dict[str, Any]:
    """Returns in what two runs differ, from the loss of step `first` on."""
    name = Path(f"step_{step:06d}") / "model.safetensors"
    pairs = list(zip(_losses(one, first), _losses(other, first), strict=True))
    return {
        "losses": len(pairs),
        "equal_losses": sum(a == b for a, b in pairs),
        "largest_relative_difference": max(abs(a - b) / a for a, b in pairs),
        "equal_weights": (one / name).read_bytes() == (other / name).read_bytes(),
    }


def _losses(run: Path, first: int) -> list[float]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [one["loss"] for one in records if "loss" in one and one["step"] >= first]


def measure(settings: Settings, folder: Path) -> dict[str, Any]:
    """Returns the comparison for each mode."""
    tiny_data.make(folder / "data", settings.pairs)
    found: dict[str, Any] = {}
    modes, middle = settings.modes.split(","), settings.steps // 2
    began = time.monotonic()
    # The first training fills the cache of tokens; after it the others start together.
    finish(start(argv(settings, folder, f"whole-{modes[0]}", modes[0]), folder))
    names = [f"{run}-{mode}" for mode in modes for run in ("whole", "again")][1:]
    words = {name: argv(settings, folder, name, name.rpartition("-")[2]) for name in names}
    for process in [start(one, folder) for one in words.values()]:
        finish(process)
    resumed = []
    for mode in modes:
        shutil.copytree(folder / f"whole-{mode}", folder / f"resumed-{mode}")
        shutil.rmtree(folder / f"resumed-{mode}" / f"step_{settings.steps:06d}")
        resumed.append(
            start([*argv(settings, folder, f"resumed-{mode}", mode), "resume=True"], folder)
        )
    for mode, process in zip(modes, resumed, strict=True):
        log = finish(process)
        whole = folder / f"whole-{mode}"
        found[mode] = {
            "again": compare(whole, folder / f"again-{mode}", settings.steps, 1),
            "resumed": compare(whole, folder / f"resumed-{mode}", settings.steps, middle + 1),
            "level": log.partition("resume level ")[2].partition("\n")[0],
        }
    return found | {"seconds": round(time.monotonic() - began, 1)}


def show(found: dict[str, Any]) -> None:
    """Prints the table."""
    table = Table(
        "deterministic",
        "compared with the first",
        "equal losses",
        "largest |Δloss|",
        "equal weights",
    )
    for mode, own in found.items():
        for name in ("again", "resumed") if isinstance(own, dict) else ():
            one = own[name]
            losses = f"{one['equal_losses']} of {one['losses']}"
            far = f"{one['largest_relative_difference']:.1e}"
            table.add_row(mode, name, losses, far, str(one["equal_weights"]))
    console = Console(width=100)
    console.print(table)
    for mode, own in found.items():
        if isinstance(own, dict):
            console.print(f"deterministic={mode}: resume level {own['level']}", highlight=False)


def main(argv: Sequence[str]) -> int:
    """Runs the comparison; 1 if a resumed deterministic run is not the same to the bit."""
    if any(token in ("-h", "--help") for token in argv):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(Settings)}")
        return 0
    settings = cli.parse(argv, Settings)
    with tempfile.TemporaryDirectory(prefix="gpu-resume-") as folder:
        found = measure(settings, Path(folder))
    show(found)
    print(json.dumps(found))
    wrong = [
        one
        for one in ("again", "resumed")
        if not found.get("True", {}).get(one, {}).get("equal_weights", True)
    ]
    return int(bool(wrong))


if __name__ == "__main__":
    cli.run(main)
