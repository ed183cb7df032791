"""One folder a run: its settings, its log of figures, its checkpoints.

In: the settings. Out: `out/<run>/` with config.yaml, metrics.jsonl, samples.jsonl, ledger.jsonl,
loss.png and step_*/, held by one trainer at a time. It chooses, locks, and appends lines; what the
lines say is the trainer's. A line that a kill or a full disk cut is taken out by the next one.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ujson

from chatlm import cli, log
from chatlm.checkpoint import retention
from chatlm.checkpoint.paths import BEST, saved_steps
from chatlm.config import TrainConfig
from chatlm.errors import ChatLMError, CheckpointError, ConfigError, StorageError
from chatlm.neighbours.lock import Lock, refuse_if_held

OUT_ROOT = Path("out")
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
LEDGER = "ledger.jsonl"
CONFIG = "config.yaml"
_BLOCK = 1 << 16


def choose(config: TrainConfig) -> Path:
    """Returns the run folder for these settings, without making it.

    Raises:
        ConfigError: out= holds a run already and resume was not asked for.
        CheckpointError: resume was asked for and there is nothing to resume.
        StorageError: the place cannot be looked at.
    """
    kind = "finetune" if config.finetune else "train"
    try:
        if config.resume:
            return _to_resume(config.out, kind)
        if not config.out:
            return _next(kind)
        folder = Path(config.out)
        has_saved = _has_saved(folder)
    except OSError as error:
        raise StorageError(
            f"cannot look into {config.out or OUT_ROOT} ({error.strerror}): name another out="
        ) from error
    if has_saved:
        refuse_if_held(folder)  # who trains in it is the better answer
        raise ConfigError(
            f"{folder} already holds a run: go on with resume=True, or name another out="
        )
    return folder


def _to_resume(out: str, kind: str) -> Path:
    folder = Path(out) if out else newest(kind)
    if folder is None or not saved_steps(folder):
        if folder is not None and _has_saved(folder):
            raise CheckpointError(
                f"all checkpoints of {folder} were found damaged and set aside as .corrupt-*: "
                "bring one back, or start anew with another out="
            )
        where = f"in {folder}" if folder else f"of {kind} under {OUT_ROOT}/"
        raise CheckpointError(f"there is no checkpoint {where} to resume: leave out resume")
    return folder


def _has_saved(folder: Path) -> bool:
    """Says whether a run has ever had a checkpoint; one that died before it can start anew."""
    traces = ("step_*", ".corrupt-*", BEST)
    return any(next(folder.glob(trace), None) is not None for trace in traces)


def check(config: TrainConfig) -> None:
    """Says at once, before torch is imported, what `claim` would have to say later.

    Raises:
        ConfigError: as `claim`.
        CheckpointError: as `claim`.
        StorageError: the place cannot be looked at.
    """
    refuse_if_held(choose(config))


def claim(config: TrainConfig) -> Lock:
    """Chooses the run folder, makes it if need be, and keeps every other trainer out of it.

    Leftovers of a trainer that was killed while it wrote are removed.

    Returns:
        The lock; `lock.run` is the folder.

    Raises:
        ConfigError: as `choose`, or another trainer is in it.
        CheckpointError: as `choose`.
        StorageError: the folder cannot be made or written.
    """
    fresh = not config.out and not config.resume
    while True:
        try:
            lock = Lock(choose(config), fresh=fresh)
            break
        except FileExistsError:  # another trainer took the number in this moment
            continue
    try:
        if config.out and not config.resume:
            choose(config)  # again: another trainer may have come, trained and gone
        retention.sweep(lock.run)
    except ChatLMError:
        lock.release()
        raise
    return lock


def newest(kind: str) -> Path | None:
    """Returns the newest run of a kind ("train", "finetune") that has a checkpoint."""
    runs = [path for path in OUT_ROOT.glob(f"{kind}-[0-9]*") if saved_steps(path)]
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
    kept = {key: value for key, value in found.items() if key not in ("resume", "out")}
    if kept.get("compile") == "auto":  # what the setting could be called once; now it is no
        del kept["compile"]
    return kept


def create(folder: Path, config: TrainConfig) -> None:
    """Writes the resolved settings into the folder of a run that starts at its beginning.

    Raises:
        StorageError: the folder cannot be written.
    """
    figures = [folder / METRICS, folder / SAMPLES]
    if any(path.exists() for path in figures):
        log.info(f"{folder} holds a run that ended before its first checkpoint: starting it anew")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in figures:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    _write(folder, CONFIG, [cli.to_yaml(config)])


def append(folder: Path, file: str, record: Mapping[str, Any]) -> None:
    """Appends one JSON line, whole or not at all.

    Raises:
        StorageError: there is no space for it, or the folder is gone.
    """
    path, line = folder / file, _line(record).encode()
    try:
        # A link could lead to any file of the user's, which must not be written to.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        raise _unwritable(path, error, len(line)) from error
    end = None
    try:
        end = _end_of_lines(descriptor)
        written = 0
        while written < len(line):
            written += os.pwrite(descriptor, line[written:], end + written)
    except OSError as error:
        if end is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, end)
        raise _unwritable(path, error, len(line)) from error
    finally:
        os.close(descriptor)


def _end_of_lines(descriptor: int) -> int:
    """Returns where the last whole line ends; what follows it was cut, and is taken away."""
    size = end = os.fstat(descriptor).st_size
    while end and os.pread(descriptor, 1, end - 1) != b"\n":
        start = max(0, end - _BLOCK)
        end = start + os.pread(descriptor, end - start, start).rfind(b"\n") + 1
    if end < size:
        os.ftruncate(descriptor, end)
    return end


def _unwritable(path: Path, error: OSError, num_bytes: int = 0) -> StorageError:
    needed = f" {num_bytes} bytes" if num_bytes else ""
    return StorageError(
        f"cannot write{needed} to {path} ({error.strerror}): free some space or bring the folder "
        "back, and go on with resume=True"
    )


def _line(record: Mapping[str, Any]) -> str:
    return ujson.dumps(record, ensure_ascii=False, escape_forward_slashes=False) + "\n"


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl; a last line cut by a kill is left out."""
    return _records(folder / METRICS)


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            records.append(ujson.loads(line))
        except ValueError:
            log.warning(f"{path}: line {number} is damaged and left out")
    return records


def rewind(folder: Path, step: int) -> None:
    """Drops the figures and samples after `step`, which a resumed run computes again.

    Raises:
        StorageError: the folder cannot be written.
    """
    for file in (METRICS, SAMPLES):
        if (folder / file).exists():
            kept = [record for record in _records(folder / file) if record["step"] <= step]
            _write(folder, file, map(_line, kept))


def _write(folder: Path, file: str, lines: Iterable[str]) -> None:
    part, content = folder / f".tmp-{file}", "".join(lines).encode()
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(folder / file)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise _unwritable(folder / file, error, len(content)) from error
