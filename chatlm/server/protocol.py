"""One connection: uvicorn's HTTP/1.1, with time and memory bounded.

In: bytes of a client. Out: requests for the application, and its responses. Bounded are the seconds
of a request's head and body, of a reader that does not read, the bytes that wait to be read, and
the number of connections. It reads no body and knows no route.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from chatlm.server.errors import ApiError, unavailable

HEAD_SECONDS = 10.0
BODY_SECONDS = 10.0
WRITE_SECONDS = 10.0
"""A client that reads nothing for so long, while there is something to read, is dropped."""
LINGER_SECONDS = 2.0
LINGER_BYTES = 1 << 18
"""Of a refused body that are still taken, so that the client can read why; then it is cut off."""
WRITE_BUFFER_BYTES = 1 << 14
KERNEL_BUFFER_BYTES = 1 << 15
"""In each direction; Linux takes twice as much."""


class LingeringTransport:
    """A transport that closes only when the client had a chance to read the last response.

    Closing a socket on which unread bytes have come makes the kernel throw away what the client has
    not read yet. So the rest of a refused body is swallowed, for a while, first.
    """

    def __init__(self, transport: asyncio.Transport, is_client_writing: Callable[[], bool]) -> None:
        self._transport = transport
        self._is_client_writing = is_client_writing
        self._loop = asyncio.get_running_loop()
        self._swallowed = 0
        self.is_lingering = False
        self._end: asyncio.TimerHandle | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Tells whether nothing more may be sent."""
        return self.is_lingering or self._transport.is_closing()

    def close(self, *, lingers: bool = False) -> None:
        """Sends what is waiting, and closes.

        Args:
            lingers: the client may be sending, although it has sent nothing of a body yet.
        """
        if self.is_closing():
            return
        if (lingers or self._is_client_writing()) and self._transport.can_write_eof():
            self.is_lingering = True
            self._transport.write_eof()
            self._transport.resume_reading()
            self._end = self._loop.call_later(LINGER_SECONDS, self._transport.abort)
        else:
            self._transport.close()
            if self._transport.get_write_buffer_size():
                self._end = self._loop.call_later(WRITE_SECONDS, self._transport.abort)

    def swallow(self, count: int) -> None:
        """Takes note of bytes that nobody wants."""
        self._swallowed += count
        if self._swallowed > LINGER_BYTES:
            self._transport.abort()

    def gone(self) -> None:
        """Forgets the timer of a connection that has ended."""
        if self._end is not None:
            self._end.cancel()


class ChatProtocol(H11Protocol):
    """A connection with limits.

    Attributes:
        max_connections: of the whole server; one more is told so and closed.
    """

    max_connections = 1000

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lingering: LingeringTransport
        self._awaited: object = None
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes a connection, or says that there are too many."""
        plain = cast(asyncio.Transport, transport)
        plain.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._lingering = LingeringTransport(plain, self._is_client_writing)
        super().connection_made(cast(asyncio.Transport, self._lingering))
        if len(self.connections) > self.max_connections:
            self._tell(unavailable("There are too many connections.", "too_many_connections", 5))
        else:
            self._await_client()

    def data_received(self, data: bytes) -> None:
        """Takes bytes; those after a refusal are swallowed."""
        if self._lingering.is_lingering:
            self._lingering.swallow(len(data))
            return
        super().data_received(data)
        self._await_client()

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets all timers go."""
        for timer in (self._reading, self._writing):
            if timer is not None:
                timer.cancel()
        self._lingering.gone()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def pause_writing(self) -> None:
        """Starts the patience with a client that does not read."""
        super().pause_writing()
        self._writing = self.loop.call_later(WRITE_SECONDS, self._lingering.abort)

    def resume_writing(self) -> None:
        """Ends that patience."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Ends the connection if the client still sends what the response does not depend on."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._lingering.close()
        else:
            self._await_client()

    def send_400_response(self, msg: str) -> None:
        """Tells a client that what it sent is not HTTP."""
        self._tell(ApiError(400, f"{msg}", "invalid_http"))

    def _is_client_writing(self) -> bool:
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def _await_client(self) -> None:
        """Starts the timer of what the client has to send next, once for each head and body."""
        state = self.conn.their_state
        is_idle_between = state is h11.IDLE and self.timeout_keep_alive_task is not None
        awaited = state if state in (h11.IDLE, h11.SEND_BODY) and not is_idle_between else None
        if awaited is self._awaited:
            return
        self._awaited = awaited
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
        if awaited is not None:
            seconds = HEAD_SECONDS if awaited is h11.IDLE else BODY_SECONDS
            self._reading = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        if not self._lingering.is_closing():
            self._tell(ApiError(408, "The request did not arrive in time.", "request_timeout"))

    def _tell(self, error: ApiError) -> None:
        """Answers for the application, if it has not begun to, and closes."""
        self._unset_keepalive_if_required()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = error.response()
            headers = [*body.raw_headers, (b"connection", b"close")]
            phrase = STATUS_PHRASES[error.status_code]
            for event in (
                h11.Response(status_code=error.status_code, headers=headers, reason=phrase),
                h11.Data(data=bytes(body.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self._lingering.close(lingers=True)


def listening_socket(host: str, port: int) -> socket.socket:
    """Returns a socket that listens at an address.

    Its buffers are small, so that little of what a client does not read, or of what is not read of
    it, waits in the kernel.

    Raises:
        OSError: it cannot be had.
    """
    name = host.strip("[]")
    family, kind, protocol, _, address = socket.getaddrinfo(
        name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            listener.setsockopt(socket.SOL_SOCKET, option, KERNEL_BUFFER_BYTES)
        listener.bind(address)
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
