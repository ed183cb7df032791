"""A4: 1,000 clients that leave in the middle of a stream."""

import asyncio
import re
from pathlib import Path
from typing import Any

from benchmarks.serving.clients import Server, ask, connect, post_bytes, rss

TOGETHER = 30
"""Streams at a time; the length of its prompt tells which line of the log is which client's."""
STEP_SECONDS = 0.05
WARM_ROUNDS = 40
MAX_GROWTH = 0.01
_LINE = re.compile(r" of ([0-9]+) chars .* answer ([0-9]+) tokens")


def run(*, full: bool) -> tuple[dict[str, Any], dict[str, bool]]:
    """Returns figures and promises."""
    rounds = 34 if full else 4
    with Server(step=STEP_SECONDS, streams=TOGETHER) as server:
        asyncio.run(_rounds(server, WARM_ROUNDS if full else 4))
        before = _state(server)
        extra = asyncio.run(_rounds(server, rounds))
        after = _state(server)
        late = _late_tokens(server)
    growth = after["rss"] / before["rss"] - 1
    figures = {
        "disconnects": len(extra),
        "tokens made after the last one read": {str(n): extra.count(n) for n in sorted(set(extra))},
        "tokens made after the server noticed, at most": late,
        "before": before,
        "after": after,
        "growth of memory": round(growth, 4),
    }
    promises = {
        "place freed within one token of noticing": max(map(int, late)) <= 1,
        "0 leaked tasks, files, answers": all(
            after[key] <= before[key] for key in ("tasks", "files", "running")
        ),
        "memory grows by at most 1 %": growth <= MAX_GROWTH,
    }
    return figures, promises


def _late_tokens(server: Server) -> dict[str, int]:
    """Returns how many answers had so many tokens at most after their client was gone."""
    text = server.get("/metrics")[2].decode()
    rows = re.findall(r'late_tokens_bucket{le="([0-9]+)\.0"} ([0-9]+)', text)
    sums = [0, *(int(count) for _, count in rows)]
    counts = {most: sums[i + 1] - sums[i] for i, (most, _) in enumerate(rows)}
    return {most: count for most, count in counts.items() if count}


def _state(server: Server) -> dict[str, float]:
    pid = server.process.pid
    return {
        "tasks": server.metric("tasks"),
        "running": server.metric("running"),
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "rss": rss(pid),
    }


async def _rounds(server: Server, count: int) -> list[int]:
    """Returns, for each client that left, how many tokens were made that it did not read."""
    extra: list[int] = []
    for _ in range(count):
        before = len(server.lines)
        reads = await asyncio.gather(*(_leave(server.port, 1 + i) for i in range(TOGETHER)))
        async with asyncio.timeout(30):
            while len(made := _made(server.lines[before:])) < TOGETHER:
                await asyncio.sleep(0.02)
        extra += [made[1 + i] - read for i, read in enumerate(reads)]
    return extra


def _made(lines: list[str]) -> dict[int, int]:
    """Returns how many tokens were made for each client, by the length of its prompt."""
    return {int(found[1]): int(found[2]) for line in lines if (found := _LINE.search(line))}


async def _leave(port: int, chars: int) -> int:
    """Reads some of an answer and leaves; returns how many tokens were read."""
    reader, writer = await connect(port)
    writer.write(post_bytes(ask("慢" * chars, stream=True)))
    read = 0
    while read < 3 + chars % 5:
        line = await reader.readline()
        assert line, "the stream ended"
        read += b'"delta":{"content"' in line
    writer.close()
    return read
