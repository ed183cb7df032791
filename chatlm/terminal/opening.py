"""A model that is being opened while its user already types.

In: what opens an engine. Out: an engine that knows at once what the folder's small files say; the
rest waits until the model is there.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from chatlm.errors import ChatLMError
from chatlm.generation_config import GenerationConfig
from chatlm.inference.engine import Codec, Engine, Limits, OnEvent, Request, Ticket


class OpeningEngine:
    """The engine that `open_it` returns, from before it is there.

    What that raises is raised wherever the model is needed.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        open_it: Callable[[], Engine],
        on_failure: Callable[[ChatLMError], None],
    ) -> None:
        self.name = name
        self.limits = limits
        self._opened: Future[Engine] = Future()
        self._on_failure = on_failure
        threading.Thread(target=self._open, args=(open_it,), daemon=True).start()

    def _open(self, open_it: Callable[[], Engine]) -> None:
        try:
            engine = open_it()
        except BaseException as error:  # whoever needs the model gets it
            self._opened.set_exception(error)
            if isinstance(error, ChatLMError):
                self._on_failure(error)
        else:
            self._opened.set_result(engine)

    @property
    def is_opening(self) -> bool:
        """Whether the model is not there yet."""
        return not self._opened.done()

    def wait(self, seconds: float | None = None) -> bool:
        """Waits for the model; returns whether it is there.

        Raises:
            ChatLMError: it cannot be opened.
        """
        try:
            self._opened.result(seconds)
        except TimeoutError:
            if self.is_opening:
                return False
            raise
        return True

    @property
    def kind(self) -> str:
        """What computes."""
        return self._opened.result().kind

    @property
    def tokenizer(self) -> Codec:
        """The model's."""
        return self._opened.result().tokenizer

    @property
    def max_streams(self) -> int:
        """Answers at the same time."""
        return self._opened.result().max_streams

    def check(self, config: GenerationConfig) -> None:
        """Refuses what the engine cannot do; before the model is there, `start` does."""
        if not self.is_opening:
            self._opened.result().check(config)

    def start(self, request: Request, on_event: OnEvent) -> Ticket:
        """Begins an answer."""
        engine = self._opened.result()
        engine.check(request.config)
        return engine.start(request, on_event)

    def close(self) -> None:
        """Lets the model go, if it is there."""
        if not self.is_opening and self._opened.exception() is None:
            self._opened.result().close()
