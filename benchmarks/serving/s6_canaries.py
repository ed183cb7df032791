"""S6: 1,000 marked prompts, none of which is in any output."""

import asyncio
import itertools
import tempfile
import uuid
from pathlib import Path
from typing import Any

from benchmarks.serving.clients import Server, ask, exchange, post_bytes


def run(*, full: bool) -> tuple[dict[str, Any], dict[str, bool]]:
    """Returns figures and promises."""
    count = 1_000 if full else 100
    canaries = [f"CANARY{uuid.uuid4().hex[:16]}" for _ in range(count)]
    with (
        tempfile.TemporaryDirectory() as folder,
        Server("max_queue=1000", step=0.001, streams=8, folder=Path(folder)) as server,
    ):
        statuses = asyncio.run(_send(server.port, canaries))
        metrics = server.get("/metrics")[2].decode()
        server.stop()
        code = server.ended()
        files = [path.read_text() for path in Path(folder).rglob("*") if path.is_file()]
        written = "\n".join([*server.lines, server.output.decode(), metrics, *files])
    found = [canary for canary in canaries if canary in written]
    figures = {
        "canaries": count,
        "statuses": statuses,
        "bytes of output searched": len(written.encode()),
        "found": len(found),
    }
    return figures, {"none is found": not found, "exit code 0": code == 0}


async def _send(port: int, canaries: list[str]) -> dict[str, int]:
    """Sends each canary in one of many ways; returns how often each status came."""
    ways = itertools.cycle(
        [
            lambda text: ask(text),
            lambda text: ask(text, stream=True),
            lambda text: ask(text + "长" * 50),
            lambda text: ask(text, temperature=text),
            lambda text: {text: text},
            lambda text: f'{{"messages": "{text}", NaN'.encode(),
            lambda text: ask(text, model=text),
            lambda text: ask("错", stop=text, user=text),
        ]
    )
    gate = asyncio.Semaphore(32)
    statuses: dict[str, int] = {}

    async def send(body: Any) -> None:
        async with gate:
            found = await exchange(port, post_bytes(body, "Connection: close"))
        key = str(found.status)
        statuses[key] = statuses.get(key, 0) + 1

    await asyncio.gather(*(send(next(ways)(canary)) for canary in canaries))
    return dict(sorted(statuses.items()))
