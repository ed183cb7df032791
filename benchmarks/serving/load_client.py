"""A client that notes when everything happened: one streamed completion a connection.

In: a server's address and the body of a request. Out: an `Outcome`. It speaks HTTP/1.1 by hand, so
that hundreds of streams cost the machine little beside the server that is measured.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

DROPPED = 0  # the status of a connection that ended without an answer


@dataclass
class Outcome:
    """What became of one request; times in seconds, `start` on the clock of the loop.

    Attributes:
        status: of HTTP; `DROPPED` if no answer came.
        first: from the start to the first text; None if none came.
        total: from the start to the end.
        gaps: between one piece of text and the next.
        tokens: of the answer, as the server counted them.
        finish: the reason that the server gave; "error" if it told one, "" if the stream broke off.
    """

    start: float
    status: int = DROPPED
    first: float | None = None
    total: float = 0.0
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    finish: str = ""
    retry_after: str = ""


async def complete(
    address: tuple[str, int], body: dict[str, Any], timeout: float = 120.0
) -> Outcome:
    """Returns what became of a streamed chat completion; never raises for what the server does."""
    outcome = Outcome(time.perf_counter())
    try:
        async with asyncio.timeout(timeout):
            await _converse(address, body, outcome)
    except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError):
        pass  # the outcome says how far it came
    outcome.total = time.perf_counter() - outcome.start
    return outcome


async def get(address: tuple[str, int], path: str, timeout: float = 30.0) -> tuple[int, float]:
    """Returns the status of a GET and the seconds it took; `DROPPED` if no answer came."""
    start = time.perf_counter()
    status = DROPPED
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(*address)
            try:
                writer.write(_head(address, "GET", path, 0))
                status = (await _headers(reader))[0]
                await reader.read()
            finally:
                writer.close()
    except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError):
        pass
    return status, time.perf_counter() - start


def _head(address: tuple[str, int], method: str, path: str, length: int) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {address[0]}:{address[1]}", "Connection: close"]
    if length:
        lines += ["Content-Type: application/json", f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _headers(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:] if line)
    return int(lines[0].split()[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def _converse(address: tuple[str, int], body: dict[str, Any], outcome: Outcome) -> None:
    payload = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(_head(address, "POST", "/v1/chat/completions", len(payload)) + payload)
        outcome.status, headers = await _headers(reader)
        outcome.retry_after = headers.get("retry-after", "")
        if outcome.status != 200:
            await reader.read()
            return
        last = outcome.start
        async for event in _events(reader, headers):
            last = _note(event, outcome, last)
    finally:
        writer.close()


def _note(event: dict[str, Any], outcome: Outcome, last: float) -> float:
    """Adds one event to an outcome; returns the time of the latest piece of text."""
    if "error" in event:
        outcome.finish = "error"
    if event.get("usage"):
        outcome.tokens = event["usage"]["completion_tokens"]
    for choice in event.get("choices", ()):
        outcome.finish = choice.get("finish_reason") or outcome.finish
        if choice.get("delta", {}).get("content"):
            now = time.perf_counter()
            if outcome.first is None:
                outcome.first = now - outcome.start
            else:
                outcome.gaps.append(now - last)
            last = now
    return last


async def _events(
    reader: asyncio.StreamReader, headers: dict[str, str]
) -> AsyncIterator[dict[str, Any]]:
    """Yields the events of a stream until [DONE] or its end."""
    chunked = headers.get("transfer-encoding") == "chunked"
    rest = b""
    while block := await (_chunk(reader) if chunked else reader.read(65536)):
        *events, rest = (rest + block).split(b"\n\n")
        for event in events:
            data = b"".join(
                line.removeprefix(b"data:").strip()
                for line in event.split(b"\n")
                if line.startswith(b"data:")
            )
            if data == b"[DONE]":
                return
            if data:
                yield json.loads(data)


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readline(), 16)
    block = await reader.readexactly(size)
    await reader.readexactly(2)
    return block
