"""Signs of life between the ranks of a training, over connections of their own.

In: who the ranks are. Out: a `Verdict` as soon as one of them has died, hangs or has left with an
error. Rank 0 has a `Hub` with one connection to each other rank, which have a `Client` each. What
goes over a connection are lines: an empty one is a sign of life, any other is JSON. Only who knows
a secret, which the ranks agreed upon over their process group, is listened to. It ends no process.
"""

import contextlib
import hmac
import json
import os
import secrets
import selectors
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from chatlm.errors import NeighbourError
from chatlm.neighbours.processes import Process

BEAT_SECONDS = 1.0
_SLEPT_SECONDS = 5.0
"""A turn takes at most a beat; one that took this long was slept through (Ctrl-Z, a suspended
machine), and the silence of the others in that time says nothing."""
_GREETING_SECONDS = 30.0
_LEAVING_SECONDS = 0.5
_LONGEST_LINE = 4096


@dataclass(frozen=True)
class Verdict:
    """What happened to a rank: it hangs, it left with an exit code, or else it died."""

    rank: int
    process: Process
    hangs: bool = False
    code: int | None = None

    def __str__(self) -> str:
        if self.code is not None:
            what = f"ended with exit code {self.code}"
        else:
            what = "hangs or its machine does" if self.hangs else "died"
        return f"rank {self.rank} ({self.process}) {what}"


@dataclass(frozen=True)
class Members:
    """The ranks of a training as one of them sees them."""

    rank: int
    processes: list[Process]
    hang_seconds: float

    def hangs_since(self, heard: float) -> bool:
        """Says whether a rank that was last heard at this time is to be given up."""
        # What is promised is the end of this process, which takes a moment too.
        return time.monotonic() - heard > self.hang_seconds - 2 * BEAT_SECONDS


class Turn(NamedTuple):
    """What one turn of a link found."""

    slept: bool
    verdict: Verdict | None


class Offer(NamedTuple):
    """Where rank 0 listens, and the secret."""

    address: str
    port: int
    secret: str


class Server(NamedTuple):
    """A listening socket and what the others have to know of it."""

    listener: socket.socket
    offer: Offer


def serve(count: int) -> Server:
    """Returns a socket of rank 0 that all `count` ranks reach, others only if they must."""
    backlog = 2 * count + 16  # others may knock too
    if os.environ.get("LOCAL_WORLD_SIZE") == str(count):
        address, listener = "127.0.0.1", socket.create_server(("127.0.0.1", 0), backlog=backlog)
    else:
        address = os.environ.get("MASTER_ADDR", "127.0.0.1")
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        listener = socket.create_server(
            ("", 0), family=family, backlog=backlog, dualstack_ipv6=both
        )
    return Server(listener, Offer(address, listener.getsockname()[1], secrets.token_hex(16)))


class _Line:
    """One connection: lines in and out, without ever waiting."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.rank: int | None = None
        self.opened = time.monotonic()
        self._begun = b""
        connection.setblocking(False)

    def send(self, message: Mapping[str, Any] | None = None) -> None:
        """Sends a message, or a sign of life; what cannot be sent is lost, as it is to a dead."""
        text = json.dumps(message) if message else ""
        try:
            self.connection.send(f"{text}\n".encode())
        except OSError:
            return

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """Returns the messages that have come, and whether the other end is closed."""
        try:
            data = self.connection.recv(1 << 16)
        except BlockingIOError:
            return [], False
        except OSError:
            return [], True
        *lines, self._begun = (self._begun + data).split(b"\n")
        try:
            messages = [json.loads(line) for line in lines if line]
        except ValueError:
            return [], True
        closed = not data or len(self._begun) > _LONGEST_LINE
        return [message for message in messages if isinstance(message, dict)], closed

    def end(self) -> None:
        """Says that nothing more will come."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)

    def close(self, deadline: float) -> None:
        """Closes when the other end has, at the latest at a time: what was sent is to arrive."""
        with contextlib.suppress(OSError):
            while (left := deadline - time.monotonic()) > 0:
                self.connection.settimeout(left)
                if not self.connection.recv(1 << 16):
                    break
        self.connection.close()


def _close(lines: Sequence[_Line]) -> None:
    for line in lines:
        line.end()
    deadline = time.monotonic() + _LEAVING_SECONDS
    for line in lines:
        line.close(deadline)


class _Link:
    """What both ends have in common."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._selector = selectors.DefaultSelector()
        self._beat = self._turned = time.monotonic()

    def _ready(self) -> tuple[bool, list[Any]]:
        """Waits for a message or the next beat; returns whether it was long, and who is ready."""
        ready = [key.data for key, _ in self._selector.select(BEAT_SECONDS / 2)]
        now = time.monotonic()
        slept = now - self._turned > _SLEPT_SECONDS
        self._turned = now
        return slept, ready

    def _is_time_to_beat(self) -> bool:
        now = time.monotonic()
        due = now - self._beat >= BEAT_SECONDS
        if due:
            self._beat = now
        return due

    def _verdict(self, rank: int, *, hangs: bool = False, code: int | None = None) -> Verdict:
        return Verdict(rank, self._members.processes[rank], hangs, code)


class Hub(_Link):
    """Rank 0's end."""

    def __init__(self, members: Members, server: Server) -> None:
        super().__init__(members)
        self._server = server
        self._lines: list[_Line] = []
        now = time.monotonic()
        self._heard = dict.fromkeys(range(1, len(members.processes)), now)
        self._found: Verdict | None = None
        server.listener.setblocking(False)
        self._selector.register(server.listener, selectors.EVENT_READ, None)

    @property
    def is_last(self) -> bool:
        """Whether all other ranks have left."""
        return not self._heard

    def gather(self) -> None:
        """Returns when all ranks have greeted: from then on none can miss what is told to all."""
        deadline = time.monotonic() + _GREETING_SECONDS
        while len(self._greeted()) < len(self._heard) and time.monotonic() < deadline:
            self._found = self.turn().verdict
            if self._found is not None:
                return

    def turn(self) -> Turn:
        """Does what there is to do within half a second."""
        slept, ready = self._ready()
        verdict = self._found
        for line in ready:
            verdict = verdict or (self._accept() if line is None else self._hear(line))
        if slept:
            self._heard = dict.fromkeys(self._heard, time.monotonic())
        if self._is_time_to_beat():
            for line in self._greeted():
                line.send()
            verdict = verdict or self._missing()
        return Turn(slept, verdict)

    def _greeted(self) -> list[_Line]:
        return [line for line in self._lines if line.rank is not None]

    def _accept(self) -> None:
        try:
            connection, _ = self._server.listener.accept()
        except OSError:
            return
        line = _Line(connection)
        self._lines.append(line)
        self._selector.register(connection, selectors.EVENT_READ, line)

    def _hear(self, line: _Line) -> Verdict | None:
        messages, closed = line.receive()
        for message in messages:
            if line.rank is None:
                line.rank = self._known(message)
                closed = closed or line.rank is None
            elif isinstance(message.get("left"), int):
                self._heard.pop(line.rank, None)
                if message["left"]:
                    return self._verdict(line.rank, code=message["left"])
        if closed:
            self._drop(line)
            if line.rank in self._heard:
                return self._verdict(line.rank)
        elif line.rank in self._heard:
            self._heard[line.rank] = time.monotonic()
        return None

    def _known(self, message: Mapping[str, Any]) -> int | None:
        secret, rank = message.get("secret"), message.get("rank")
        known = isinstance(secret, str) and hmac.compare_digest(
            secret.encode(), self._server.offer.secret.encode()
        )
        return rank if known and rank in self._heard else None

    def _drop(self, line: _Line) -> None:
        self._selector.unregister(line.connection)
        self._lines.remove(line)
        line.connection.close()

    def _missing(self) -> Verdict | None:
        """Returns what is wrong with a rank that is silent, or never came."""
        greeted = {line.rank for line in self._greeted()}
        for line in [line for line in self._lines if line.rank is None]:
            if time.monotonic() - line.opened > _GREETING_SECONDS:
                self._drop(line)
        for rank, heard in self._heard.items():
            if rank not in greeted and self._members.processes[rank].is_gone():
                return self._verdict(rank)
            if self._members.hangs_since(heard):
                return self._verdict(rank, hangs=True)
        return None

    def pass_on(self, verdict: Verdict) -> None:
        """Tells the others before this process ends."""
        for line in self._greeted():
            if line.rank != verdict.rank:
                line.send({"rank": verdict.rank, "hangs": verdict.hangs, "code": verdict.code})
        self.close()

    def leave(self, code: int) -> None:
        """Tells the others that this process ends, and how."""
        for line in self._greeted():
            line.send({"left": code})

    def close(self) -> None:
        """Closes all connections."""
        self._server.listener.close()
        _close(self._lines)
        self._selector.close()


class Client(_Link):
    """The end of any other rank.

    Raises:
        NeighbourError: rank 0 cannot be reached.
    """

    def __init__(self, members: Members, offer: Offer) -> None:
        super().__init__(members)
        try:
            connection = socket.create_connection((offer.address, offer.port), _GREETING_SECONDS)
        except OSError as error:
            raise NeighbourError(
                f"rank {members.rank} cannot reach rank 0 ({members.processes[0]}) at "
                f"{offer.address}:{offer.port} ({error}): let the machines of a training open "
                "connections to each other"
            ) from error
        self._line = _Line(connection)
        self._line.send({"secret": offer.secret, "rank": members.rank})
        self._heard = time.monotonic()
        self._has_left = False
        self._selector.register(connection, selectors.EVENT_READ, self._line)

    @property
    def is_last(self) -> bool:
        """Whether rank 0 has left, which does so after all others."""
        return self._has_left

    def turn(self) -> Turn:
        """Does what there is to do within half a second."""
        slept, ready = self._ready()
        if self._has_left:
            return Turn(slept, None)
        if slept:
            self._heard = time.monotonic()
        verdict = self._hear() if ready else None
        if self._is_time_to_beat():
            self._line.send()
            if verdict is None and self._members.hangs_since(self._heard):
                verdict = self._verdict(0, hangs=True)
        return Turn(slept, verdict)

    def _hear(self) -> Verdict | None:
        self._heard = time.monotonic()
        messages, closed = self._line.receive()
        for message in messages:
            if "left" in message:
                self._has_left = True
                self._selector.unregister(self._line.connection)
                return self._verdict(0, code=message["left"]) if message["left"] else None
            return self._verdict(message["rank"], hangs=message["hangs"], code=message["code"])
        return self._verdict(0) if closed else None

    def pass_on(self, verdict: Verdict) -> None:
        """Tells rank 0 nothing that it does not know: a verdict comes from there, or is on it."""

    def leave(self, code: int) -> None:
        """Tells rank 0 that this process ends, and how."""
        self._line.send({"left": code})

    def close(self) -> None:
        """Closes the connection."""
        _close([self._line])
        self._selector.close()
