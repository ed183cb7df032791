"""The server under load: from one stream to five times what it can do.

In: a model. Out: a table, then one line of JSON. First, fixed numbers of streams (closed loop: each
begins anew when it has ended) give the capacity. Then requests arrive at random at multiples of the
capacity, whether the server keeps up or not (open loop: queueing shows); every answer has a bounded
length. Beside the load, /health is asked ten times a second.

    python -m benchmarks.serving.load model=out/train-001-ct2-int8
    python -m benchmarks.serving.load model=... rates=5 seconds=600       scenario A2
"""

import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.serving.load_client import DROPPED, Outcome, complete, get
from benchmarks.serving.load_server import Server
from chatlm import cli
from chatlm.corpus.starter import expand

HEALTH_SECONDS = 0.1
COLUMNS = {
    "load": "load",
    "tokens_per_second": "tokens/s",
    "per_second": "answers/s",
    "goodput": "in time/s",
    "refused": "429",
    "dropped": "dropped",
    "first_p50": "first p50",
    "first_p99": "p99",
    "gap_p50": "gap p50",
    "gap_p99": "p99",
    "refusal_p99": "429 p99",
    "health_p99": "/health p99",
    "rss_mib": "RSS MiB",
}


@dataclass(frozen=True)
class Settings:
    """Settings of `benchmarks.serving.load`."""

    model: str = field(metadata={"help": "checkpoint or exported model"})
    streams: list[int] = field(
        default_factory=lambda: [1, 2, 4, 8, 16, 32],
        metadata={"help": "closed loop: answers at the same time"},
    )
    rates: list[float] = field(
        default_factory=lambda: [0.5, 0.9, 1.1, 2.0, 5.0],
        metadata={"help": "open loop: arrivals, as multiples of the capacity"},
    )
    closed_seconds: float = field(default=20.0, metadata={"help": "of each closed loop"})
    seconds: float = field(default=30.0, metadata={"help": "of each open loop"})
    num_tokens: int = field(default=48, metadata={"help": "of each answer, exactly"})
    deadline_seconds: float = field(default=10.0, metadata={"help": "in time means within this"})
    serve: list[str] = field(
        default_factory=list, metadata={"help": "further settings of `serve`, comma-separated"}
    )
    seed: int = field(default=0, metadata={"help": "decides questions and arrivals"})


class Load:
    """Requests to one server, and what became of them."""

    def __init__(self, server: Server, settings: Settings) -> None:
        self.server = server
        self.settings = settings
        texts = [one.prompt for one in expand(Path("data/starter"), "train")]
        self.random = random.Random(settings.seed)
        self._texts = self.random.sample(texts, min(2000, len(texts)))

    async def one(self) -> Outcome:
        """Returns what became of one request."""
        tokens = self.settings.num_tokens
        body = {
            "model": self.server.model,
            "messages": [{"role": "user", "content": self.random.choice(self._texts)}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "min_tokens": tokens,
            "max_tokens": tokens,
        }
        return await complete(self.server.address, body)

    async def closed(self, streams: int) -> list[Outcome]:
        """Returns the outcomes of `streams` clients that ask again and again."""
        end = time.perf_counter() + self.settings.closed_seconds
        outcomes: list[Outcome] = []

        async def client() -> None:
            while time.perf_counter() < end:
                outcomes.append(await self.one())

        await asyncio.gather(*(client() for _ in range(streams)))
        return outcomes

    async def open(self, per_second: float) -> list[Outcome]:
        """Returns the outcomes of requests that come at random times (a Poisson process)."""
        end = time.perf_counter() + self.settings.seconds
        due = time.perf_counter()
        tasks: list[asyncio.Task[Outcome]] = []
        while (due := due + self.random.expovariate(per_second)) < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(self.one()))
        return await asyncio.gather(*tasks)

    async def beside(self, work: Any) -> tuple[list[Outcome], list[tuple[int, float]], float]:
        """Returns the outcomes, what /health said beside the load, and how long it all took."""
        health: list[tuple[int, float]] = []
        start = time.perf_counter()
        task = asyncio.ensure_future(work)
        while not task.done():
            health.append(await get(self.server.address, "/health"))
            await asyncio.wait([task], timeout=HEALTH_SECONDS)
        return task.result(), health, time.perf_counter() - start


def percentile(values: Sequence[float], share: float) -> float | None:
    """Returns the value below which `share` of the values lie; None if there are none."""
    if not values:
        return None
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def record(
    name: str,
    outcomes: list[Outcome],
    health: list[tuple[int, float]],
    seconds: float,
    settings: Settings,
    rss: int,
) -> dict[str, Any]:
    """Returns the figures of one load."""
    done = [one for one in outcomes if one.finish in ("stop", "length")]
    refused = [one for one in outcomes if one.status == 429]
    in_time = [one for one in done if one.total <= settings.deadline_seconds]
    first = [one.first for one in done if one.first is not None]
    gaps = [gap for one in done for gap in one.gaps]
    others = len(outcomes) - len(done) - len(refused)
    dropped = [
        one for one in outcomes if one.status == DROPPED or (one.status == 200 and not one.finish)
    ]
    return {
        "load": name,
        "requests": len(outcomes),
        "tokens_per_second": sum(one.tokens for one in done) / seconds,
        "per_second": len(done) / seconds,
        "goodput": len(in_time) / seconds,
        "refused": len(refused),
        "refused_without_retry_after": sum(not one.retry_after for one in refused),
        "dropped": len(dropped),
        "other_endings": others - len(dropped),
        "first_p50": percentile(first, 0.5),
        "first_p95": percentile(first, 0.95),
        "first_p99": percentile(first, 0.99),
        "gap_p50": percentile(gaps, 0.5),
        "gap_p95": percentile(gaps, 0.95),
        "gap_p99": percentile(gaps, 0.99),
        "total_p99": percentile([one.total for one in done], 0.99),
        "refusal_p99": percentile([one.total for one in refused], 0.99),
        "health_p99": percentile([took for _, took in health], 0.99),
        "health_failures": sum(status != 200 for status, _ in health),
        "rss_mib": rss / 2**20,
    }


async def run(server: Server, settings: Settings) -> list[dict[str, Any]]:
    """Returns the figures of every load."""
    load = Load(server, settings)
    await load.one()  # the first answer of a process is slow
    rows = []
    for streams in settings.streams:
        outcomes, health, seconds = await load.beside(load.closed(streams))
        name = f"{streams} stream{'s' * (streams > 1)}"
        rows.append(record(name, outcomes, health, seconds, settings, server.rss()))
        show(rows[-1:])
    capacity = max(row["per_second"] for row in rows)
    for rate in settings.rates:
        outcomes, health, seconds = await load.beside(load.open(rate * capacity))
        name = f"{rate:g} x capacity"
        rows.append(record(name, outcomes, health, seconds, settings, server.rss()))
        show(rows[-1:])
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Prints a table; times in milliseconds."""
    table = Table()
    for head in COLUMNS.values():
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(*(_cell(key, row[key]) for key in COLUMNS))
    Console(width=130).print(table)


def _cell(key: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if key.endswith(("p50", "p95", "p99")):
        return f"{1000 * value:.0f} ms"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the figures that are promised."""
    speed = {row["load"]: row["tokens_per_second"] for row in rows}
    found: dict[str, Any] = {"rows": rows}
    if "1 stream" in speed and "8 streams" in speed:
        found["eight_to_one"] = speed["8 streams"] / speed["1 stream"]
    peak = max(row["goodput"] for row in rows)
    found["worst_goodput_to_peak"] = min(
        (
            row["goodput"] / peak
            for row in rows
            if "capacity" in row["load"] and float(row["load"].split()[0]) >= 1
        ),
        default=None,
    )
    found["dropped"] = sum(row["dropped"] for row in rows)
    found["health_p99"] = max(row["health_p99"] for row in rows)
    found["median_refusal_p99"] = statistics.median(
        [row["refusal_p99"] for row in rows if row["refusal_p99"] is not None] or [0.0]
    )
    return found


def main(argv: Sequence[str]) -> int:
    """Starts a server, loads it, prints."""
    settings = cli.parse(argv, Settings)
    with Server(settings.model, settings.serve) as server:
        rows = asyncio.run(run(server, settings))
    show(rows)
    print(json.dumps(summary(rows)))
    return 0


if __name__ == "__main__":
    cli.run(main)
