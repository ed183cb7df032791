"""One folder a run: its settings, its log of figures, its checkpoints.

In: the settings. Out: `out/<run>/` with config.yaml, metrics.jsonl, samples.jsonl, loss.png and
step_*/. It chooses names and appends lines; what the lines say is the trainer's.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ujson

from chatlm import cli
from chatlm.checkpoint_paths import whole_steps
from chatlm.config import TrainConfig
from chatlm.errors import CheckpointError, ConfigError

OUT_ROOT = Path("out")
METRICS = "metrics.jsonl"
CONFIG = "config.yaml"


def choose(config: TrainConfig) -> Path:
    """Returns the run folder for these settings, without making it.

    Raises:
        ConfigError: out= holds a run already and resume was not asked for.
        CheckpointError: resume was asked for and there is nothing to resume.
    """
    kind = "finetune" if config.finetune else "train"
    if config.resume:
        folder = Path(config.out) if config.out else newest(kind)
        if folder is None or not whole_steps(folder):
            where = f"in {folder}" if folder else f"of {kind} under {OUT_ROOT}/"
            raise CheckpointError(f"there is no checkpoint {where} to resume: leave out resume")
        return folder
    if not config.out:
        return _next(kind)
    folder = Path(config.out)
    if (folder / METRICS).exists() or whole_steps(folder):
        raise ConfigError(
            f"{folder} already holds a run: go on with resume=True, or name another out="
        )
    return folder


def newest(kind: str) -> Path | None:
    """Returns the newest run of a kind ("train", "finetune") that has a checkpoint."""
    runs = [path for path in OUT_ROOT.glob(f"{kind}-[0-9]*") if whole_steps(path)]
    return max(runs, key=_number, default=None)


def _next(kind: str) -> Path:
    taken = [_number(path) for path in OUT_ROOT.glob(f"{kind}-[0-9]*")]
    return OUT_ROOT / f"{kind}-{max(taken, default=0) + 1:03d}"


def _number(path: Path) -> int:
    digits = path.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0


def settings(folder: Path) -> dict[str, Any]:
    """Returns the settings that a run was started with, as dotted keys.

    Raises:
        CheckpointError: config.yaml is missing or unreadable.
    """
    try:
        found = cli.read_config_file(folder / CONFIG)
    except ConfigError as error:
        raise CheckpointError(f"{folder} cannot be resumed: {error}") from error
    # What decides where and how far a run goes is asked for anew each time.
    return {key: value for key, value in found.items() if key not in ("resume", "out")}


def create(folder: Path, config: TrainConfig) -> None:
    """Makes the folder and writes the resolved settings into it.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(cli.to_yaml(config), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the run folder {folder}: {error}") from error


def append(folder: Path, file: str, record: Mapping[str, Any]) -> None:
    """Appends one JSON line."""
    with (folder / file).open("a", encoding="utf-8") as stream:
        stream.write(_line(record))


def _line(record: Mapping[str, Any]) -> str:
    return ujson.dumps(record, ensure_ascii=False, escape_forward_slashes=False) + "\n"


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl; a last line cut by a kill is left out."""
    path = folder / METRICS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [ujson.loads(line) for line in lines if line.endswith("\n")]


def rewind(folder: Path, step: int) -> None:
    """Drops the figures after `step`, which a resumed run computes again."""
    kept = [record for record in metrics(folder) if record["step"] <= step]
    part = folder / f".tmp-{METRICS}"
    with part.open("w", encoding="utf-8") as stream:
        for record in kept:
            stream.write(_line(record))
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(folder / METRICS)
