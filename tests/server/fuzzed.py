"""Requests made by schemathesis from the server's own description, answered in this process.

In: a number of cases, with or without a key. Out: `Counts`. The application is whole, and so is the
model's process; only the sockets are left out. Cases come from valid and from broken data alike.
"""

import asyncio
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.python.asgi import shutdown_lifespans
from scripted import LIMITS, Characters
from starlette.types import Receive, Scope, Send

from chatlm.inference.process import EngineProcess
from chatlm.server.answers import ServedModel, Service
from chatlm.server.app import make_app
from chatlm.server.config import ServeConfig
from chatlm.server.limits import WITHOUT_KEY, Guard

KEY = b"the-key-of-the-fuzzed-server"
PROGRAM = [sys.executable, str(Path(__file__).with_name("scripted.py"))]
SHARES = {"/v1/chat/completions": 0.25, "/api/chat": 0.5, "/v1/models/{model}": 0.25}
FEW = 4
"""Cases of a route that takes nothing: they are all alike."""
# A request may fit the description and still be refused: for the order of its messages, for a
# question that is too long, or for values that contradict each other.
NOT_OURS = ("positive_data_acceptance",)


@dataclass
class Counts:
    """What came of the cases.

    Attributes:
        statuses: how often each came. failures: what a check said, and how often.
        streams: answers that came as events.
        bypasses: cases that were let through without the key.
    """

    cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    streams: int = 0
    without_key: int = 0
    bypasses: int = 0

    def add(self, other: "Counts") -> None:
        """Adds the counts of more cases."""
        self.cases += other.cases
        self.statuses += other.statuses
        self.failures += other.failures
        self.streams += other.streams
        self.without_key += other.without_key
        self.bypasses += other.bypasses

    @property
    def server_errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if status >= 500)


class Application:
    """A server as an ASGI application that starts and ends its model's process itself."""

    def __init__(self, *, has_key: bool) -> None:
        config = ServeConfig(allowed_hosts=["testserver"], max_queue=1000, max_new_tokens=30)
        # Hypothesis tries words that it finds in the source, so the model must have no magic ones.
        self.worker = EngineProcess([*PROGRAM, "0", "8", "0", "echo"])
        model = ServedModel("scripted", 1, Characters(), LIMITS, config.max_new_tokens)
        service = Service(model, self.worker, config)
        self.app = make_app(service, has_key=has_key)
        self.description = self.app.openapi()
        self._guard = Guard(self.app, service, KEY if has_key else None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._guard(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        running = asyncio.create_task(self.worker.run())
        while self.worker.state != "ready":
            await asyncio.sleep(0.01)
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await self.worker.close()
        await running
        await send({"type": "lifespan.shutdown.complete"})


def fuzz(num_cases: int, *, has_key: bool, seed: int = 0) -> Counts:
    """Sends so many cases, spread over all operations, and checks every answer."""
    load_all_checks()
    checks = [check for check in CHECKS.get_all() if check.__name__ not in NOT_OURS]
    application = Application(has_key=has_key)
    schema = schemathesis.openapi.from_dict(application.description)
    schema.app = application
    counts = Counts()
    results: Any = schema.get_all_operations()
    operations = [result.ok() for result in results]
    headers = {"Authorization": f"Bearer {KEY.decode()}"} if has_key else {}
    for operation in operations:
        wanted = max(FEW, round(num_cases * SHARES.get(operation.path, 0)))
        _fuzz_operation(operation, wanted, headers, checks, counts, seed)
    shutdown_lifespans()
    return counts


def _fuzz_operation(
    operation: Any,
    wanted: int,
    headers: dict[str, str],
    checks: list[Any],
    counts: Counts,
    seed: int,
) -> None:
    done = 0
    modes = list(schemathesis.GenerationMode)
    while done < wanted:
        for mode in list(modes):
            most = max(1, min(500, wanted - done))
            strategy = operation.as_strategy(generation_mode=mode)
            try:
                done += _run(strategy, most, headers, checks, counts, seed, mode.is_positive)
            except Unsatisfiable:  # of some operations nothing can be broken
                modes.remove(mode)
        seed += 1


def mend(body: Any, *, stream: bool) -> None:
    """Takes out of a body, in place, what is refused although it fits the description.

    Nearly no random conversation ends with a question that is short enough.
    """
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
        return
    for message in body["messages"][-1:]:
        if isinstance(message, dict):
            message["role"] = "user"
            content = message.get("content")
            message["content"] = content[:30] if isinstance(content, str) and content else "你好"
    for key in ("model", "num_beams", "length_penalty", "min_tokens"):
        body.pop(key, None)
    body["stream"] = stream


def _run(
    strategy: Any,
    most: int,
    headers: dict[str, str],
    checks: list[Any],
    counts: Counts,
    seed: int,
    is_valid: bool,
) -> int:
    before = counts.cases

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=most,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @hypothesis.given(strategy)
    def send(case: Any) -> None:
        if is_valid and counts.cases % 2 and case.path == "/v1/chat/completions":
            mend(case.body, stream=counts.cases % 4 == 1)
        response = case.call(headers=headers)
        counts.cases += 1
        counts.statuses[response.status_code] += 1
        counts.streams += response.headers.get("content-type", [""])[0].startswith("text/event")
        if headers and case.path not in WITHOUT_KEY:
            refused = case.call(headers={"Authorization": f"Bearer {KEY.decode()[:-1]}"})
            counts.without_key += 1
            counts.bypasses += refused.status_code != 401
        try:
            case.validate_response(response, checks=checks, headers=headers)
        except* Exception as group:
            for error in group.exceptions:
                first = str(error).strip().splitlines()[0]
                counts.failures[f"{case.method} {case.path}: {first}"] += 1

    send()
    return counts.cases - before
