"""The second half of unpacking bzip2: a block's sorting and runs undone, and its checksum.

In: a block as `bzip2.read_block` leaves it. Out: its bytes. It never fails on a damaged block but
gives wrong bytes, which the checksum shows.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chatlm.corpus.kernels.bzip2 import MAX_BLOCK

LANES = 16
"""Walks through a block that go on at the same time."""
_MAX_WALKS = 256
_MIN_WALK = 64
# Unsigned, so that an index needs no test for a negative one.
_ONE, _EIGHT, _SIXTEEN, _TOP = np.uint64(1), np.uint64(8), np.uint64(16), np.uint64(24)
_BYTE, _ONES, _WORD = np.uint64(255), np.uint64(0xFFFFFFFF), np.uint64(32)
# Of a row where a walk begins, and so another one ends. A row's number has 20 bits, its byte 8.
_MARK = np.uint64(1 << 31)


def _crc_tables() -> NDArray[np.uint64]:
    """Returns, for n from 0 to 7, the checksums of each byte with n zero bytes behind it."""
    tables = np.zeros((8, 256), np.uint64)
    for value in range(256):
        crc = value << 24
        for behind in range(8):
            for _ in range(8):
                crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
            tables[behind, value] = crc
    return tables


CRC = _crc_tables()
"""What `checksum` needs."""


@njit(cache=True, nogil=True)
def _link(block, counts, num):
    """Puts into the high bits of each row where the row of the next byte is."""
    total = 0
    starts = np.zeros(256, np.int64)
    for byte in range(256):
        starts[byte] = total
        total += counts[byte]
    for row in range(num):
        byte = np.uint64(block[row]) & _BYTE
        block[starts[byte]] |= np.uint32(row << 8)
        starts[byte] += 1


@njit(cache=True, nogil=True)
def unsort(block, counts, first, num, room, text):
    """Undoes the sorting of a block: writes its `num` bytes to `text`.

    Walk 0 begins where the text does, the others at rows at equal distances, and each ends where
    one begins: no matter where they are in the text, all together are the whole of it. `room` has
    `LANES` times `MAX_BLOCK` bytes.
    """
    _link(block, counts, num)
    start = np.int64(block[first]) >> 8
    step = max(num // _MAX_WALKS + 1, _MIN_WALK)
    num_walks = (num - 1) // step + 1
    for row in range(step, num, step):
        block[row] |= np.uint32(_MARK)
    block[start] |= np.uint32(_MARK)
    # For each walk: where in the room its bytes begin and end, and the row where it ended.
    walks = np.zeros((_MAX_WALKS + 1, 3), np.int64)
    _walk(block, start, step, num_walks, room, walks)
    size = 0
    walk = 0
    while size < num:
        at = walks[walk, 0]
        length = min(walks[walk, 1] - at, num - size)
        for index in range(length):
            text[size + index] = room[at + index]
        size += length
        row = walks[walk, 2]
        walk = 0 if row == start else row // step


@njit(cache=True, nogil=True)
def _walk(block, start, step, num_walks, room, walks):
    """Goes all walks, `LANES` of them side by side; each step would wait for memory alone."""
    states = np.zeros(LANES, np.uint64)  # of each lane: place in the room << 32 | next row
    numbers = np.zeros(LANES, np.int64)
    used = np.uint64(0)
    begun = 0
    for lane in range(LANES):
        begun = _next_walk(begun, start, step)
        if begun < num_walks:
            states[lane] = np.uint64(lane * MAX_BLOCK) << _WORD
            _begin(block, begun, start, step, room, walks, states, numbers, np.uint64(lane))
            used += _ONE
            begun += 1
    while used:
        lane = np.uint64(0)
        while lane < used:
            state = states[lane]
            entry = np.uint64(block[state & _ONES])
            at = state >> _WORD
            if entry < _MARK:
                room[at] = np.uint8(entry & _BYTE)
                states[lane] = (at + _ONE) << _WORD | entry >> _EIGHT
                lane += _ONE
                continue
            walks[numbers[lane], 1] = at
            walks[numbers[lane], 2] = state & _ONES
            begun = _next_walk(begun, start, step)
            if begun < num_walks:
                _begin(block, begun, start, step, room, walks, states, numbers, lane)
                begun += 1
                lane += _ONE
            else:
                used -= _ONE
                states[lane] = states[used]
                numbers[lane] = numbers[used]


@njit(cache=True, nogil=True)
def _next_walk(begun, start, step):
    """Returns the next walk: not the one that would begin where walk 0 does."""
    return begun + 1 if begun and begun * step == start else begun


@njit(cache=True, nogil=True)
def _begin(block, walk, start, step, room, walks, states, numbers, lane):
    """Takes the first step of a walk, whose row has the mark that ends the others."""
    entry = np.uint64(block[walk * step if walk else start]) & ~_MARK
    at = states[lane] >> _WORD
    room[at] = np.uint8(entry & _BYTE)
    states[lane] = (at + _ONE) << _WORD | entry >> _EIGHT
    numbers[lane] = walk
    walks[walk, 0] = at


@njit(cache=True, nogil=True)
def expand(text, num, out):
    """Undoes the runs of equal bytes; returns the bytes written, -1 if that cannot be right."""
    size = 0
    at = 0
    while at < num:
        # Looks for four equal bytes by the last of them, with steps as long as what it sees allows.
        last = at + 3
        while last < num:
            if text[last] != text[last - 1]:
                last += 3
            elif text[last - 1] != text[last - 2]:
                last += 2
            elif text[last - 2] != text[last - 3]:
                last += 1
            else:
                break
        is_run = last < num
        length = (last + 1 if is_run else num) - at
        more = 0
        if is_run:
            if last + 1 == num:
                return -1
            more = np.int64(text[last + 1])
        if size + length + more > out.size:
            return -1
        for index in range(length):
            out[size + index] = text[at + index]
        size += length
        for index in range(more):
            out[size + index] = text[last]
        size += more
        at += length + 1 if is_run else length
    return size


@njit(cache=True, nogil=True)
def checksum(data, size, tables):
    """Returns the checksum of the first `size` bytes, eight at a time."""
    crc = _ONES
    whole = size // 8 * 8
    for at in range(0, whole, 8):
        crc ^= (
            np.uint64(data[at]) << _TOP
            | np.uint64(data[at + 1]) << _SIXTEEN
            | np.uint64(data[at + 2]) << _EIGHT
            | np.uint64(data[at + 3])
        )
        crc = (
            tables[7, crc >> _TOP]
            ^ tables[6, crc >> _SIXTEEN & _BYTE]
            ^ tables[5, crc >> _EIGHT & _BYTE]
            ^ tables[4, crc & _BYTE]
            ^ tables[3, np.uint64(data[at + 4])]
            ^ tables[2, np.uint64(data[at + 5])]
            ^ tables[1, np.uint64(data[at + 6])]
            ^ tables[0, np.uint64(data[at + 7])]
        )
    for at in range(whole, size):
        crc = (crc << _EIGHT & _ONES) ^ tables[0, crc >> _TOP ^ np.uint64(data[at])]
    return np.int64(crc ^ _ONES)
