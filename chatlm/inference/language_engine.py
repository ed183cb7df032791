"""A model of others as an engine: one answer after the other, each streamed.

In: requests, from any thread. Out: events, from the engine's thread. Requests wait for their turn;
one that is taken back while it waits is told so after the next token of the one before it at the
latest. How an answer is made is `language_answer`'s. Opens no folder: `chatlm.inference.open` does.
"""

import threading
from collections import deque

import torch

from chatlm.adapters.opened import Opened
from chatlm.errors import EngineError
from chatlm.generation_config import GenerationConfig
from chatlm.inference.engine import Limits, OnEvent, Request, Tokens
from chatlm.inference.language_answer import Speaker
from chatlm.inference.language_codec import codec_of
from chatlm.inference.torch_engine import DTYPES
from chatlm.inference.torch_streams import Answer


class LanguageEngine:
    """As `chatlm.inference.engine.Engine` says."""

    max_streams = 1

    def __init__(self, opened: Opened, *, name: str, limits: Limits) -> None:
        """Wraps an opened model, on its device.

        Args:
            opened: stays as it is.
            name: what to call it.
            limits: how much it reads and says.
        """
        self.name = name
        self.limits = limits
        self.tokenizer = codec_of(opened.form)
        weight = opened.model.inner.get_input_embeddings().weight  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        known = {dtype: short for short, dtype in DTYPES.items()}
        self.kind = f"transformers {known.get(weight.dtype, weight.dtype)} {weight.device}"
        self._speaker: Speaker | None = Speaker(opened)
        self._waiting: deque[Answer] = deque()
        self._cancelled: list[Answer] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def check(self, config: GenerationConfig) -> None:
        """Refuses nothing: all that a `GenerationConfig` can say is done."""

    def start(self, request: Request, on_event: OnEvent) -> Answer:
        """Begins an answer, or lets it wait for its turn.

        Raises:
            EngineError: the engine is closed.
        """
        answer = Answer(request, on_event, self._take_back)
        with self._changed:
            if self._is_closed:
                raise EngineError(f"{self.name} is closed: open it again")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="language", daemon=True)
                self._thread.start()
            self._waiting.append(answer)
            self._changed.notify()
        return answer

    def close(self) -> None:
        """Ends all answers as cancelled, waits for the thread and lets the model go."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join()
        self._speaker = None

    def _take_back(self, answer: Answer) -> None:
        with self._changed:
            self._cancelled.append(answer)
            self._changed.notify()

    def _run(self) -> None:
        speaker = self._speaker
        assert speaker is not None
        while (answer := self._next()) is not None:
            self._make(speaker, answer)
        for answer in self._waiting:
            answer.finish("cancelled")
        self._waiting.clear()

    def _next(self) -> Answer | None:
        """Waits for an answer to be made; None: the engine is closed."""
        while True:
            with self._changed:
                while not (self._waiting or self._cancelled or self._is_closed):
                    self._changed.wait()
            self._tell_cancelled()
            with self._changed:
                if self._is_closed:
                    return None
                if self._waiting:
                    return self._waiting.popleft()

    def _tell_cancelled(self) -> None:
        """Ends the answers that wait and were taken back."""
        with self._changed:
            cancelled, self._cancelled = self._cancelled, []
            waiting = [one for one in dict.fromkeys(cancelled) if one in self._waiting]
            for answer in waiting:
                self._waiting.remove(answer)
        for answer in waiting:
            answer.finish("cancelled")

    def _make(self, speaker: Speaker, answer: Answer) -> None:
        """Makes an answer to its end; what goes wrong is that answer's end."""

        def go_on(ids: tuple[int, ...]) -> bool:
            self._tell_cancelled()
            if self._is_closed or answer.is_cancelled or answer.has_ended:
                return False
            if ids:
                answer.tell(Tokens(ids))
            return True

        if answer.is_cancelled:
            answer.finish("cancelled")
            return
        try:
            reason = speaker.answer(answer.request, go_on)
        except Exception as error:
            answer.fail(error)
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
        else:
            answer.finish(reason)
