"""The bytes of a dump: bzip2 of one or of many streams, or no bzip2 at all.

In: a path, and the place of a stream to begin with. Out: where the streams begin, and their
contents, of which only verified blocks are handed on. It does not know what the bytes mean.

A multistream dump is one stream for every hundred pages, so that streams can be unpacked by
different processes. The boundaries are found by their own marks: the scan takes seconds for a
whole dump, less than unpacking the index file that is published beside it.
"""

import os
import re
from bz2 import BZ2Decompressor
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from chatlm.corpus.read_json import open_binary
from chatlm.corpus.wiki.piece import Piece

MAX_RATIO = 200
"""Times that a stream may grow when unpacked (text: 3 to 20), after `MAX_SLACK_BYTES` for free."""
MAX_SLACK_BYTES = 16 * 1024 * 1024
MAX_UNVERIFIED_BYTES = 32 * 1024 * 1024
"""What is held back at most until a checksum is known; a block of text has less than 1 MiB."""

_MAGIC = b"BZh"
_STREAM = re.compile(rb"BZh[1-9]1AY&SY")
_STREAM_BYTES = 10
_BLOCK_SIGN = b"1AY&SY"
# Every stream ends in this sign of 48 bits, a checksum of 32 and up to 7 bits to fill the byte.
_END_SIGN = 0x177245385090
_END_BYTES = 11
_SCAN_BYTES = 4 * 1024 * 1024
# Small, so that most calls end inside a block: see `_unpacked`.
_FEED_BYTES = 4 * 1024
_PLAIN_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `start` (included) to `end` (excluded) of a file, whole streams."""

    start: int
    end: int


def streams(path: Path) -> list[Span]:
    """Returns the bzip2 streams of `path` as spans; one span for a plain file.

    A boundary counts if a stream ends right before it. The spans cover the whole file: what cannot
    be told apart stays with the stream before.

    Raises:
        DataError: The file cannot be read.
    """
    with open_binary(path) as file:
        size = os.fstat(file.fileno()).st_size
        packed = file.read(len(_MAGIC)) == _MAGIC
        marks = _marks(file, 1) if packed else iter(())
        starts = [0, *(mark for mark in marks if _ends_at(file, mark))]
    return [Span(start, end) for start, end in zip(starts, [*starts[1:], size], strict=True)]


def grouped(spans: Sequence[Span], min_bytes: int) -> list[Span]:
    """Returns neighbouring spans joined until each has at least `min_bytes`, the last perhaps not.

    What is read does not depend on how spans are grouped; only the work of a task does.
    """
    joined = list[Span]()
    for span in spans:
        if joined and joined[-1].end - joined[-1].start < min_bytes:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return joined


def pieces(path: Path, start: int = 0) -> Iterator[Piece]:
    """Yields the contents of `path` from the stream that begins at `start` to the end of the file.

    Damage (a cut file, changed bytes, junk after a stream, a bomb) costs the rest of its stream and
    is a piece of its own; reading goes on at the next stream, if there is one.

    Raises:
        DataError: The file cannot be read.
    """
    with open_binary(path) as file:
        packed = file.read(len(_MAGIC)) == _MAGIC
        file.seek(start)
        if packed:
            yield from _all_streams(file, start)
            return
        while data := file.read(_PLAIN_BYTES):
            yield Piece(start, data)


class _DamageError(Exception):
    """A stream cannot be unpacked any further."""


def _all_streams(file: BinaryIO, start: int) -> Iterator[Piece]:
    """Yields all streams: those that the kernels read, and by the library what they refuse."""
    from chatlm.corpus.wiki.blocks import Streams

    reader, marks = Streams(file), _marks(file, start + 1)
    while True:
        refused = yield from reader.read(start)
        if refused is None:
            return
        start = refused.stream
        file.seek(start)
        try:
            start = yield from _unpacked(file, start, refused.given)
        except _DamageError as error:
            yield Piece(start, b"", str(error))
            start = next((mark for mark in marks if mark > start), -1)
        if start < 0:
            return


def _unpacked(file: BinaryIO, start: int, skip: int) -> Generator[Piece, None, int]:
    """Yields the verified contents of one stream; returns where the next begins, -1 at the end.

    The first `skip` bytes of them are known already.

    The library hands on a block before it has compared its checksum. But it reads no byte of the
    next block before it has: once a call takes input and gives nothing, all that was given is good.

    Raises:
        _DamageError: The stream is no stream, breaks off, is damaged, or grows beyond measure.
    """
    unpack, unverified = BZ2Decompressor(), list[bytes]()
    fed = given = num_held = 0
    while not unpack.eof:
        chunk = file.read(_FEED_BYTES) if unpack.needs_input else b""
        if unpack.needs_input and not chunk:
            if not fed:
                return -1
            raise _DamageError(f"the file ends inside a bzip2 stream, after {given} bytes of text")
        fed += len(chunk)
        try:
            data = unpack.decompress(chunk, _PLAIN_BYTES)
        except (OSError, ValueError) as error:
            raise _DamageError(f"damaged bzip2 data, after {given} bytes of text") from error
        if data:
            unverified.append(data)
            given += len(data)
            num_held += len(data)
            allowed = fed * MAX_RATIO + MAX_SLACK_BYTES
            if given > allowed or num_held > MAX_UNVERIFIED_BYTES:
                raise _DamageError(f"a bzip2 bomb: {fed} bytes became more than {given}")
        elif unverified:
            joined = b"".join(unverified)
            yield Piece(start, joined[skip:])
            skip = max(0, skip - len(joined))
            unverified.clear()
            num_held = 0
    yield Piece(start, b"".join(unverified)[skip:])
    return start + fed - len(unpack.unused_data)


def _marks(file: BinaryIO, start: int) -> Iterator[int]:
    """Yields where, from `start` on, bytes look like the beginning of a stream with contents."""
    while data := os.pread(file.fileno(), _SCAN_BYTES, start):
        at = data.find(_BLOCK_SIGN)
        while at >= 0:
            if _STREAM.match(data, max(at - 4, 0)):
                yield start + at - 4
            at = data.find(_BLOCK_SIGN, at + 1)
        if len(data) < _SCAN_BYTES:
            return
        start += len(data) - _STREAM_BYTES + 1


def _ends_at(file: BinaryIO, offset: int) -> bool:
    """Returns whether a stream ends right before `offset`."""
    tail = int.from_bytes(os.pread(file.fileno(), _END_BYTES, max(offset - _END_BYTES, 0)), "big")
    return any(tail >> (32 + fill) & (1 << 48) - 1 == _END_SIGN for fill in range(8))
