"""The checkpoints of one run, written and read by all of its processes together.

In: the trainer's State, the engine's tensors. Out: checkpoints, and a run put back to one of them.
Only the main process writes; what it fails with is raised on all. It decides neither when to save
nor whether a checkpoint may be gone on with.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from chatlm import log
from chatlm.agreement import Agreement
from chatlm.checkpoint.layout import Layout
from chatlm.checkpoint.moments import read_moments
from chatlm.checkpoint.paths import step_name
from chatlm.checkpoint.saver import Saver, Snapshot
from chatlm.checkpoint.state import State
from chatlm.config import TrainConfig
from chatlm.dataset.prepare import Prepared
from chatlm.dataset.token_store import TokenStore
from chatlm.engines import Engine
from chatlm.errors import CheckpointError
from chatlm.health import finite
from chatlm.neighbours.lock import Lock

Tensors = Mapping[str, Tensor]
CHAT_KEYS = ("max_source_tokens", "max_new_tokens", "history_turns")


def chat_limits(config: TrainConfig, train: TokenStore) -> dict[str, int]:
    """Returns what chat has to know of a training: the content of chat.json."""
    limits = {key: asdict(config)[key] for key in CHAT_KEYS}
    if config.history_turns < 0:
        limits["history_turns"] = train.history_turns
    return limits


class Checkpoints:
    """Those of a run. All methods but `close` are collective.

    Attributes:
        newest: The step that was saved or put back last.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: Path,
        lock: Lock | None,
        data: Prepared,
        engine: Engine,
        agreement: Agreement,
        layout: Layout,
    ) -> None:
        self._config, self._run, self._lock, self._data = config, run, lock, data
        self._layout = layout
        self._engine, self._agreement = engine, agreement
        self._saver: Saver | None = None
        if agreement.is_main:
            self._saver = Saver(
                run,
                keep=config.keep_checkpoints,
                background=config.background_saves,
                check=lambda one: finite.check(one.state.step, one.weights, one.moments),
            )
        self.newest = 0

    def save(self, state: State, *, has_best: bool = True) -> None:
        """Writes a checkpoint, or begins to.

        Args:
            state: how far the run is.
            has_best: whether some checkpoint may be called the best.

        Raises:
            StorageError: this or the one before could not be written, or the run folder is gone.
            SickRunError: a weight or moment of this or the one before is not finite.
            DataError: the file of tokens has changed while the run read it.
        """
        self.wait()
        take = self._tensors(self._saver.memory() if self._saver else None)

        def write() -> None:
            assert self._saver is not None
            if self._lock:
                self._lock.check()
            for store in filter(None, (self._data.train, self._data.valid)):
                store.require_unchanged()
            chat = chat_limits(self._config, self._data.train)
            layout, tokenizer = self._layout, self._data.tokenizer
            best = state.best_step if has_best else None
            self._saver.save(lambda: Snapshot(state, *take(), layout, tokenizer, chat), best)

        self._agreement.decide(write)
        self.newest = state.step

    def _tensors(self, memory: dict[str, Tensor] | None) -> Callable[[], tuple[Tensors, Tensors]]:
        """Returns what copies weights and moments: now if they have to be gathered, or when called.

        The next steps leave them as they are until they update them, so the copying can go on
        beside the forward and backward pass. See `before_update`.
        """
        engine = self._engine
        if not engine.gathers:
            return lambda: (engine.whole_weights(memory), engine.whole_moments(memory))
        gathered = engine.whole_weights(memory), engine.whole_moments(memory)
        return lambda: gathered

    def before_update(self) -> None:
        """Waits until weights and moments may change. Not collective."""
        if self._saver:
            self._saver.wait_until_taken()

    def wait(self) -> None:
        """Returns when all checkpoints are on the disk.

        Raises:
            StorageError: one could not be written.
            SickRunError: one had a weight or moment that is not finite, and was not written.
        """
        self._agreement.decide(lambda: self._saver.wait() if self._saver else None)

    def put_back_moments(self, folder: Path) -> None:
        """Gives the engine what its optimizer had in mind.

        Raises:
            CheckpointError: it is missing or damaged, or belongs to other weights.
        """
        try:
            self._engine.put_moments(read_moments(folder))
        except CheckpointError as error:
            named = str(folder) in str(error)
            raise error if named else CheckpointError(f"{folder}: {error}") from error

    def put_back(self, step: int) -> Path:
        """Puts weights and moments back to a checkpoint of this run; returns its folder."""
        self.wait()
        folder = self._run / step_name(step)
        self._engine.put_weights(self._layout.read(folder))
        self.put_back_moments(folder)
        self.newest = step
        return folder

    def close(self) -> None:
        """Lets a save that has begun come to its end; what it fails with is only told."""
        if self._saver is None:
            return
        try:
            self._saver.close()
        except Exception as error:
            log.warning(f"the last checkpoint was not saved: {error}")
