"""CTranslate2 as an engine: who waits together starts together.

In: requests. Out: events, as `chatlm.inference.engine` says. CTranslate2 makes the answers of a
batch in step, and takes in no other before all have ended. So requests that wait and that want
their tokens chosen alike start together, as a cohort, as soon as a worker is free; several cohorts
run beside each other. It imports no torch.

Where answers differ from those of the torch engine: beam search (CTranslate2 divides a score by the
length without EOS, compares log-probabilities after the tokens that are not allowed are taken out,
and applies the repetition penalty before them), the numbers that a seed gives, and near-ties, which
int8 decides anew.
"""

import atexit
import queue
import sys
import threading
import time
from collections import deque
from typing import Any

from chatlm.errors import ChatLMError, EngineError, brief
from chatlm.generation_config import GenerationConfig
from chatlm.inference.ct2_files import Exported
from chatlm.inference.ct2_model import Ct2Model, Key
from chatlm.inference.engine import (
    Event,
    Failed,
    Finished,
    Limits,
    OnEvent,
    Reason,
    Request,
    Tokens,
)
from chatlm.tokenizer import Tokenizer

MAX_COHORTS = 2
"""More of them wait less for each other and share less: with 4, the same requests take a third
longer. With 1, a short answer waits for a long one, and half of the cores for nothing."""
MAX_ROWS = 16
GATHER_SECONDS = 0.001
"""An idle engine waits so long for a second request before it starts the first, and as long again
for each further one: those who ask at the same time are answered in one batch, at the price of a
millisecond for who asks alone."""
MOST_GATHER_SECONDS = 0.02


class _Job:
    """One answer: what it wants, and how far it is. Its last event is told exactly once."""

    def __init__(self, engine: "Ct2Engine", request: Request, on_event: OnEvent) -> None:
        self.request = request
        self.key = Key.of(request.config)
        self.is_cancelled = False
        self.is_over = False
        self._engine = engine
        self._on_event = on_event
        self._telling = threading.Lock()
        self._count = 0

    def cancel(self) -> None:
        """Takes the request back; a running answer sees it at its next token."""
        if not self.is_cancelled:
            self.is_cancelled = True
            self._engine.forget(self)

    def take(self, token: int, eos: int) -> bool:
        """Tells a token; returns whether the answer ends with it."""
        if self.is_cancelled:
            self.end("cancelled")
        elif token == eos:
            self.end("stop")
        else:
            self._count += 1
            self._tell(Tokens((token,)))
            if self._count >= self.request.config.max_new_tokens:
                self.end("length")
        return self.is_over

    def take_all(self, ids: list[int]) -> None:
        """Tells a whole answer."""
        if self.is_cancelled:
            self.end("cancelled")
            return
        if ids:
            self._tell(Tokens(tuple(ids)))
        self.end("stop" if len(ids) < self.request.config.max_new_tokens else "length")

    def end(self, reason: Reason) -> None:
        """Tells that it is over, unless that was told before."""
        self._tell(Finished(reason))

    def fail(self, message: str) -> None:
        """Tells that it could not be made, unless it is over."""
        self._tell(Failed(message))

    def _tell(self, event: Event) -> None:
        with self._telling:
            if self.is_over:
                return
            self.is_over = not isinstance(event, Tokens)
            try:
                self._on_event(event)
            except Exception:
                # The listener's defect, which must not end the answers beside this one.
                self.is_over = True
                _show_defect()


def _show_defect() -> None:
    """Tells of an exception that nobody expected, with its traceback; the engine goes on."""
    threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), None)))


class Ct2Engine:
    """An exported model; see `Engine` for what it does. `close` it, or the process keeps it."""

    def __init__(
        self,
        model: Ct2Model,
        tokenizer: Tokenizer,
        *,
        name: str,
        limits: Limits,
        max_cohorts: int = MAX_COHORTS,
        max_rows: int = MAX_ROWS,
    ) -> None:
        """Takes over an opened model.

        Args:
            model: with at least `max_cohorts` workers.
            tokenizer: the model's.
            name: what to call it.
            limits: the model's.
            max_cohorts: batches that run at the same time.
            max_rows: answers of a batch.
        """
        self.tokenizer = tokenizer
        self.name = name
        self.limits = limits
        self.kind = model.kind
        self.max_streams = max_cohorts * max_rows
        self._model = model
        self._max_rows = max_rows
        self._waiting: deque[_Job] = deque()
        self._running: set[_Job] = set()
        self._changed = threading.Condition()
        self._is_gathering = False
        self._is_closed = False
        # Told here, and not by who cancels: events come on threads of the engine.
        self._cancelled: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._tell_cancelled, daemon=True)]
        self._threads += [
            threading.Thread(target=self._work, daemon=True) for _ in range(max_cohorts)
        ]
        for thread in self._threads:
            thread.start()
        # A worker that calls into an interpreter that is being torn down ends the process badly.
        atexit.register(self.close)

    def check(self, config: GenerationConfig) -> None:
        """Refuses nothing: CTranslate2 does all that a `GenerationConfig` can say."""

    def start(self, request: Request, on_event: OnEvent) -> _Job:
        """Begins an answer, with the others that wait, or when a worker is free.

        Raises:
            EngineError: the engine is closed.
        """
        job = _Job(self, request, on_event)
        with self._changed:
            if self._is_closed:
                raise EngineError("the engine is closed: it answers no more")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def close(self) -> None:
        """Ends all answers as cancelled and lets the model go; a beam search is waited for."""
        atexit.unregister(self.close)
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            left = [*self._waiting, *self._running]
            self._changed.notify_all()
        for job in left:
            job.cancel()
        self._cancelled.put(None)
        for thread in self._threads:
            thread.join()
        self._model.close()

    def forget(self, job: _Job) -> None:
        """Sees to it that a cancelled job that nobody would look at hears of it."""
        with self._changed:
            is_waiting = job in self._waiting
            if is_waiting:
                self._waiting.remove(job)
        if is_waiting or job.key.num_beams > 1:
            self._cancelled.put(job)

    def _tell_cancelled(self) -> None:
        while (job := self._cancelled.get()) is not None:
            job.end("cancelled")

    def _work(self) -> None:
        """Makes cohort after cohort."""
        while cohort := self._next():
            try:
                self._answer(cohort)
            except Exception as error:
                if not isinstance(error, (ChatLMError, RuntimeError, ValueError)):
                    _show_defect()
                for job in cohort:
                    job.fail(str(error) if isinstance(error, ChatLMError) else brief(error))
            with self._changed:
                self._running.difference_update(cohort)
            if cohort[0].key.seed is not None and not self._is_closed:
                self._model.prepare_seeded()

    def _next(self) -> list[_Job]:
        """Waits for requests; returns those to be started together, none when all is over.

        The one that has waited longest is among them.
        """
        with self._changed:
            while not self._waiting or self._is_gathering:
                if self._is_closed:
                    return []
                self._changed.wait()
                if self._waiting and not self._is_gathering and self._is_idle():
                    self._gather()
            if self._is_closed:
                return []
            key = self._waiting[0].key
            most = 1 if key.is_alone else self._max_rows
            cohort = [job for job in self._waiting if job.key == key][:most]
            for job in cohort:
                self._waiting.remove(job)
            self._running.update(cohort)
            return cohort

    def _is_idle(self) -> bool:
        return all(job.is_over for job in self._running)

    def _gather(self) -> None:
        """Lets those who ask at the same time come in; holds the lock, except while it waits."""
        self._is_gathering = True
        end = time.monotonic() + MOST_GATHER_SECONDS
        count = 0
        while count < len(self._waiting) < self._max_rows and time.monotonic() < end:
            count = len(self._waiting)
            self._changed.wait(GATHER_SECONDS)
        self._is_gathering = False
        self._changed.notify_all()

    def _answer(self, cohort: list[_Job]) -> None:
        eos = self.tokenizer.eos_id

        def heard(step: Any) -> bool:
            return cohort[step.batch_id].take(step.token_id, eos)

        longest = max(job.request.config.max_new_tokens for job in cohort)
        sources = [job.request.source_ids for job in cohort]
        whole = self._model.answer(sources, cohort[0].key, longest, heard)
        for job, ids in zip(cohort, whole, strict=False):
            job.take_all(ids)


def open_ct2_engine(
    exported: Exported, limits: Limits, tokenizer: Tokenizer, device: str = "auto", threads: int = 0
) -> Ct2Engine:
    """Returns the engine of a folder that `utils.export_model` wrote.

    Args:
        exported: the folder, checked.
        limits: what its chat.json says.
        tokenizer: the one that lies in it.
        device: "auto", "cpu", "cuda" or "cuda:1".
        threads: that compute on a CPU, for each cohort; 0: half of the cores.

    Raises:
        CheckpointError: the model does not open.
        ConfigError: there is no such device.
    """
    model = Ct2Model(exported, device, MAX_COHORTS, threads)
    return Ct2Engine(model, tokenizer, name=str(exported.folder), limits=limits)
