"""A3: 500 clients that send slowly or do not read, beside a normal load."""

import asyncio
import contextlib
from typing import Any

from benchmarks.serving.clients import Server, ask, connect, exchange, post_bytes, quantile, rss

PAGE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
NORMAL = post_bytes(ask("你好"), "Connection: close")
ARRIVALS_PER_SECOND = 100
MAX_SECONDS, MAX_RATIO, MAX_BYTES = 15.0, 1.2, 64 * 1024


def run(*, full: bool) -> tuple[dict[str, Any], dict[str, bool]]:
    """Returns figures and promises."""
    count = 500 if full else 60
    with Server(step=0.005, streams=8) as server:
        return asyncio.run(_run(server, count))


async def _run(server: Server, count: int) -> tuple[dict[str, Any], dict[str, bool]]:
    await _normal(server.port, 5)
    clean = await _normal(server.port, 20)
    before = rss(server.process.pid)
    slow = [asyncio.create_task(_slow(server.port, index)) for index in range(count)]
    load = asyncio.create_task(_normal(server.port, 20))
    peak = before
    while not all(one.done() for one in slow):
        peak = max(peak, rss(server.process.pid))
        await asyncio.sleep(0.25)
    beside = await load
    closed = [one.result() for one in slow]
    per_connection = (peak - before) / count
    figures = {
        "slow clients": count,
        "closed after at most, s": round(max(closed), 2),
        "normal requests clean / beside": [len(clean), len(beside)],
        "normal p50 clean / beside, s": [round(quantile(one, 0.5), 4) for one in (clean, beside)],
        "normal p99 clean / beside, s": [round(quantile(one, 0.99), 4) for one in (clean, beside)],
        "memory per connection, bytes": round(per_connection),
    }
    promises = {
        f"each closed within {MAX_SECONDS:g} s": max(closed) <= MAX_SECONDS,
        f"normal p99 at most {MAX_RATIO} x clean": quantile(beside, 0.99)
        <= MAX_RATIO * quantile(clean, 0.99),
        f"at most {MAX_BYTES} bytes a connection": per_connection <= MAX_BYTES,
    }
    return figures, promises


async def _normal(port: int, seconds: float) -> list[float]:
    """Returns the seconds of each answer to four clients who ask again and again."""
    end = asyncio.get_running_loop().time() + seconds
    times: list[float] = []

    async def client() -> None:
        while asyncio.get_running_loop().time() < end:
            found = await exchange(port, NORMAL)
            assert found.status == 200, found.data
            times.append(found.seconds)

    await asyncio.gather(*(client() for _ in range(4)))
    return times


async def _slow(port: int, index: int) -> float:
    """Returns the seconds until the server had enough of one slow client."""
    clock = asyncio.get_running_loop().time
    await asyncio.sleep(index / ARRIVALS_PER_SECOND)
    reader, writer = await connect(port, receive_buffer=4096)
    began = clock()
    head, _, body = NORMAL.partition(b"\r\n\r\n")
    try:
        if index % 3 == 0:
            await _drip(reader, writer, head)
        elif index % 3 == 1:
            writer.write(head + b"\r\n\r\n")
            await _drip(reader, writer, body)
        else:  # asks for the page again and again and reads nothing
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            while clock() - began < 60:
                writer.write(PAGE)
                await asyncio.sleep(0.5)
                await writer.drain()
    except (ConnectionError, EOFError):
        pass
    finally:
        writer.close()
    return clock() - began


async def _drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
    """Sends a byte a second until the server closes."""
    for index in range(len(data)):
        writer.write(data[index : index + 1])
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reader.read(-1), 1)
            raise EOFError
