"""What a server and its engine's process say to each other: JSON messages, each with its length.

In: messages as lists, the first element of which names their kind. Out: bytes, and back. Both ends
are ours and on one machine, so a message that cannot be read is a defect, not an attack.

    to the worker     ["start", number, ids, config, is_base]  ["cancel", number]
    to the server     ["hello", kind, max_streams]  ["unable", exit code, message]
                      ["accepted", number]  ["refused", number, message]
                      ["tokens", number, ids]  ["finished", number, reason]
                      ["failed", number, message]
"""

import asyncio
import struct
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, TypeAlias

import orjson

from chatlm.generation_config import GenerationConfig
from chatlm.inference.engine import Event, Failed, Finished, Request, Tokens

_LENGTH = struct.Struct(">I")
Message: TypeAlias = list[Any]


@dataclass(frozen=True)
class Accepted:
    """The engine has taken a request; tokens follow."""


@dataclass(frozen=True)
class Refused:
    """The end of an answer that this engine cannot make: its `check` said why."""

    message: str


@dataclass(frozen=True)
class Lost:
    """The end of an answer whose process is gone."""


ProcessEvent: TypeAlias = Event | Accepted | Refused | Lost


def framed(message: Message) -> bytes:
    """Returns a message as it is sent."""
    body = orjson.dumps(message)
    return _LENGTH.pack(len(body)) + body


def read(stream: BinaryIO) -> Message | None:
    """Returns the next message, None when the other side is gone."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = stream.read(length)
    return orjson.loads(body) if len(body) == length else None


async def receive(stream: asyncio.StreamReader) -> Message | None:
    """Returns the next message, None when the other side is gone."""
    try:
        (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
        return orjson.loads(await stream.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def start_message(number: int, request: Request) -> Message:
    """Returns what asks the worker for an answer."""
    config = asdict(request.config)
    return ["start", number, list(request.source_ids), config, request.is_base]


def request_of(message: Message) -> Request:
    """Returns what a start message asks for."""
    _, _, ids, config, is_base = message
    return Request(tuple(ids), GenerationConfig(**config), is_base)


def event_message(number: int, event: Event) -> Message:
    """Returns what tells the server of an event."""
    match event:
        case Tokens(ids):
            return ["tokens", number, list(ids)]
        case Finished(reason):
            return ["finished", number, reason]
        case Failed(message):
            return ["failed", number, message]


def event_of(message: Message) -> ProcessEvent:
    """Returns the event that a message of the worker tells of."""
    match message:
        case ["tokens", _, ids]:
            return Tokens(tuple(ids))
        case ["finished", _, reason]:
            return Finished(reason)
        case ["failed", _, text]:
            return Failed(text)
        case ["accepted", _]:
            return Accepted()
        case ["refused", _, text]:
            return Refused(text)
    raise ValueError(f"a message of unknown kind {message[0]!r}")
