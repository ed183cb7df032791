"""A server from its first connection to its last.

In: the parts. Out: an exit code. The first signal drains it: nothing new is taken, running answers
finish within grace_seconds, the rest get an error, exit 0. A second signal ends it at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Generator, Sequence
from types import FrameType
from typing import Any

import uvicorn

from chatlm import log
from chatlm.inference.process import EngineProcess
from chatlm.server.answers import ServedModel, Service
from chatlm.server.app import make_app
from chatlm.server.config import ServeConfig
from chatlm.server.limits import MAX_HEAD_BYTES, Guard
from chatlm.server.protocol import ChatProtocol

KEEP_ALIVE_SECONDS = 10
"""Longer than the 5 s of usual clients, so that it is they who close."""
CLOSE_SECONDS = 2
"""For the last bytes of the last answers."""
_SPARE_FILES = 64


def run(
    config: ServeConfig,
    key: bytes | None,
    model: ServedModel,
    command: Sequence[str],
    listener: socket.socket,
) -> int:
    """Serves until a signal; returns the exit code.

    Args:
        config: the settings.
        key: what clients must send; None: nothing.
        model: the server's part of the model.
        command: the command line of the process that answers.
        listener: where clients connect.

    Raises:
        ChatLMError: the model cannot be opened.
    """
    _allow_files(config.max_connections + _SPARE_FILES)
    quiet = logging.getLogger("uvicorn")  # its lines may hold what a client sent
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    return asyncio.run(_serve(config, key, model, command, listener))


class _Server(uvicorn.Server):
    """Uvicorn without its own idea of signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Captures none."""
        yield


async def _serve(
    config: ServeConfig,
    key: bytes | None,
    model: ServedModel,
    command: Sequence[str],
    listener: socket.socket,
) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_on_defect)
    stop = _stop_event(loop)
    worker = EngineProcess(command, config.max_streams)
    service = Service(model, worker, config)
    server = _http_server(service, key)
    connections = server.server_state.connections
    service.metrics.watch("open_connections", "Connections.", lambda: len(connections))
    service.metrics.watch("tasks", "Tasks of the event loop.", lambda: len(asyncio.all_tasks(loop)))
    host, port = listener.getsockname()[:2]
    log.info(f"serving '{model.id}' at http://{_shown(host)}:{port}/ once it is loaded")
    tasks = {
        "worker": asyncio.create_task(worker.run()),
        "http": asyncio.create_task(server.serve(sockets=[listener])),
        "ready": asyncio.create_task(_tell_when_ready(worker)),
        "stop": asyncio.create_task(stop.wait()),
    }
    try:
        ends = [tasks["worker"], tasks["http"], tasks["stop"]]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if tasks["stop"].done():
            await _drain(service)
    finally:
        server.should_exit = True
        await tasks["http"]
        await worker.close()
        for name in ("ready", "stop"):
            tasks[name].cancel()
    await tasks["worker"]
    return 0


def _http_server(service: Service, key: bytes | None) -> _Server:
    protocol = type("_Protocol", (ChatProtocol,), {})
    protocol.max_connections = service.config.max_connections
    return _Server(
        uvicorn.Config(
            Guard(make_app(service, has_key=key is not None), service, key),
            http=protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=CLOSE_SECONDS,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
    )


async def _tell_when_ready(worker: EngineProcess) -> None:
    while worker.state == "loading":
        await asyncio.sleep(0.05)
    log.info(f"ready: {worker.kind}, {worker.max_streams} answers at the same time")


async def _drain(service: Service) -> None:
    seconds = service.config.grace_seconds
    count = len(service.open)
    log.info(f"stopping: {count} answers have {seconds:g} s to finish; once more to stop at once")
    service.is_draining = True
    if not await service.idle(seconds):
        log.warning(f"{len(service.open)} answers were not finished within {seconds:g} s")
        service.interrupt()
        await service.idle(CLOSE_SECONDS)


def _stop_event(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """Returns what the first signal sets; the second ends the process, and its worker with it."""
    stop = asyncio.Event()
    signalled: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        if signalled:
            os._exit(128 + number)
        signalled.append(number)
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop


def _on_defect(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Writes what asyncio could tell nobody, without values: they may hold a client's text."""
    error = context.get("exception")
    log.warning(f"a defect of the server: {context['message']} {type(error).__name__}")


def _allow_files(count: int) -> None:
    """Lets the process open so many files, where the system allows it."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < count:
        log.warning(f"the system allows {most} open files, and max_connections may need {count}")


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
