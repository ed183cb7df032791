"""Does `train.py plan` tell the truth? Its memory and time beside those of real microbatches.

    python benchmarks/plan_accuracy.py
    python benchmarks/plan_accuracy.py cases=small:8192 optimizers=adamw clock=wall

For each model, optimizer and microbatch size the parts of a step are measured, a plan is made of
them, and the microbatch is computed in a process of its own: forward, backward, the optimizer's
step. Pairs have the lengths of Chinese chat, drawn once; ids are random. Prints a table of
predicted and measured figures and then one line of JSON. Exit code 1 if memory is off by more than
10 % or time by more than 25 %.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from chatlm import cli, log
from chatlm.config import PRESETS, TrainConfig
from chatlm.errors import ConfigError
from chatlm.plan import machine
from chatlm.plan.check import CLOCKS
from chatlm.plan.choose import Question
from chatlm.plan.lengths import Pairs
from chatlm.plan.load import Load, filled
from chatlm.plan.plan import MEMORY_TOLERANCE, TIME_TOLERANCE, Check, bench, hold, libraries_of
from chatlm.plan.planned import OwnModel
from chatlm.plan.report import checked
from chatlm.plan.timing import Calibration

GIB = 2**30
MORE_SHAPES: dict[str, dict[str, Any]] = {
    "d512": {
        "vocab_size": 29298,
        "model.d_model": 512,
        "model.d_ff": 1024,
        "model.num_heads": 8,
        "model.num_layers": 6,
        "model.num_decoder_layers": 6,
        "model.feed_forward_proj": "gated-gelu",
    }
}
CASES = "starter:4096,starter:16384,small:2048,small:8192,d512:1024,d512:4096,base:1024,base:2048"


@dataclass(frozen=True)
class Settings:
    """Settings of this benchmark."""

    cases: str = field(default=CASES, metadata={"help": "model:microbatch_tokens, ..."})
    optimizers: str = field(default="adamw,muon", metadata={"help": "of each case"})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})
    threads: int = field(default=1, metadata={"help": "CPU threads"})
    clock: str = field(
        default="cpu", metadata={"help": "cpu (one thread on a busy machine) or wall seconds"}
    )
    accumulates: bool = field(default=True, metadata={"help": "with gradients of a microbatch"})


def pair_lengths(config: TrainConfig, seed: int = 0) -> tuple[Any, Any]:
    """Returns lengths of 4,000 pairs: log-normal, about 24 and 103 tokens in the mean."""
    generator = np.random.default_rng(seed)
    limits = config.max_source_tokens, config.max_target_tokens
    source, target = (
        np.clip(np.rint(generator.lognormal(mean, spread, 4000)), 2, limit).astype(np.int64)
        for (mean, spread), limit in zip(((3.0, 0.6), (4.5, 0.6)), limits, strict=True)
    )
    return source, target


def cases(settings: Settings) -> Iterator[tuple[str, int]]:
    """Yields (model, microbatch tokens).

    Raises:
        ConfigError: a case names no known model.
    """
    for case in settings.cases.split(","):
        model, _, tokens = case.partition(":")
        known = [*PRESETS, *MORE_SHAPES]
        if model not in known or not tokens.isdigit():
            raise ConfigError(f"cases={case}: expected model:tokens, models {', '.join(known)}")
        yield model, int(tokens)


def config_of(model: str, optimizer: str, settings: Settings) -> TrainConfig:
    """Returns the settings of one case."""
    shape = {**PRESETS.get(model, {}), **MORE_SHAPES.get(model, {})}
    own = {
        "preset": model if model in PRESETS else "base",
        "model.vocab_size": shape.get("vocab_size", TrainConfig.vocab_size),
        "optimizer": optimizer,
        "device": settings.device,
        "threads": settings.threads,
    }
    return cli.build(TrainConfig, shape, own)


def run(settings: Settings) -> list[dict[str, Any]]:
    """Returns the figures of every case."""
    clock = CLOCKS[settings.clock]
    found: list[dict[str, Any]] = []
    calibrations: dict[tuple[str, str], Calibration] = {}
    libraries = libraries_of(machine.here(TrainConfig(device=settings.device), 1, Path()))
    for model, tokens in cases(settings):
        for optimizer in settings.optimizers.split(","):
            config = config_of(model, optimizer, settings)
            there = machine.here(config, 1, Path())
            torch.set_num_threads(there.threads)
            torch.set_flush_denormal(True)
            half = there.is_cuda
            key = model, optimizer
            if key not in calibrations:
                calibrations[key] = Calibration(config, bench(there, half, clock))
            load = filled(*pair_lengths(config), tokens)
            times = calibrations[key].times(load)
            pairs, planned = _pairs(config, load), OwnModel(config)
            question = Question(config, there, pairs, 1, half, libraries, planned)
            check = hold(question, config, load, settings.accumulates, times, clock)
            found.append({"model": model, "optimizer": optimizer, **figures(check)})
            log.info(
                f"{model} {optimizer} {tokens}: memory {check.memory_error:+.1%}, microbatch "
                f"{check.microbatch_error:+.1%}, step {check.step_error:+.1%}"
            )
    return found


def _pairs(config: TrainConfig, load: Load) -> Pairs:
    shape = load.num_pairs, load.source_lengths, load.target_lengths
    return Pairs(*shape, config.model.vocab_size, "drawn")


def figures(check: Check) -> dict[str, Any]:
    """Returns the figures of one case."""
    growth = check.measured.memory_bytes - check.measured.libraries_bytes
    predicted = check.memory.total - check.memory.parts.get("interpreter, libraries", 0.0)
    parts = {name: round(size) for name, size in check.memory.parts.items()}
    return {
        **checked(check),
        "growth_error": predicted / growth - 1,
        "holds": check.memory_holds and check.time_holds,
        "memory_parts": parts,
        "microbatch_parts": dict(check.times.microbatch),
    }


def table(found: Sequence[dict[str, Any]]) -> Table:
    """Returns the figures for people."""
    shown = Table(title=f"plan against measurement ({MEMORY_TOLERANCE:.0%}, {TIME_TOLERANCE:.0%})")
    for name in (
        "model",
        "optimizer",
        "tokens",
        "memory GiB",
        "",
        "microbatch s",
        "",
        "step s",
        "",
    ):
        shown.add_column(name, justify="left" if name in ("model", "optimizer") else "right")
    for one in found:
        step = one["microbatch_measured"] + one["optimizer_measured"]
        planned = one["microbatch_predicted"] + one["optimizer_predicted"]
        shown.add_row(
            one["model"],
            one["optimizer"],
            f"{one['tokens']:,}",
            f"{one['memory_predicted'] / GIB:.2f} / {one['memory_measured'] / GIB:.2f}",
            f"{one['memory_error']:+.1%}",
            f"{one['microbatch_predicted']:.2f} / {one['microbatch_measured']:.2f}",
            f"{one['microbatch_error']:+.1%}",
            f"{planned:.2f} / {step:.2f}",
            f"{one['step_error']:+.1%}",
        )
    return shown


def main(argv: Sequence[str]) -> int:
    """Runs all cases and prints the table and the JSON line."""
    if argv and argv[0] in ("-h", "--help", "help"):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(Settings)}")
        return 0
    settings = cli.parse(argv, Settings)
    if settings.clock not in CLOCKS:
        raise ConfigError(f"clock={settings.clock}: {' or '.join(CLOCKS)}")
    start = time.monotonic()
    found = run(settings)
    Console(width=110).print(table(found))
    whole = {"cases": found, "seconds": round(time.monotonic() - start, 1)}
    print(json.dumps(whole))
    return int(not all(one["holds"] for one in found))


if __name__ == "__main__":
    cli.run(main)
