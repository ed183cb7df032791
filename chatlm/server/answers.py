"""The answers that a server is making: admitted or turned away, timed, counted, and ended.

In: prompts. Out: pieces of text, or an `ApiError`. The model's process gives ids; the text is made
here. An answer ends by itself, by a stop string, when its client is gone, at its deadline, or when
the server stops. It knows neither HTTP's bytes nor OpenAI's shapes.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from starlette.types import Receive

from chatlm import log
from chatlm.chat.answer import AnswerText
from chatlm.chat.prompt import Prompt
from chatlm.generation_config import GenerationConfig
from chatlm.inference.engine import Codec, Failed, Finished, Limits, Request, Tokens
from chatlm.inference.process import EngineProcess
from chatlm.inference.wire import Accepted, Lost, ProcessEvent, Refused
from chatlm.sanitize import Sanitizer
from chatlm.server.config import ServeConfig
from chatlm.server.errors import CLIENT_GONE, ApiError, retry_after, unavailable
from chatlm.server.metrics import Metrics

BEAT_SECONDS = 15.0
"""A stream says at least so often that it is alive, lest a proxy ends it."""
_MEMORY = 0.1  # weight of the latest answer in the mean time of one


@dataclass(frozen=True)
class ServedModel:
    """What the server itself knows of its model.

    Attributes:
        created: when, in seconds since 1970.
        max_new_tokens: of one answer.
    """

    id: str
    created: int
    tokenizer: Codec
    limits: Limits
    max_new_tokens: int


@dataclass
class Record:
    """What the log may say of a request: lengths and times, and a hash that no text follows from.

    Attributes:
        began: when it came, by `time.monotonic`.
        end: why its answer ended.
    """

    began: float = field(default_factory=time.monotonic)
    prompt_chars: int = 0
    prompt_tokens: int = 0
    prompt_hash: str = ""
    answer_tokens: int = 0
    first_token_seconds: float = 0.0
    is_stream: bool = False
    end: str = ""


class Service:
    """The model, its process and what is being answered; belongs to the event loop's thread.

    Attributes:
        is_draining: nothing new is taken.
        open: answers that have not ended.
    """

    def __init__(self, model: ServedModel, worker: EngineProcess, config: ServeConfig) -> None:
        self.model = model
        self.worker = worker
        self.config = config
        self.metrics = Metrics()
        self.is_draining = False
        self.open: set[Answer] = set()
        self._mean_seconds = 1.0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        watch = self.metrics.watch
        watch("ready", "1 if the model answers.", lambda: float(self.is_ready))
        watch("queue_length", "Requests that wait.", lambda: worker.num_waiting)
        watch("running", "Answers that are being made.", lambda: worker.num_running)
        watch("max_streams", "Answers at the same time.", lambda: worker.max_streams)
        watch("worker_restarts", "Processes after the first.", lambda: worker.restarts)

    @property
    def is_ready(self) -> bool:
        """Whether a request would be answered."""
        return self.worker.state == "ready" and not self.is_draining

    def not_ready(self) -> ApiError | None:
        """Returns why nothing can be answered now, None if it can."""
        if self.is_draining or self.worker.state == "closed":
            return unavailable("The server shuts down.", "shutting_down", 5)
        if self.worker.state == "loading":
            return unavailable("The model is being loaded.", "model_loading", 2)
        if self.worker.state == "failing":
            return unavailable("The model's process fails and is started again.", "restarting", 10)
        return None

    def admit(self) -> None:
        """Checks that there is room for one more request.

        Raises:
            ApiError: there is none: the model is not there, or the queue is full.
        """
        if (error := self.not_ready()) is not None:
            self.metrics.rejected.labels(error.code).inc()
            raise error
        if not self.worker.has_room and self.worker.num_waiting >= self.config.max_queue:
            self.metrics.rejected.labels("queue_full").inc()
            ahead = self.worker.num_waiting + 1
            seconds = self._mean_seconds * ahead / max(1, self.worker.max_streams)
            raise ApiError(
                429,
                f"{self.worker.num_waiting} requests wait already; try again later.",
                "queue_full",
                headers={"Retry-After": retry_after(seconds)},
            )

    def ended(self, answer: "Answer", seconds: float) -> None:
        """Takes note of the end of an answer."""
        self._mean_seconds += _MEMORY * (seconds - self._mean_seconds)
        self.open.discard(answer)
        if not self.open:
            self._is_idle.set()

    def began(self, answer: "Answer") -> None:
        """Takes note of an answer."""
        self.open.add(answer)
        self._is_idle.clear()

    async def idle(self, seconds: float) -> bool:
        """Waits until nothing is being answered; returns whether that came in time."""
        try:
            await asyncio.wait_for(self._is_idle.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def interrupt(self) -> None:
        """Ends what is being answered with an error."""
        for answer in list(self.open):
            answer.interrupt(unavailable("The server shuts down.", "shutting_down", 5))


class Answer:
    """One answer. `begin`, then `pieces`, and `close` in any case.

    Attributes:
        reason: why it ended, once `pieces` has.
        prompt_tokens, completion_tokens: so far.
    """

    def __init__(
        self,
        service: Service,
        prompt: Prompt,
        config: GenerationConfig,
        stop: Sequence[str],
        record: Record,
    ) -> None:
        """Asks the model.

        Raises:
            ApiError: there is no room.
        """
        service.admit()
        self.reason: Literal["stop", "length", "cancelled"] = "cancelled"
        self.prompt_tokens = record.prompt_tokens = len(prompt.ids)
        self._service = service
        self._record = record
        self._text = AnswerText(service.model.tokenizer, stop)
        self._sanitizer = Sanitizer()
        self._said_at = 0.0
        self._tokens_when_gone: int | None = None
        self._is_open = True
        self._watching: asyncio.Task[None] | None = None
        self._events: asyncio.Queue[ProcessEvent | ApiError | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        left = record.began + service.config.deadline_seconds - time.monotonic()
        self._deadline = loop.call_later(max(0.0, left), self._expire)
        self._beat = loop.call_later(BEAT_SECONDS, self._on_beat)
        service.began(self)
        request = Request(prompt.ids, config)
        self._ticket = service.worker.start(request, self._events.put_nowait)

    @property
    def completion_tokens(self) -> int:
        """Tokens said so far, EOS not counted."""
        return self._text.num_tokens

    def watch(self, receive: Receive) -> None:
        """Cancels the answer when its client is gone."""
        self._watching = asyncio.create_task(self._cancel_when_gone(receive))

    def interrupt(self, error: ApiError) -> None:
        """Ends the answer with an error."""
        self._events.put_nowait(error)  # first: a cancelled one may end at once
        self._ticket.cancel()

    async def begin(self) -> None:
        """Waits until the model has taken the request.

        Raises:
            ApiError: it will not.
        """
        while (event := await self._next()) is None:
            pass
        if isinstance(event, Finished):
            raise ApiError(CLIENT_GONE, "The client is gone.", "client_gone")
        assert isinstance(event, Accepted)

    async def pieces(self) -> AsyncGenerator[str]:
        """Yields the text as it comes; an empty piece is a sign of life.

        Raises:
            ApiError: the answer cannot be finished.
        """
        while True:
            event = await self._next()
            if event is None:
                yield ""
            elif isinstance(event, Tokens):
                self._time()
                if piece := self._sanitizer.push(self._text.push(event.ids)):
                    yield piece
                if self._text.is_stopped:
                    self.reason = "stop"
                    return
            elif isinstance(event, Finished):
                if piece := self._sanitizer.push(self._text.finish()):
                    yield piece
                self.reason = event.reason
                if self._text.is_stopped:
                    self.reason = "stop"
                return

    def close(self) -> None:
        """Lets everything go that belongs to the answer."""
        if not self._is_open:
            return
        self._is_open = False
        self._ticket.cancel()
        self._deadline.cancel()
        self._beat.cancel()
        if self._watching is not None:
            self._watching.cancel()
        seconds = time.monotonic() - self._record.began
        self._record.answer_tokens = self.completion_tokens
        self._record.end = self._record.end or self.reason
        metrics = self._service.metrics
        metrics.answers.labels(self._record.end).inc()
        metrics.prompt_tokens.inc(self.prompt_tokens)
        metrics.answer_tokens.inc(self.completion_tokens)
        metrics.total.observe(seconds)
        if self._tokens_when_gone is not None:
            metrics.late_tokens.observe(self.completion_tokens - self._tokens_when_gone)
        self._service.ended(self, seconds)

    async def _next(self) -> Tokens | Finished | Accepted | None:
        """Returns the next event that is no error."""
        event = await self._events.get()
        match event:
            case Failed(message):
                log.warning(f"the model failed while it answered: {message}")
                error = ApiError(500, "The model failed while it answered.", "engine_failed")
            case Refused(message):
                error = ApiError(400, f"{message}.", "not_supported")
            case Lost():
                error = unavailable(
                    "The model's process ended while it answered; it is started again.",
                    "model_lost",
                    5,
                )
            case ApiError():
                error = event
            case _:
                return event
        self._record.end = error.code
        raise error

    def _time(self) -> None:
        """Takes note of when something was said."""
        now = time.monotonic()
        if self._said_at:
            self._service.metrics.between_tokens.observe(now - self._said_at)
        else:
            self._record.first_token_seconds = now - self._record.began
            self._service.metrics.first_token.observe(self._record.first_token_seconds)
        self._said_at = now

    def _expire(self) -> None:
        seconds = self._service.config.deadline_seconds
        self.interrupt(
            ApiError(504, f"The answer was not finished within {seconds:g} s.", "deadline_exceeded")
        )

    def _on_beat(self) -> None:
        self._events.put_nowait(None)
        self._beat = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._on_beat)

    async def _cancel_when_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._tokens_when_gone = self.completion_tokens
        self._ticket.cancel()
