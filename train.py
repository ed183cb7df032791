"""Door 1: argv in, a trained model out.

    accelerate launch train.py train                 train from random weights
    accelerate launch train.py finetune=True         go on training a model on other pairs
    python train.py evaluate model=out/train-001     answer the held-out questions
    python train.py plan                             what a training takes, before it starts

It parses and dispatches; `chatlm.training` does the work. `--help` and a typo need no torch.
"""

import difflib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlm import cli
from chatlm.checkpoint.paths import resolve_model
from chatlm.config import ADAPTERS, FINETUNE, PRESETS, TrainConfig
from chatlm.errors import CheckpointError, ConfigError
from chatlm.neighbours.signals import StopRequest
from chatlm.plan.options import PlanConfig, PlanOptions

ALIASES = {
    "finetrune": "finetune",
    "is_finetune": "finetune",
    "is_keep_training": "resume",
    "position": "model.position",
}
USAGE = """usage:
  accelerate launch train.py train [key=value ...]      train from random weights
  accelerate launch train.py finetune=True [key=value ...]  start from a checkpoint
  python train.py evaluate [key=value ...]              answer held-out questions
  python train.py plan [key=value ...]                  memory, disk, hours and cost of a training

With no prepared data (data/train.parquet), training uses the starter corpus and a small model.
"""


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of `evaluate`."""

    model: str = field(default="", metadata={"help": "checkpoint or run; default the newest run"})
    data: str = field(default="", metadata={"help": "pairs; default what the run held out"})
    pairs: int = field(default=1024, metadata={"help": "how many pairs; 0: all"})
    show: int = field(default=10, metadata={"help": "answers to print"})
    num_beams: int = field(default=1, metadata={"help": "1: greedy"})
    device: str = field(default="auto", metadata={"help": "auto, cpu or cuda"})


def resolve(
    argv: Sequence[str], processes: int | None = None
) -> tuple[TrainConfig, Any, Path | None]:
    """Returns the settings of a training, where its pairs are, and the weights it starts from.

    A resumed run keeps the settings that it was started with; keys given now come on top.

    Args:
        argv: the keys.
        processes: how many the training has; None: as many as there are now.
    """
    from chatlm import run_folder
    from chatlm.dataset import prepare

    given = cli.overrides(argv, TrainConfig, aliases=ALIASES)
    asked = cli.build(TrainConfig, given)
    before = run_folder.settings(run_folder.choose(asked)) if asked.resume else {}
    asked = cli.build(TrainConfig, before, given)
    source = prepare.locate(asked.data, finetune=asked.finetune)
    preset = prepare.fitting_preset(source) if asked.preset == "auto" else asked.preset
    layers: list[cli.Layer] = [PRESETS[preset], before, given, {"preset": preset}]
    if asked.finetune and not before:
        layers.insert(1, ADAPTERS if asked.base else FINETUNE[preset])
    if asked.per_device_batch_size:
        processes = processes or int(os.environ.get("WORLD_SIZE", "1"))
        layers.append({"batch_size": asked.per_device_batch_size * processes})
    config = cli.build(TrainConfig, *layers)
    if source.kind == "sequences" and not config.base:
        raise ConfigError(
            f"data={source.name} holds ids for a model of others: name it with finetune=True base="
        )
    if config.base and config.optimizer == "muon":
        raise ConfigError("optimizer=muon is for whole models: with base= use adamw")
    start = None
    if config.finetune and not config.resume and not config.base:
        start = resolve_model(config.init_from or run_folder.newest("train"))
    return config, source, start


def train(argv: Sequence[str]) -> int:
    """Trains, and says what to do next."""
    with StopRequest() as stop:
        return _train(argv, stop)


def _train(argv: Sequence[str], stop: StopRequest) -> int:
    config, source, start = resolve(argv)
    if os.environ.get("RANK", "0") == "0":
        from chatlm import run_folder

        run_folder.check(config)
    if "OMP_WAIT_POLICY" not in os.environ:
        # Waiting threads soon give their core away: on a busy machine that is several times as
        # fast, on an idle one it costs nothing that can be measured.
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    from chatlm import log, training

    if source.kind == "starter" and not config.data:
        log.info(
            f"no prepared pairs: using the starter corpus in {source.path} and the small "
            f"`{config.preset}` model (your own: python -m utils.raw_data_process --help)"
        )
    if start:
        log.info(f"starting from {start}")
    run = training.train(config, source, start, stop)
    try:
        resolve_model(run)
    except CheckpointError as error:  # none is good; it says so, and what to do
        log.warning(str(error))
        return 0
    if config.base and config.lora.rank:
        log.info(f"the adapters are in {run}; peft opens each step_* folder")
        parts = {"folder": source.path / "test.parquet", "starter": None}
        data = parts.get(source.kind, source.path)
        asked = f" data={data}" if data and data.exists() else ""
        log.info(f"hold it against its base: python cli_demo.py compare model={run}{asked}")
    log.info(f"talk with it: python cli_demo.py chat model={run}")
    return 0


def evaluate(argv: Sequence[str]) -> int:
    """Answers held-out questions and prints the figures."""
    config = cli.parse(argv, EvaluateConfig)
    from chatlm import evaluation_report

    print(
        evaluation_report.make(
            config.model or None,
            config.data,
            pairs=config.pairs,
            show=config.show,
            num_beams=config.num_beams,
            device=config.device,
        )
    )
    return 0


def plan(argv: Sequence[str]) -> int:
    """Prints what a training with these settings takes, and how to launch it."""
    given = cli.overrides(argv, PlanConfig, aliases=ALIASES)
    own = {name for name, _ in cli.keys(PlanOptions)}
    options = cli.build(PlanOptions, {key: given[key] for key in given if key in own})
    options.card()
    settings = [f"{key}={value}" for key, value in given.items() if key not in own]
    config, source, start = resolve(settings, options.processes)
    from chatlm.plan import plan as planning
    from chatlm.plan import report

    made = planning.make(config, source, start, options, settings)
    report.show(made)
    if options.json:
        print(json.dumps(report.record(made), ensure_ascii=False))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "evaluate": evaluate,
    "plan": plan,
}
SCHEMAS = {"train": TrainConfig, "evaluate": EvaluateConfig, "plan": PlanConfig}


def main(argv: Sequence[str]) -> int:
    """Runs the command that argv names; `finetune=True` alone means `train finetune=True`.

    Raises:
        ConfigError: there is no such command.
    """
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(f"{USAGE}{cli.help_text(TrainConfig)}", file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    if argv[0] in COMMANDS:
        rest = argv[1:]
        if any(token in ("-h", "--help") for token in rest):
            print(f"{USAGE}{cli.help_text(SCHEMAS[argv[0]])}")
            return 0
        return COMMANDS[argv[0]](rest)
    if "=" in argv[0] or argv[0].startswith("--"):
        return train(argv)
    close = difflib.get_close_matches(argv[0], COMMANDS, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"expected {' or '.join(COMMANDS)}"
    raise ConfigError(f"unknown command '{argv[0]}': {hint}")


if __name__ == "__main__":
    cli.run(main)
