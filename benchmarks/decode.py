"""Times answers: our chat over both engines beside Hugging Face's `generate` and bare CTranslate2.

In: a shape with random weights, or a checkpoint; real questions, or those of the starter corpus.
Out: a table, then one line of JSON. Every side is a process of its own, which holds its model and
waits; a round asks each side in turn for the same prompts, so that a noisy machine disturbs all
alike. Figures are medians over rounds; ratios are medians of the rounds' ratios. Every answer has
exactly `num_tokens` tokens.

    python -m benchmarks.decode                         0.2B, random weights
    python -m benchmarks.decode model=out/train-001     a checkpoint
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from chatlm import cli
from chatlm.checkpoint.paths import resolve_model
from chatlm.model.config import ModelConfig

SIDE_NAMES = ("hf", "torch", "ct2_float32", "ours_float32", "ct2_int8", "ours_int8")
CHARS = (12, 40)  # of the questions that are asked


@dataclass(frozen=True)
class Settings:
    """Settings of `benchmarks.decode`."""

    model: str = field(default="", metadata={"help": "checkpoint; empty: random weights, 0.2B"})
    prompts: str = field(default="", metadata={"help": "parquet of pairs; empty: starter corpus"})
    sides: list[str] = field(
        default_factory=lambda: list(SIDE_NAMES), metadata={"help": "which, comma-separated"}
    )
    batches: list[int] = field(
        default_factory=lambda: [1, 16], metadata={"help": "answers at the same time"}
    )
    num_tokens: int = field(default=64, metadata={"help": "of each answer"})
    rounds: int = field(default=7, metadata={"help": "measured, after one that is not"})
    threads: int = field(default=1, metadata={"help": "of each side"})
    cpus: str = field(default="", metadata={"help": "pin every side to these, e.g. 0 or 0,1"})
    seed: int = field(default=0, metadata={"help": "decides weights and prompts"})
    shape: ModelConfig = field(default_factory=ModelConfig)


class Child:
    """A side in its process."""

    def __init__(self, name: str, folder: Path, settings: Settings) -> None:
        kind = name.partition("_")[0]
        given = json.dumps({"side": kind, "folder": str(folder), "threads": settings.threads})
        command = [sys.executable, "-m", "benchmarks.decode_side", given]
        if settings.cpus:
            command = ["taskset", "-c", settings.cpus, *command]
        threads = {"OMP_NUM_THREADS": str(settings.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | threads,
        )
        self.read()

    def read(self) -> dict[str, Any]:
        """Returns the next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended with {self._process.wait()}: see above")
        return json.loads(line)

    def ask(self, prompts: list[str], num_tokens: int) -> dict[str, Any]:
        """Returns what the side measured for these prompts."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "num_tokens": num_tokens}) + "\n")
        self._process.stdin.flush()
        return self.read()

    def close(self) -> int:
        """Ends the side; returns its peak of resident memory in bytes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        peak = self.read()["peak_bytes"]
        self._process.wait()
        return peak


def questions(settings: Settings) -> list[str]:
    """Returns the questions that rounds draw from."""
    if settings.prompts:
        from chatlm.corpus import store

        rows = (
            text
            for batch in store.read_pairs(Path(settings.prompts), ("prompt", "response"))
            for text in batch["prompt"].to_pylist()
        )
    else:
        from chatlm.corpus.starter import expand

        rows = (one.prompt for one in expand(Path("data/starter"), "train"))
    fitting = [text for text in rows if CHARS[0] <= len(text) <= CHARS[1] and "\n" not in text]
    return random.Random(settings.seed).sample(fitting, min(2000, len(fitting)))


def random_model(folder: Path, settings: Settings, texts: list[str]) -> Path:
    """Writes a checkpoint of the shape with random weights, and a tokenizer of its questions."""
    import torch

    from chatlm.model.hf import save_pretrained
    from chatlm.model.t5 import T5
    from chatlm.tokenizer import Tokenizer

    Tokenizer.train(texts, settings.shape.vocab_size).save(folder)
    torch.manual_seed(settings.seed)
    save_pretrained(T5(settings.shape), settings.shape, folder)
    return folder


def exported(source: Path, target: Path, quantization: str) -> Path:
    """Writes a checkpoint for CTranslate2, whatever its answers are; returns the folder."""
    from chatlm.export.ct2 import Plan, export
    from chatlm.export.drift import Least

    export(Plan(source, target, quantization, ["你好"], 1, Least(0.0, 0.0)))
    return target


def folders(settings: Settings, work: Path, texts: list[str]) -> dict[str, Path]:
    """Returns the folder that each side opens, exported where that is needed."""
    source = (
        resolve_model(settings.model)
        if settings.model
        else random_model(work / "m", settings, texts)
    )
    found = {"hf": source, "torch": source}
    for quantization in ("float32", "int8"):
        sides = [f"ct2_{quantization}", f"ours_{quantization}"]
        if set(sides) & set(settings.sides):
            found |= dict.fromkeys(sides, exported(source, work / quantization, quantization))
    return found


def measure(settings: Settings, children: dict[str, Child], texts: list[str]) -> dict[str, Any]:
    """Returns side -> batch -> lists of seconds to all tokens and to the first one."""
    draw = random.Random(settings.seed)
    found: dict[str, Any] = {
        name: {size: {"seconds": [], "first": []} for size in settings.batches} for name in children
    }
    for turn in range(settings.rounds + 1):
        for size in settings.batches:
            prompts = draw.sample(texts, size)
            for name, child in children.items():
                done = child.ask(prompts, settings.num_tokens)
                first = done["first"]
                if name.startswith("ct2"):
                    first = child.ask(prompts, 1)["first"]
                if turn:
                    found[name][size]["seconds"].append(done["seconds"])
                    found[name][size]["first"].append(statistics.median(first))
    return found


def ratio(found: dict[str, Any], size: int, side: str, to: str) -> float | None:
    """Returns how many times as fast a side is, the median over rounds."""
    if side not in found or to not in found:
        return None
    pairs = zip(found[to][size]["seconds"], found[side][size]["seconds"], strict=True)
    return statistics.median(theirs / ours for theirs, ours in pairs)


def records(settings: Settings, found: dict[str, Any], peaks: dict[str, int]) -> list[dict]:
    """Returns a row for each side and batch size."""
    rows = []
    for name in found:
        bare = f"ct2_{name.partition('_')[2]}"
        for size in settings.batches:
            seconds = statistics.median(found[name][size]["seconds"])
            rows.append(
                {
                    "side": name,
                    "batch": size,
                    "tokens_per_second": size * settings.num_tokens / seconds,
                    "first_token_seconds": statistics.median(found[name][size]["first"]),
                    "to_hf": ratio(found, size, name, "hf"),
                    "to_bare_ct2": ratio(found, size, name, bare) if "ours" in name else None,
                    "peak_gib": peaks[name] / 2**30,
                }
            )
    return rows


def show(rows: list[dict], settings: Settings) -> None:
    """Prints the table."""
    table = Table(title=f"{settings.model or '0.2B, random weights'}, {settings.num_tokens} tokens")
    for head in ("side", "batch", "tokens/s", "first token ms", "x HF", "x bare CT2", "peak GiB"):
        table.add_column(head, justify="left" if head == "side" else "right")
    for row in rows:
        ratios = ["" if row[key] is None else f"{row[key]:.2f}" for key in ("to_hf", "to_bare_ct2")]
        table.add_row(
            row["side"],
            str(row["batch"]),
            f"{row['tokens_per_second']:.1f}",
            f"{1000 * row['first_token_seconds']:.0f}",
            *ratios,
            f"{row['peak_gib']:.2f}",
        )
    Console(width=110).print(table)


def main(argv: Sequence[str]) -> int:
    """Measures and prints."""
    settings = cli.parse(argv, Settings)
    texts = questions(settings)
    with tempfile.TemporaryDirectory() as work:
        places = folders(settings, Path(work), texts)
        children = {name: Child(name, places[name], settings) for name in settings.sides}
        found = measure(settings, children, texts)
        peaks = {name: child.close() for name, child in children.items()}
    rows = records(settings, found, peaks)
    show(rows, settings)
    print(json.dumps({"threads": settings.threads, "cpus": settings.cpus, "rows": rows}))
    return 0


if __name__ == "__main__":
    cli.run(main)
