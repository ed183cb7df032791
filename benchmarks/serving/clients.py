"""Clients of a server as a crowd of them is needed: on one event loop, by bare sockets.

In: a port and requests as bytes. Out: what came back, and when.
"""

import asyncio
import contextlib
import socket
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.server.served import Server, ask, post_bytes

__all__ = ["Exchange", "Server", "ask", "connect", "exchange", "post_bytes", "quantile", "rss"]
TIMEOUT_SECONDS = 120.0


@dataclass
class Exchange:
    """One request and its answer.

    Attributes:
        data: the answer's bytes; empty if there were none.
        seconds: until the answer ended.
    """

    data: bytes
    seconds: float

    @property
    def status(self) -> int:
        """The status, 0 if there was no answer."""
        return int(self.data[9:12]) if self.data else 0

    @property
    def is_ended_well(self) -> bool:
        """Whether a stream was finished, or said why not."""
        return b"data: [DONE]" in self.data or b'data: {"error"' in self.data


async def connect(
    port: int, receive_buffer: int = 0
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Returns a connection, with a small buffer if asked for."""
    plain = socket.socket()
    if receive_buffer:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
    return await asyncio.open_connection(sock=plain)


async def exchange(port: int, request: bytes) -> Exchange:
    """Sends a request on a connection of its own and reads until its end."""
    clock = asyncio.get_running_loop().time
    began = clock()
    data = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(TIMEOUT_SECONDS):
            reader, writer = await connect(port)
            try:
                writer.write(request)
                data = await reader.read(-1)
            finally:
                writer.close()
    return Exchange(data, clock() - began)


def quantile(values: Sequence[float], q: float) -> float:
    """Returns a quantile."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=1000, method="inclusive")[min(998, round(q * 1000) - 1)]


def rss(pid: int) -> int:
    """Returns a process's resident memory in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096
