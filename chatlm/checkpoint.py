"""Checkpoints: everything a run needs to go on, in one folder that Hugging Face opens too.

In: weights, optimizer, progress. Out: `step_000500/` with config.json, generation_config.json,
model.safetensors, the tokenizer's files, chat.json, optimizer.safetensors (or DeepSpeed's own
folder), state.json and, last, MANIFEST.json with the sha256 of every other file. A folder is
written under a temporary name, synced, and renamed; one without a manifest is not a checkpoint.
No pickle is read or written here, except DeepSpeed's own files by DeepSpeed.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import ujson
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from chatlm import log
from chatlm.checkpoint_paths import BEST, MANIFEST, step_name, whole_steps
from chatlm.errors import CheckpointError

FORMAT_VERSION = 1
STATE = "state.json"
OPTIMIZER = "optimizer.safetensors"
DEEPSPEED = "deepspeed"


@dataclass(frozen=True)
class State:
    """How far a run is. `samples` counts training pairs seen; `best_loss` is nats a token."""

    step: int
    samples: int
    best_step: int
    best_loss: float
    data: str
    tokenizer: str
    num_processes: int
    run_seconds: float
    engine: str = ""


@contextmanager
def writing(run: Path, step: int, *, main_process: bool) -> Iterator[Path]:
    """Gives a temporary folder; when the block ends it becomes the checkpoint of `step`.

    Every process may write into the folder before the block ends; the caller sees to it that all
    of them have finished. Only the main process renames.

    Raises:
        CheckpointError: the folder cannot be written; older checkpoints stay as they are.
    """
    part = run / f".tmp-{step_name(step)}"
    try:
        if main_process:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        yield part
        if main_process:
            _finish(part, run / step_name(step), step)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise CheckpointError(
            f"cannot write checkpoint {run / step_name(step)}: {error}; older checkpoints are "
            "whole, free some space and go on with resume=True"
        ) from error


def _finish(part: Path, folder: Path, step: int) -> None:
    files = sorted(path for path in part.rglob("*") if path.is_file())
    entries = {
        path.relative_to(part).as_posix(): {
            "sha256": _sha256(path),
            "bytes": path.stat().st_size,
        }
        for path in files
    }
    manifest = {"format": FORMAT_VERSION, "step": step, "files": entries}
    (part / MANIFEST).write_text(ujson.dumps(manifest, indent=1))
    for path in [*files, part / MANIFEST]:
        _fsync(path)
    for path in [p for p in part.rglob("*") if p.is_dir()] + [part]:
        _fsync(path)
    if folder.exists():  # the same step saved again after an older one was found damaged
        folder.rename(folder.with_name(f".old-{folder.name}"))
    part.rename(folder)
    _fsync(folder.parent)
    shutil.rmtree(folder.with_name(f".old-{folder.name}"), ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def problem(folder: Path) -> str | None:
    """Returns what is wrong with a checkpoint, or None when every file is as it was written."""
    try:
        manifest = ujson.loads((folder / MANIFEST).read_text())
        if manifest["format"] > FORMAT_VERSION:
            return f"format {manifest['format']} is newer than this ChatLM ({FORMAT_VERSION})"
        for file, entry in manifest["files"].items():
            path = folder / file
            if not path.is_file():
                return f"{file} is missing"
            if path.stat().st_size != entry["bytes"] or _sha256(path) != entry["sha256"]:
                return f"{file} is damaged"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} is unreadable ({error})"
    return None


def newest_whole(run: Path) -> Path:
    """Returns the newest checkpoint that is whole; damaged ones are renamed aside and named.

    Raises:
        CheckpointError: there is none.
    """
    problems = []
    for step in reversed(whole_steps(run)):
        folder = run / step_name(step)
        wrong = problem(folder)
        if wrong is None:
            return folder
        aside = folder.with_name(f".corrupt-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        problems.append(f"{folder.name}: {wrong}")
        log.warning(f"{folder} cannot be used ({wrong}): set aside as {aside.name}")
    detail = f" ({'; '.join(problems)})" if problems else ""
    raise CheckpointError(
        f"no whole checkpoint in {run}{detail}: start anew with another out=, or without resume"
    )


def prune(run: Path, keep: int, best_step: int) -> None:
    """Deletes all but the `keep` newest checkpoints and the best one."""
    for step in whole_steps(run)[:-keep]:
        if step != best_step:
            gone = run / f".old-{step_name(step)}"
            (run / step_name(step)).rename(gone)
            shutil.rmtree(gone)


def point_to_best(run: Path, step: int) -> None:
    """Names the best checkpoint in the file `best`, which chat reads."""
    part = run / f".tmp-{BEST}"
    part.write_text(step_name(step) + "\n")
    part.replace(run / BEST)


def write_state(folder: Path, state: State) -> None:
    """Writes state.json."""
    (folder / STATE).write_text(ujson.dumps(asdict(state), indent=1))


def read_state(folder: Path) -> State:
    """Returns a checkpoint's progress.

    Raises:
        CheckpointError: state.json is missing or of another shape.
    """
    try:
        return State(**ujson.loads((folder / STATE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{folder / STATE} is missing or unreadable ({error}): this folder can be used with "
            "finetune=True init_from=, but not resumed"
        ) from error


def whole(tensor: Tensor) -> Tensor:
    """Returns a tensor that FSDP2 cut up put together, any other as it is. Collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def write_optimizer(folder: Path, optimizer: torch.optim.Optimizer, *, main: bool = True) -> None:
    """Writes the optimizer's moments as `<tensor name>|<moment>`, whole. Collective.

    Only the main process keeps them and writes.
    """
    tensors: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for moment, value in optimizer.state[group["params"][0]].items():
            found = whole(value.detach())
            if main:
                tensors[f"{group['name']}|{moment}"] = found.cpu().contiguous()
    if main:
        save_file(tensors, folder / OPTIMIZER)


def read_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Puts the saved moments back.

    Raises:
        CheckpointError: the file is missing, or belongs to other parameters.
    """
    if not (folder / OPTIMIZER).is_file():
        raise CheckpointError(
            f"{folder} has no {OPTIMIZER}: it was saved under DeepSpeed, resume it with the same "
            "launch line, or take its weights with finetune=True init_from="
        )
    saved: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(folder / OPTIMIZER).items():
        tensor_name, _, moment = key.rpartition("|")
        saved.setdefault(tensor_name, {})[moment] = value
    expected = {group["name"] for group in optimizer.param_groups}
    if saved.keys() != expected:
        different = sorted(saved.keys() ^ expected)[:3]
        raise CheckpointError(
            f"{folder / OPTIMIZER} belongs to another set of weights ({', '.join(different)}, "
            "...): resume with the same model and freeze settings"
        )
    for group in optimizer.param_groups:
        parameter = group["params"][0]
        optimizer.state[parameter] = {
            # AdamW's fused kernels want the step counter beside the weights.
            moment: laid_out_like(parameter, value.to(parameter.device))
            for moment, value in saved[group["name"]].items()
        }


def laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Returns a whole tensor as FSDP2 lays out the parameter, if it does; a counter stays one."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    # Every process has read the file, so none has to send anything.
    return distribute_tensor(value, mesh, placements, src_data_rank=None)


def write_chat_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes chat.json: what a chat has to know of the training (limits, history)."""
    (folder / "chat.json").write_text(ujson.dumps(settings, indent=1))
