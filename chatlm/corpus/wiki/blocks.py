"""bzip2 streams by our kernels: several blocks at once, each with its checksum compared.

In: a file and where a stream begins. Out: contents of the streams from there on, up to the first
one that the kernels refuse: then the library says what is wrong with it. It skips nothing.
"""

import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

import numpy as np

from chatlm.corpus.kernels import bzip2
from chatlm.corpus.wiki.piece import Piece

_WINDOW_BYTES = 8 * 1024 * 1024
_LONGEST_BLOCK_BYTES = 3 * 1024 * 1024
# A block of text grows to 900 kB; one that would not fit is the library's to judge.
_OUT_BYTES = 2 * 1024 * 1024
_HEADER_BYTES = 4


@dataclass(frozen=True, slots=True)
class Refused:
    """The stream that could not be read to its end, and how many bytes of it were handed on."""

    stream: int
    given: int


Pieces: TypeAlias = Generator[Piece, None, Refused | None]


class Streams:
    """Blocks that were read and not yet handed on, and the part of the file that is in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.descriptor = file.fileno()
        self.window = np.zeros(bzip2.PADDING, np.uint8)
        self.window_start = self.window_bytes = 0
        lanes = bzip2.LANES
        self.blocks = np.empty((lanes, bzip2.MAX_BLOCK), np.uint32)
        self.texts = np.empty((lanes, bzip2.MAX_BLOCK), np.uint8)
        self.counts = np.zeros((lanes, 256), np.int64)
        self.found = np.zeros((lanes, 3), np.int64)
        self.out = np.empty(_OUT_BYTES, np.uint8)
        self.streams = list[int]()  # of the blocks in the lanes
        self.last, self.given = -1, 0  # the stream that was handed on last, and how much of it

    def read(self, start: int, stop: int | None) -> Pieces:
        """Yields the streams from `start` on; returns the one that was refused, None at the end.

        Before a stream at or behind `stop` everything is handed on that was read before it.
        """
        self.streams, self.last = [], -1
        while True:
            if stop is not None and start >= stop and (refused := (yield from self._flush())):
                return refused
            head = os.pread(self.descriptor, _HEADER_BYTES, start)
            is_stream = (
                len(head) == _HEADER_BYTES and head[:3] == b"BZh" and 0x31 <= head[3] <= 0x39
            )
            end = -1
            if is_stream:
                result = yield from self._read_stream(start, (head[3] - 0x30) * 100_000)
                if isinstance(result, Refused):
                    return result
                end = result
            if end < 0:
                refused = yield from self._flush()
                return refused or (self._refusal(start) if head else None)
            start = end

    def _read_stream(self, start: int, max_block: int) -> Generator[Piece, None, int | Refused]:
        """Reads the blocks of one stream; returns where it ends, -1 if it is no good."""
        bit, checksum = (start + _HEADER_BYTES) * 8, 0
        while True:
            lane = len(self.streams)
            found = self.found[lane]
            self._show(bit >> 3)
            status, ended = bzip2.read_block(
                self.window,
                bit - self.window_start * 8,
                self.window_bytes,
                max_block,
                self.blocks[lane],
                self.counts[lane],
                found,
            )
            bit = ended + self.window_start * 8
            if status == bzip2.END and int(found[0]) == checksum:
                if not self.streams or self.streams[-1] != start:
                    # Without contents, or they have been handed on; what is before it comes first.
                    if refused := (yield from self._flush()):
                        return refused
                    yield Piece(start, b"")
                return (bit + 7) // 8
            if status != bzip2.BLOCK:
                return -1
            checksum = (checksum << 1 & 0xFFFFFFFF | checksum >> 31) ^ int(found[0])
            self.streams.append(start)
            if len(self.streams) == bzip2.LANES and (refused := (yield from self._flush())):
                return refused

    def _flush(self) -> Pieces:
        """Hands on the blocks in the lanes; returns the stream of a block with a wrong checksum."""
        streams, self.streams = self.streams, []
        if not streams:
            return None
        firsts, nums = self.found[:, 1].copy(), self.found[:, 2].copy()
        bzip2.unsort(self.blocks, self.counts, firsts, nums, len(streams), self.texts)
        for lane, stream in enumerate(streams):
            size, checksum = bzip2.expand(self.texts[lane], nums[lane], bzip2.CRC, self.out)
            if size < 0 or checksum != self.found[lane, 0]:
                return self._refusal(stream)
            if stream != self.last:
                self.last, self.given = stream, 0
            self.given += size
            yield Piece(stream, self.out[:size].tobytes())
        return None

    def _refusal(self, stream: int) -> Refused:
        return Refused(stream, self.given if stream == self.last else 0)

    def _show(self, start: int) -> None:
        """Sees to it that the window holds any block that begins at `start`."""
        end = self.window_start + self.window_bytes
        is_last = 0 < self.window_bytes < _WINDOW_BYTES
        if self.window_start <= start and (start + _LONGEST_BLOCK_BYTES <= end or is_last):
            return
        data = os.pread(self.descriptor, _WINDOW_BYTES, start)
        self.window = np.frombuffer(data + bytes(bzip2.PADDING), np.uint8)
        self.window_start, self.window_bytes = start, len(data)
