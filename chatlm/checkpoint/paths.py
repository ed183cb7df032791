"""Which checkpoint folder a user means.

In: what the user typed, which may be a checkpoint, a whole run, or nothing. Out: the path of one
checkpoint folder. It looks at names only: no torch, and no file is opened but the pointer `best`.
"""

import re
from pathlib import Path

from chatlm.errors import CheckpointError

MODEL_CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""Lie in a folder with adapters on a model of others, as peft writes it."""
MANIFEST = "MANIFEST.json"
CT2_FILES = ("ct2.json", "shared_vocabulary.json")
"""Lie in a folder that `utils.export_model format=ct2` wrote."""
BEST = "best"
NONE_IS_GOOD = "none"
"""Stands in `best` where each checkpoint that was judged is beyond a limit of its run."""
HOW_TO_MAKE = "train one with: python train.py train"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
HOW_TO_CONVERT = (
    "is a pickle, which is not opened; convert it once, if you trust its author: python -m "
    "utils.import_weights"
)
_STEP = re.compile(r"step_[0-9]{1,12}")
_LONGEST_POINTER = 64


def step_name(step: int) -> str:
    """Returns the folder name of a step."""
    return f"step_{step:06d}"


def saved_steps(run: Path) -> list[int]:
    """Returns the steps that a run has checkpoint folders of, whole or not, oldest first."""
    names = [path.name.removeprefix("step_") for path in run.glob("step_*/")]
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def whole_steps(run: Path) -> list[int]:
    """Returns the steps of a run's checkpoints that have a manifest, oldest first."""
    return [step for step in saved_steps(run) if (run / step_name(step) / MANIFEST).is_file()]


def resolve_model(path: str | Path | None, out_root: str | Path = "out") -> Path:
    """Returns the checkpoint folder to open.

    Args:
        path: a checkpoint folder (config.json and weights, or adapters), an exported one, or a run
            folder (the checkpoint that its file `best` names, else its newest whole one), or None
            for the newest run.
        out_root: where runs are looked for.

    Raises:
        CheckpointError: there is nothing to open; the message names the command that makes one. Or
            no checkpoint of the run is a good one, and it has to be named itself.
    """
    if path is None:
        return _newest_run(Path(out_root))
    folder = Path(path).expanduser()
    if not folder.is_dir():
        known = ", ".join(str(run) for run in _runs(Path(out_root))) or "none"
        raise CheckpointError(
            f"model folder {folder} does not exist; runs here: {known}; {HOW_TO_MAKE}"
        )
    if is_checkpoint(folder) or is_exported(folder) or is_adapter(folder):
        return folder
    found = _of_run(folder)
    if found is None and (pickled := pickles(folder)):
        missing = ADAPTER_FILES[1] if (folder / ADAPTER_FILES[0]).is_file() else WEIGHTS[0]
        raise CheckpointError(f"{folder} has no {missing}; {pickled[0]} {HOW_TO_CONVERT}")
    if found is None and (folder / ADAPTER_FILES[0]).is_file():
        raise CheckpointError(
            f"{folder} has {ADAPTER_FILES[0]} but no {ADAPTER_FILES[1]}: copy the adapters anew"
        )
    if found is None:
        raise CheckpointError(
            f"{folder} is neither a checkpoint (config.json with model.safetensors) nor a run with "
            f"a finished checkpoint (step_*/{MANIFEST}); {HOW_TO_MAKE}"
        )
    return _good(folder, found)


def is_checkpoint(folder: Path) -> bool:
    """Tells whether a folder holds a model that can be opened."""
    return (folder / MODEL_CONFIG).is_file() and any((folder / n).is_file() for n in WEIGHTS)


def is_adapter(folder: Path) -> bool:
    """Tells whether a folder holds adapters on a model of others."""
    return all((folder / name).is_file() for name in ADAPTER_FILES)


def is_exported(folder: Path) -> bool:
    """Tells whether a folder holds a model for CTranslate2, or what is left of one."""
    return not is_checkpoint(folder) and any((folder / name).is_file() for name in CT2_FILES)


def pickles(folder: Path) -> list[str]:
    """Returns the names of files in a folder that hold weights in a form that can run programs."""
    return sorted(path.name for path in folder.glob("*") if path.suffix in PICKLED)


def _of_run(run: Path) -> Path | None:
    """Returns the best, else the newest whole checkpoint of a run, or None."""
    name = _called_best(run)
    # Only the name of a step is taken, so that it cannot lead out of the run.
    if _STEP.fullmatch(name) and _is_model(run / name):
        return run / name
    whole = [run / step_name(step) for step in whole_steps(run)]
    return next((folder for folder in reversed(whole) if _is_model(folder)), None)


def _called_best(run: Path) -> str:
    """Returns what stands in the file `best`, "" where there is none."""
    pointer = run / BEST
    if not pointer.is_file():
        return ""
    with pointer.open("rb") as file:
        return file.read(_LONGEST_POINTER).decode("utf-8", "replace").strip()


def _good(run: Path, found: Path) -> Path:
    """Returns the checkpoint that was found in a run.

    Raises:
        CheckpointError: the run says that none is a good one.
    """
    if _called_best(run) == NONE_IS_GOOD:
        raise CheckpointError(
            f"{run}: no checkpoint that was judged is within max_forgetting=, so none is opened "
            f"for the run: use the base, tune it anew, or name a checkpoint ({found})"
        )
    return found


def _is_model(folder: Path) -> bool:
    return is_checkpoint(folder) or is_adapter(folder)


def _runs(out_root: Path) -> list[Path]:
    """Returns the runs that have a checkpoint, oldest first by when it was finished."""
    runs = [(found, run) for run in sorted(out_root.glob("*/")) if (found := _of_run(run))]
    runs.sort(key=lambda pair: _finished_at(pair[0]))
    return [run for _, run in runs]


def _finished_at(folder: Path) -> int:
    """Returns when a checkpoint was written, in nanoseconds."""
    name = ADAPTER_FILES[0] if is_adapter(folder) else MODEL_CONFIG
    return (folder / name).stat().st_mtime_ns


def _newest_run(out_root: Path) -> Path:
    runs = _runs(out_root)
    found = _of_run(runs[-1]) if runs else None
    if found is None:
        raise CheckpointError(
            f"there is no trained model under {out_root}/: {HOW_TO_MAKE}, "
            "or name a folder with model="
        )
    return _good(runs[-1], found)
