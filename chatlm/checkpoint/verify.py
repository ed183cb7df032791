"""Which checkpoint of a run can be gone on with.

In: a run folder. Out: the newest checkpoint that is whole, by the step in its manifest; no clock
and no file time is asked. Damaged ones are named and set aside, never deleted and never loaded.
Imports no torch.
"""

from pathlib import Path

from chatlm import log, run_folder
from chatlm.checkpoint import manifest, storage
from chatlm.checkpoint.paths import MANIFEST, saved_steps, step_name
from chatlm.errors import CheckpointError

FALLBACK = "fallback"
"""An event in ledger.jsonl."""
LEADS_OUT = "is a link that leads out of the run"


def problem(folder: Path) -> str | None:
    """Returns what is wrong with a checkpoint, or None when every bit is as it was written."""
    for path in (folder, folder / MANIFEST):
        if _leads_out(folder, path):
            return f"{path.name} {LEADS_OUT}"
    try:
        listed = manifest.read(folder)
    except ValueError as error:
        return str(error)
    if step_name(listed.step) != folder.name:
        return f"{MANIFEST} is that of {step_name(listed.step)}"
    for file, entry in listed.files.items():
        if _leads_out(folder, folder / file):
            return f"{file} {LEADS_OUT}"
        try:
            if (folder / file).stat().st_size != entry.bytes:
                return f"{file} is damaged"
            if manifest.entry_of(folder / file) != entry:
                return f"{file} is damaged"
        except (FileNotFoundError, NotADirectoryError):
            return f"{file} is missing"
        except OSError as error:
            return f"{file} is unreadable ({error})"
    return None


def _leads_out(folder: Path, path: Path) -> bool:
    """Tells whether a path of a checkpoint is, by way of links, not one of its run."""
    return not path.resolve().is_relative_to(folder.parent.resolve())


def newest_whole(run: Path) -> Path:
    """Returns the newest checkpoint that is whole; newer ones are set aside, and named.

    Raises:
        CheckpointError: there is none, or a newer one is of a later ChatLM. All stay where they
            are, so that the next start says the same: a run never begins at 0 by itself.
    """
    problems: dict[Path, str] = {}
    for step in reversed(saved_steps(run)):
        folder = run / step_name(step)
        _refuse_newer_format(folder)
        wrong = problem(folder)
        if wrong is None:
            for damaged, why in problems.items():
                _set_aside(damaged, why, instead=folder)
            return folder
        problems[folder] = wrong
    listed = "; ".join(f"{folder.name}: {wrong}" for folder, wrong in problems.items())
    detail = f" ({listed})" if listed else ""
    raise CheckpointError(
        f"no whole checkpoint in {run}{detail}: start anew with another out=, or bring a copy back"
    )


def _refuse_newer_format(folder: Path) -> None:
    if _leads_out(folder, folder / MANIFEST):
        return  # `problem` says so
    try:
        manifest.read(folder)
    except manifest.NewerFormat as error:
        raise CheckpointError(f"{folder}: {error}") from error
    except ValueError:
        return  # `problem` says what is wrong


def _set_aside(folder: Path, why: str, *, instead: Path) -> None:
    aside = _free_name(folder)
    with storage.guarded(aside, 0):
        folder.rename(aside)
    log.warning(
        f"{folder} cannot be used ({why}): set aside as {aside.name}, going on from {instead.name}"
    )
    line = {"event": FALLBACK, "from": folder.name, "to": instead.name, "why": why}
    run_folder.append(folder.parent, run_folder.LEDGER, line)


def _free_name(folder: Path) -> Path:
    """Returns a name that no earlier damaged checkpoint has."""
    first = folder.with_name(f".corrupt-{folder.name}")
    aside, count = first, 1
    while aside.exists():
        count += 1
        aside = first.with_name(f"{first.name}-{count}")
    return aside
