"""Writes checkpoints, beside the training if asked to.

In: snapshots of a run. Out: `step_000500/` with the model's files as its layout says, those of the
tokenizer, chat.json, optimizer.safetensors, state.json and, last, MANIFEST.json. A folder is
written under a temporary name, synced and renamed; only the main process does so. No pickle is
written. It decides neither when to save nor which step was the best.
"""

import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import getpid
from pathlib import Path
from typing import Any

import ujson
from torch import Tensor

from chatlm.checkpoint import manifest, retention, storage, tensors
from chatlm.checkpoint.layout import Layout
from chatlm.checkpoint.manifest import Entry, Manifest
from chatlm.checkpoint.moments import OPTIMIZER, write_moments
from chatlm.checkpoint.paths import saved_steps, step_name
from chatlm.checkpoint.state import State, write_state
from chatlm.model import hf
from chatlm.tokenizer import Tokenizer

CHAT = "chat.json"


@dataclass(frozen=True)
class Snapshot:
    """A run at the end of a step. Nothing in it is touched by the next one, if written beside it.

    Attributes:
        state: How far the run is.
        weights: All weights under our names, on the CPU.
        moments: What the optimizer remembers, as `<tensor name>|<moment>`, on the CPU.
        layout: In which files the weights lie.
        tokenizer: Text <-> ids.
        chat: What a chat has to know of the training (limits, history).
    """

    state: State
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    layout: Layout
    tokenizer: Tokenizer
    chat: Mapping[str, Any]

    @property
    def nbytes(self) -> int:
        """About how many bytes its checkpoint takes."""
        every = [*self.weights.values(), *self.moments.values()]
        return sum(tensor.nbytes for tensor in every) + storage.SMALL_FILES


class Saver:
    """The one writer of a run's checkpoints; lives on the main process, which owns the run."""

    def __init__(
        self,
        run: Path,
        *,
        keep: int,
        background: bool,
        check: Callable[[Snapshot], None] | None = None,
    ) -> None:
        """Takes over the checkpoints of a run.

        Args:
            run: the run folder, which this process has locked and swept.
            keep: how many of the newest checkpoints stay, besides the best one.
            background: whether `save` returns before the checkpoint is on the disk.
            check: raises if a snapshot must not be written; called where it would be.
        """
        self._run, self._keep, self._background = run, keep, background
        self._check = check
        self._thread: threading.Thread | None = None
        self._taken = threading.Event()
        self._taken.set()
        self._error: BaseException | None = None
        self._memory: dict[str, Tensor] = {}

    def memory(self) -> dict[str, Tensor]:
        """Returns where a snapshot's tensors go; the save before has to be waited for first.

        In the background it is that of the snapshot before, to be filled again: fresh memory takes
        several times as long. In the foreground it is empty, and free as soon as `save` returns.
        """
        assert self._thread is None, "wait() first: a save is reading this memory"
        return self._memory if self._background else {}

    def save(self, take: Callable[[], Snapshot], best_step: int | None) -> None:
        """Writes a checkpoint, after the one before is done with, and points to the best one.

        Args:
            take: takes the snapshot. In the background it is called there, and `wait_until_taken`
                has to be called before anything that the snapshot copies is changed.
            best_step: the step with the lowest loss; where none was saved then, the newest one is
                called the best. None: none is good, and none is called so.

        Raises:
            StorageError: this one, or in the background the one before, could not be written;
                nothing is left of it, and older checkpoints are whole.
        """
        self.wait()
        if not self._background:
            self._write(take(), best_step)
            return
        self._taken.clear()
        self._thread = threading.Thread(
            target=self._write_beside, args=(take, best_step), name="saving"
        )
        self._thread.start()

    def wait_until_taken(self) -> None:
        """Returns when the last snapshot has been taken: the run may change its tensors."""
        self._taken.wait()

    def wait(self) -> None:
        """Returns when everything is on the disk, and no more than has to stay.

        Raises:
            StorageError: what was being written could not be.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Waits, and gives the memory back.

        Raises:
            StorageError: what was being written could not be.
        """
        try:
            self.wait()
        finally:
            self._memory.clear()

    def _write_beside(self, take: Callable[[], Snapshot], best_step: int | None) -> None:
        try:
            snapshot = take()
            self._taken.set()
            self._write(snapshot, best_step)
        except BaseException as error:
            # Raised where the training can see it: by the next `wait`.
            self._error = error
        finally:
            self._taken.set()

    def _write(self, snapshot: Snapshot, best_step: int | None) -> None:
        step = snapshot.state.step
        folder = self._run / step_name(step)
        part = self._run / f".tmp-{step_name(step)}-{getpid()}"
        if self._check:
            self._check(snapshot)
        try:
            with storage.guarded(folder, snapshot.nbytes):
                part.mkdir()
                write_files(part, snapshot)
                storage.sync_tree(part)
                _put_in_place(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        is_known = best_step is None or best_step in saved_steps(self._run)
        best = best_step if is_known else step
        retention.point_to_best(self._run, best)
        retention.prune(self._run, self._keep, best)


def write_files(folder: Path, snapshot: Snapshot) -> None:
    """Writes the files of a checkpoint into a folder, the manifest last."""
    entries: dict[str, Entry] = {}
    layout = snapshot.layout
    weights = layout.tensors(snapshot.weights)
    file = layout.weights_file
    entries[file] = tensors.write(folder / file, weights, hf.METADATA)
    entries[OPTIMIZER] = write_moments(folder, snapshot.moments)
    for name, text in layout.texts(snapshot.weights).items():
        (folder / name).write_text(text, encoding="utf-8")
    snapshot.tokenizer.save(folder)
    (folder / CHAT).write_text(ujson.dumps(snapshot.chat, indent=1), encoding="utf-8")
    write_state(folder, snapshot.state)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        entries.setdefault(name, manifest.entry_of(path))
    state = snapshot.state
    made = Manifest(state.step, entries, state.data, state.tokenizer, state.config)
    manifest.write(folder, made)


def _put_in_place(part: Path, folder: Path) -> None:
    """Gives a finished folder its name; one of this step from before makes room."""
    gone = folder.with_name(f".old-{folder.name}")
    if folder.exists():
        folder.rename(gone)
    part.rename(folder)
    storage.sync(folder.parent)
    shutil.rmtree(gone, ignore_errors=True)
