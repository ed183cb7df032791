"""A server that says what a test tells it to, for the chat page.

In: a `Script`. Out: `serving`, an address where the page and the API are; what the page sent is in
`Script.requests`. It speaks the shapes of the HTTP API, and holds no model.
"""

import asyncio
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from chatlm.server.page import load_page

DEFAULT_ANSWER = "你好，我是一个小模型。"


@dataclass
class Script:
    """What the server does next; a test changes it at any time.

    Attributes:
        answers: said in turn, piece by piece; then `DEFAULT_ANSWER`.
        errors: (status, headers) of the next requests for an answer, before any is answered.
        break_after: pieces after which an `error` event ends the stream.
        hold_after: pieces after which the stream waits until this is None again.
        requests: the bodies that came.
    """

    answers: list[str] = field(default_factory=list)
    errors: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    break_after: int | None = None
    hold_after: int | None = None
    delay_seconds: float = 0.0
    finish_reason: str = "stop"
    key: str = ""
    history_turns: int = 0
    model: str = "tiny"
    requests: list[dict[str, Any]] = field(default_factory=list)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    body = {"error": {"message": message, "type": "scripted", "param": None, "code": None}}
    return JSONResponse(body, status, headers)


def _event(content: Any) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _chunk(script: Script, delta: dict[str, str], finish: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1}
    return _event(head | {"model": script.model, "choices": [choice]})


async def _stream(script: Script, answer: str) -> AsyncIterator[str]:
    pieces = re.findall(r".{1,2}", answer, re.DOTALL)
    yield _chunk(script, {"role": "assistant", "content": ""})
    for index, piece in enumerate(pieces):
        if index == script.break_after:
            yield _event({"error": {"message": "engine died", "type": "server_error"}})
            return
        while script.hold_after is not None and index >= script.hold_after:
            await asyncio.sleep(0.01)
        await asyncio.sleep(script.delay_seconds)
        yield _chunk(script, {"content": piece})
    yield _chunk(script, {}, script.finish_reason)
    usage = {"prompt_tokens": 3, "completion_tokens": len(pieces), "total_tokens": 3 + len(pieces)}
    yield _event({"choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def make_app(script: Script) -> FastAPI:
    """Returns the application; the script may change while it runs."""
    app = FastAPI()
    page = load_page()

    def refused(request: Request) -> bool:
        return bool(script.key) and request.headers.get("authorization") != f"Bearer {script.key}"

    @app.get("/")
    def index() -> Response:
        return Response(page.content, media_type="text/html", headers=page.headers)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    def models(request: Request) -> Response:
        if refused(request):
            return _error(401, "wrong or missing key")
        entry = {"id": script.model, "object": "model", "created": 1, "owned_by": "chatlm"}
        entry["history_turns"] = script.history_turns
        return JSONResponse({"object": "list", "data": [entry]})

    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        if refused(request):
            return _error(401, "wrong or missing key")
        script.requests.append(await request.json())
        if script.errors:
            status, headers = script.errors.pop(0)
            return _error(status, f"scripted {status}", headers)
        answer = script.answers.pop(0) if script.answers else DEFAULT_ANSWER
        return StreamingResponse(_stream(script, answer), media_type="text/event-stream")

    return app


@contextmanager
def serving(script: Script) -> Iterator[str]:
    """Yields the address of a running server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(make_app(script), log_level="warning", lifespan="off")
        config.timeout_graceful_shutdown = 1
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join(10)
