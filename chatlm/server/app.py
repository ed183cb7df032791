"""The routes: what each request means and how its answer looks.

In: a `Service`. Out: an ASGI application. Limits and keys are `limits`', waiting and text are
`answers`', shapes are `openai_api`'s.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import orjson
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chatlm import __version__
from chatlm.chat.prompt import Prompt
from chatlm.generation_config import GenerationConfig
from chatlm.server import metrics, openai_api, schema
from chatlm.server.answers import Answer, Record, Service
from chatlm.server.config import MODEL_ID
from chatlm.server.conversation import prompt_of, settings_of
from chatlm.server.errors import ApiError, documented
from chatlm.server.limits import RECORD
from chatlm.server.openai_api import ChatMessage, ChatRequest, OriginalRequest, checked
from chatlm.server.page import load_page
from chatlm.server.strict_json import parse

MAX_QUICK_CHARS = 4000
_SALT = secrets.token_bytes(16)
"""Of the hashes in the log, so that nobody can look for a text in it later."""
_ANSWERING = (400, 401, 415, 429, 504)


class JsonResponse(Response):
    """A body that is encoded by orjson."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Returns the bytes of the body."""
        return orjson.dumps(content)


class EventStream(Response):
    """Server-sent events as they come; the answer is closed however the sending ends."""

    def __init__(self, events: AsyncGenerator[bytes], close: Callable[[], None]) -> None:
        super().__init__(media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Is the ASGI interface."""
        del scope, receive  # the answer itself watches for the end of its client
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(start)
            async with aclosing(self._events) as events:
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._close()


def make_app(service: Service, *, has_key: bool) -> FastAPI:
    """Returns the application.

    Args:
        service: the model and its answers.
        has_key: whether clients must send a key; the generated documentation is then not served.
    """
    app = FastAPI(
        title="ChatLM",
        version=__version__,
        openapi_url=None if has_key else "/openapi.json",
        docs_url=None if has_key else "/docs",
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(HTTPException, _told)
    _add_probes(app, service)
    _add_models(app, service)
    _add_chat(app, service)
    app.openapi = lambda: schema.openapi(app, has_key=has_key)
    return app


async def _told(_: Request, error: Exception) -> Response:
    """Answers with an error in OpenAI's shape, the router's own errors too."""
    if isinstance(error, ApiError):
        return error.response()
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "http_error")
    return ApiError(error.status_code, f"{error.detail}.", code, headers=error.headers).response()


def _add_probes(app: FastAPI, service: Service) -> None:
    page = load_page()

    @app.get("/", include_in_schema=False)
    async def get_page() -> Response:
        return Response(page.content, media_type="text/html", headers=page.headers)

    @app.get("/health", response_model=openai_api.Health, responses=documented())
    async def health() -> Response:
        """Tells that the server is alive, whatever the model does."""
        return JsonResponse({"status": "ok"})

    @app.get("/ready", response_model=openai_api.Health, responses=documented())
    async def ready() -> Response:
        """Tells whether a request would be answered now."""
        if (error := service.not_ready()) is not None:
            raise error
        if service.worker.state != "ready":
            raise ApiError(503, "The model's process is started again.", "restarting")
        return JsonResponse({"status": "ready"})

    @app.get(
        "/metrics",
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
            **documented(401),
        },
        response_class=Response,
    )
    async def get_metrics() -> Response:
        """Returns the counts, as Prometheus reads them."""
        return Response(service.metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", response_model=openai_api.ModelList, responses=documented(401))
    async def list_models() -> Response:
        """Returns the models, of which there is one."""
        return JsonResponse({"object": "list", "data": [_entry(service)]})

    @app.get(
        "/v1/models/{model}",
        response_model=openai_api.ModelEntry,
        responses=documented(401, 404),
    )
    async def get_model(model: str) -> Response:
        """Returns one model."""
        _require_model(service, model)
        return JsonResponse(_entry(service))


def _entry(service: Service) -> dict[str, Any]:
    model = service.model
    default = GenerationConfig()
    return openai_api.ModelEntry(
        id=model.id,
        created=model.created,
        engine=service.worker.kind,
        history_turns=model.limits.history_turns,
        max_source_tokens=model.limits.max_source_tokens,
        max_new_tokens=model.max_new_tokens,
        defaults=openai_api.Defaults(
            temperature=default.temperature,
            top_p=default.top_p,
            top_k=default.top_k,
            num_beams=default.num_beams,
            repetition_penalty=default.repetition_penalty,
            no_repeat_ngram_size=default.no_repeat_ngram_size,
            max_tokens=model.max_new_tokens,
        ),
    ).model_dump()


def _require_model(service: Service, name: str | None) -> None:
    if name is None or name == service.model.id:
        return
    shown = f" '{name}'" if MODEL_ID.fullmatch(name) else ""
    raise ApiError(
        404,
        f"There is no model{shown}; this server has '{service.model.id}'.",
        "model_not_found",
        param="model",
    )


def _add_chat(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/chat/completions",
        response_model=openai_api.ChatCompletion,
        responses={200: schema.STREAM, **documented(404, *_ANSWERING)},
        openapi_extra=schema.body_of(ChatRequest),
    )
    async def chat_completions(request: Request) -> Response:
        """Answers the last message, whole or, with stream=true, as server-sent events."""
        asked = checked(ChatRequest, await _json(request))
        _require_model(service, asked.model)
        model = service.model
        service.admit()  # before the work of a prompt, so that a refusal costs nothing
        prompt = await _prompt(service, asked.messages)
        config, stop = settings_of(asked, model.limits, model.max_new_tokens)
        record: Record = request.scope[RECORD]
        record.is_stream = bool(asked.stream)
        _describe(record, "\n".join(message.text() for message in asked.messages))
        answer = await _begin(service, request, prompt, config, stop)
        head = _Head(service.model.id)
        if asked.stream:
            return EventStream(_events(answer, head, with_usage=asked.wants_usage), answer.close)
        text = await _whole(answer)
        return JsonResponse(head.completion(answer, text))

    @app.post(
        "/api/chat",
        response_model=openai_api.OriginalResponse,
        responses=documented(406, *_ANSWERING),
        openapi_extra=schema.body_of(OriginalRequest),
    )
    async def original_chat(request: Request) -> Response:
        """Answers one text, in the form of the original Chat-LM-small."""
        asked = checked(OriginalRequest, await _json(request))
        if not asked.input_txt.strip():
            raise ApiError(406, "input_txt is empty.", "empty_question", param="input_txt")
        service.admit()
        prompt = await _prompt(service, [ChatMessage(role="user", content=asked.input_txt)])
        config = GenerationConfig(max_new_tokens=service.model.max_new_tokens)
        _describe(request.scope[RECORD], asked.input_txt)
        answer = await _begin(service, request, prompt, config, [])
        return JsonResponse({"response": await _whole(answer)})


async def _json(request: Request) -> dict[str, Any]:
    """Returns the object in a body.

    A page of another site can make a browser send any body, but not with this type unless the
    server allows that site, and it allows none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "Content-Type must be application/json.", "unsupported_media_type")
    return parse(await request.body())


async def _prompt(service: Service, messages: list[ChatMessage]) -> Prompt:
    """Returns the prompt; long texts, whose tokens take a while to find, do not hold others up."""
    model = service.model
    if sum(len(message.text()) for message in messages) <= MAX_QUICK_CHARS:
        return prompt_of(messages, model.tokenizer, model.limits)
    return await asyncio.to_thread(prompt_of, messages, model.tokenizer, model.limits)


def _describe(record: Record, text: str) -> None:
    record.prompt_chars = len(text)
    digest = hashlib.blake2b(text.encode(), digest_size=4, key=_SALT)
    record.prompt_hash = digest.hexdigest()


async def _begin(
    service: Service, request: Request, prompt: Prompt, config: GenerationConfig, stop: list[str]
) -> Answer:
    """Returns an answer that the model has taken."""
    answer = Answer(service, prompt, config, stop, request.scope[RECORD])
    try:
        answer.watch(request.receive)
        await answer.begin()
    except BaseException:
        answer.close()
        raise
    return answer


async def _whole(answer: Answer) -> str:
    try:
        return "".join([piece async for piece in answer.pieces()])
    finally:
        answer.close()


class _Head:
    """What all bodies of one answer share."""

    def __init__(self, model: str) -> None:
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._model = model

    def completion(self, answer: Answer, text: str) -> dict[str, Any]:
        """Returns the body of a whole answer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": _finish(answer),
        }
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._model,
            "choices": [choice],
            "usage": _usage(answer),
        }

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any]) -> bytes:
        """Returns one event of a stream."""
        body = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "choices": choices,
            **usage,
        }
        return _event(body)


async def _events(answer: Answer, head: _Head, *, with_usage: bool) -> AsyncGenerator[bytes]:
    """Yields the stream of an answer; an error is its last event."""
    no_usage = {"usage": None} if with_usage else {}
    yield head.chunk([_choice({"role": "assistant", "content": ""})], no_usage)
    try:
        async with aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                yield head.chunk([_choice({"content": piece})], no_usage) if piece else b": \n\n"
    except ApiError as error:
        yield _event(error.body())
        return
    yield head.chunk([_choice({}, _finish(answer))], no_usage)
    if with_usage:
        yield head.chunk([], {"usage": _usage(answer)})
    yield b"data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _choice(delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _finish(answer: Answer) -> str:
    return "length" if answer.reason == "length" else "stop"


def _usage(answer: Answer) -> dict[str, int]:
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
