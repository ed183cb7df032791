"""bzip2 streams by our kernels: block by block, each with its checksum compared.

In: a file and where a stream begins. Out: contents of the streams from there on, up to the first
one that the kernels refuse: then the library says what is wrong with it. It skips nothing.
"""

import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

import numpy as np

from chatlm.corpus.kernels import bzip2, unsorting
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
    """The part of a file that is in memory, and room for a block."""

    def __init__(self, file: BinaryIO) -> None:
        self.descriptor = file.fileno()
        self.window = np.zeros(bzip2.PADDING, np.uint8)
        self.window_start = self.window_bytes = 0
        self.block = np.empty(bzip2.MAX_BLOCK, np.uint32)
        self.room = np.empty(unsorting.LANES * bzip2.MAX_BLOCK, np.uint8)
        self.text = np.empty(bzip2.MAX_BLOCK, np.uint8)
        self.counts = np.zeros(256, np.int64)
        self.found = np.zeros(3, np.int64)
        self.out = np.empty(_OUT_BYTES, np.uint8)

    def read(self, start: int) -> Pieces:
        """Yields the streams from `start` on; returns the one that was refused, None at the end."""
        while head := os.pread(self.descriptor, _HEADER_BYTES, start):
            if len(head) < _HEADER_BYTES or head[:3] != b"BZh" or not 0x31 <= head[3] <= 0x39:
                return Refused(start, 0)
            result = yield from self._read_stream(start, (head[3] - 0x30) * 100_000)
            if isinstance(result, Refused):
                return result
            start = result
        return None

    def _read_stream(self, start: int, max_block: int) -> Generator[Piece, None, int | Refused]:
        """Yields the blocks of one stream; returns where it ends.

        A block is handed on only with the checksum that stands before it, the stream ends only with
        the checksum that its blocks have together.
        """
        bit, checksum, given, is_empty = (start + _HEADER_BYTES) * 8, 0, 0, True
        while True:
            self._show(bit >> 3)
            status, ended = bzip2.read_block(
                self.window,
                bit - self.window_start * 8,
                self.window_bytes,
                max_block,
                self.block,
                self.counts,
                self.found,
            )
            bit = ended + self.window_start * 8
            expected = int(self.found[0])
            if status == bzip2.END and expected == checksum:
                if is_empty:
                    yield Piece(start, b"")
                return (bit + 7) // 8
            size = self._unsorted() if status == bzip2.BLOCK else -1
            if size < 0 or unsorting.checksum(self.out, size, unsorting.CRC) != expected:
                return Refused(start, given)
            checksum = (checksum << 1 & 0xFFFFFFFF | checksum >> 31) ^ expected
            given += size
            is_empty = False
            yield Piece(start, self.out[:size].tobytes())

    def _unsorted(self) -> int:
        """Makes the bytes of the block that was read; returns how many, -1 if it is no good."""
        first, num = int(self.found[1]), int(self.found[2])
        unsorting.unsort(self.block, self.counts, first, num, self.room, self.text)
        return int(unsorting.expand(self.text, num, self.out))

    def _show(self, start: int) -> None:
        """Sees to it that the window holds any block that begins at `start`."""
        end = self.window_start + self.window_bytes
        is_last = 0 < self.window_bytes < _WINDOW_BYTES
        if self.window_start <= start and (start + _LONGEST_BLOCK_BYTES <= end or is_last):
            return
        data = os.pread(self.descriptor, _WINDOW_BYTES, start)
        self.window = np.frombuffer(data + bytes(bzip2.PADDING), np.uint8)
        self.window_start, self.window_bytes = start, len(data)
