"""A7: bodies that are too long, lie about their length, or are no honest JSON."""

import contextlib
import json
import socket
from collections import Counter
from typing import Any

from benchmarks.serving.clients import Server, ask, post_bytes

GIGABYTE = 1 << 30
MAX_TAKEN = 1 << 20
DEEP = 100_000
_CHUNKED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def run(*, full: bool) -> tuple[dict[str, Any], dict[str, bool]]:
    """Returns figures and promises."""
    from tests.server.test_limits import HOSTILE

    times = 100 if full else 5
    bodies = {
        **HOSTILE,
        "64 KiB and a byte": b" " * 65_537,
        "100,000 levels": b"[" * DEEP,
        "100,000 levels of objects": b'{"a":' * DEEP,
        "a lone surrogate": json.dumps(ask("\ud800")).encode(),
        "a length that is too small": None,
        "a length that is too large": None,
    }
    statuses: dict[str, Counter[int]] = {name: Counter() for name in bodies}
    with Server(step=0.001, patience=0.2) as server:
        for name, body in bodies.items():
            for _ in range(times):
                sent = _lying(name) if body is None else post_bytes(body, "Connection: close")
                statuses[name][_status(server.port, sent)] += 1
        accepted = [_gigabyte(server.port) for _ in range(3)]
        alive = server.get("/ready")[0] == 200
    found = {status for counter in statuses.values() for status in counter}
    figures = {
        "bodies": times * len(bodies),
        "statuses": {name: dict(counter) for name, counter in statuses.items()},
        "of a gigabyte in chunks taken by kernel and server, bytes": accepted,
    }
    promises = {
        "only 400, 408, 413, 422": found <= {400, 408, 413, 422},
        "at most 1 MiB of a gigabyte is taken": max(accepted) <= MAX_TAKEN,
        "the server answers afterwards": alive,
    }
    return figures, promises


def _lying(name: str) -> bytes:
    whole = post_bytes(ask("你好"), "Connection: close")
    if "small" in name:
        return whole.replace(b"Content-Length: ", b"Content-Length: 1\r\nX-Was: ")
    return whole.replace(b"Content-Length: ", b"Content-Length: 9")


def _status(port: int, sent: bytes) -> int:
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(sent)
        data = b""
        while len(data) < 12 and (part := connection.recv(1 << 16)):
            data += part
    return int(data[9:12] or 0)


def _gigabyte(port: int) -> int:
    """Sends a gigabyte in chunks as far as it is taken; returns how much that was."""
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        with contextlib.suppress(ConnectionError):
            connection.sendall(_CHUNKED)
            while sent < GIGABYTE:
                sent += connection.send(chunk)
    return sent
