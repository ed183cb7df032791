"""A5: SIGTERM, and kill -9 of the model's process, under 32 streams, 20 times each."""

import asyncio
import os
import signal
import time
from typing import Any

from benchmarks.serving.clients import Exchange, Server, ask, exchange, post_bytes

STREAMS = 32
GRACE_SECONDS = 2.0
BACK_SECONDS = 5.0
STEADY_SECONDS = 11.0
"""Between two kills: more often would be a storm, which the server slows down."""


def run(*, full: bool) -> tuple[dict[str, Any], dict[str, bool]]:
    """Returns figures and promises."""
    times = 20 if full else 2
    stops = [_stop() for _ in range(times)]
    kills = _kills(times)
    ended = [one for stop in stops for one in stop["answers"]]
    lost = [one for kill in kills for one in kill["answers"]]
    figures = {
        "stops": times,
        "exit codes": sorted({stop["code"] for stop in stops}),
        "stopped within at most, s": round(max(stop["seconds"] for stop in stops), 2),
        "streams finished / ended by an error event": [
            sum(b"[DONE]" in one.data for one in ended),
            sum(b'data: {"error"' in one.data for one in ended),
        ],
        "streams without an end": sum(not one.is_ended_well for one in ended),
        "kills of the model's process": times,
        "back after at most, s": round(max(kill["back"] for kill in kills), 2),
        "streams cut by an error event": sum(b'data: {"error"' in one.data for one in lost),
        "answered 503": sum(one.status == 503 for one in lost),
        "streams without an end after a kill": sum(
            not one.is_ended_well and one.status != 503 for one in lost
        ),
        "clients told within at most, s": round(max(one.seconds for one in lost), 2),
    }
    promises = {
        "every stream finishes or gets an error event": figures["streams without an end"] == 0,
        "exit code 0": figures["exit codes"] == [0],
        f"stopped within grace ({GRACE_SECONDS:g} s) and 3 s": figures["stopped within at most, s"]
        <= GRACE_SECONDS + 3,
        "after a kill nobody hangs": figures["streams without an end after a kill"] == 0,
        f"the process is back within {BACK_SECONDS:g} s": figures["back after at most, s"]
        <= BACK_SECONDS,
    }
    return figures, promises


def _stop() -> dict[str, Any]:
    """Stops a server under 32 streams, some of which have time to finish."""
    with Server(f"grace_seconds={GRACE_SECONDS}", step=0.02, streams=STREAMS) as server:

        async def under_load() -> tuple[list[Exchange], float]:
            load = _load(server, lengths=(60, 1000))
            await _running(server, STREAMS)
            server.stop(signal.SIGTERM)
            began = time.monotonic()
            found = await asyncio.gather(*load)
            await asyncio.to_thread(server.ended)
            return found, time.monotonic() - began

        found, seconds = asyncio.run(under_load())
        return {"answers": found, "seconds": seconds, "code": server.ended()}


def _kills(times: int) -> list[dict[str, Any]]:
    """Kills the model's process of one server again and again."""
    with Server(step=0.02, streams=STREAMS) as server:

        async def one_kill() -> dict[str, Any]:
            load = _load(server, lengths=(1000,))
            await _running(server, STREAMS)
            os.kill(server.worker_pid(), signal.SIGKILL)
            began = time.monotonic()
            found = await asyncio.gather(*load)
            while (await asyncio.to_thread(server.get, "/ready"))[0] != 200:
                await asyncio.sleep(0.02)
            back = time.monotonic() - began
            for one in found:
                one.seconds = min(one.seconds, back)
            return {"answers": found, "back": back}

        kills = []
        for _ in range(times):
            kills.append(asyncio.run(one_kill()))
            time.sleep(STEADY_SECONDS)
        return kills


def _load(server: Server, lengths: tuple[int, ...]) -> list[asyncio.Task[Exchange]]:
    return [
        asyncio.create_task(
            exchange(
                server.port,
                post_bytes(
                    ask("慢", stream=True, max_tokens=lengths[index % len(lengths)]),
                    "Connection: close",
                ),
            )
        )
        for index in range(STREAMS)
    ]


async def _running(server: Server, count: int) -> None:
    async with asyncio.timeout(30):
        while await asyncio.to_thread(server.metric, "running") < count:
            await asyncio.sleep(0.02)
