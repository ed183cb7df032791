"""Our kernels read bzip2 as the library does, and refuse what it refuses."""

import bz2
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from chatlm.corpus.wiki.blocks import Refused, Streams
from chatlm.corpus.wiki.streams import pieces

FACTOR = 20 if os.environ.get("CHATLM_TORTURE") else 1


def runs(draw: random.Random) -> bytes:
    """Returns runs around the lengths at which the format changes how it writes them."""
    lengths = (1, 2, 3, 4, 5, 6, 253, 254, 255, 256, 258, 259, 260, 263, 1000)
    return b"".join(bytes([draw.randrange(4)]) * draw.choice(lengths) for _ in range(300))


CONTENTS: dict[str, Callable[[random.Random], bytes]] = {
    "empty": lambda draw: b"",
    "one": lambda draw: bytes([draw.randrange(256)]),
    "few": lambda draw: draw.randbytes(draw.randrange(2, 9)),
    "noise": lambda draw: draw.randbytes(draw.randrange(1, 300_000)),
    "two_values": lambda draw: bytes(draw.choices(b"ab", k=50_000)),
    "runs": runs,
    "one_run": lambda draw: b"x" * draw.choice([3, 4, 5, 255, 259, 260, 10_000]),
    "rare": lambda draw: bytes(draw.choices(range(256), [2.0**-n for n in range(256)], k=200_000)),
    "text": lambda draw: "".join(draw.choices("天地玄黃，宇宙洪荒。\n<page>", k=150_000)).encode(),
}


def read(path: Path) -> tuple[bytes, Refused | None]:
    """Returns what the kernels alone read, and where they stopped."""
    with path.open("rb") as file:
        steps, found = Streams(file).read(0), list[bytes]()
        while True:
            try:
                found.append(next(steps).data)
            except StopIteration as end:
                return b"".join(found), end.value


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("seed", range(2 * FACTOR))
def test_streams_of_any_content_are_read_as_they_were_written(tmp_path, name, seed):
    draw = random.Random(f"{name}{seed}")
    contents = [CONTENTS[name](draw) for _ in range(draw.randint(1, 10))]
    path = tmp_path / "x.bz2"
    path.write_bytes(b"".join(bz2.compress(one, draw.randint(1, 9)) for one in contents))
    assert read(path) == (b"".join(contents), None)


@pytest.mark.parametrize("seed", range(60 * FACTOR))
def test_changed_bytes_are_refused_and_what_was_read_before_is_right(tmp_path, seed):
    draw = random.Random(seed)
    name = draw.choice(["noise", "runs", "text", "few", "rare"])
    contents = [CONTENTS[name](draw)[:60_000] for _ in range(3)]
    packed = bytearray(b"".join(bz2.compress(one, 1) for one in contents))
    # The first three bytes stay: without them a file is no bzip2, but plain.
    for _ in range(draw.randint(1, 3)):
        packed[draw.randrange(3, len(packed))] ^= 1 << draw.randrange(8)
    is_cut = draw.random() < 0.3
    if is_cut:
        del packed[draw.randrange(3, len(packed)) :]
    path, whole = tmp_path / "x.bz2", b"".join(contents)
    path.write_bytes(packed)
    found, refused = read(path)
    assert whole.startswith(found)
    everything = list(pieces(path))
    assert all(piece.data in whole for piece in everything)
    joined = b"".join(piece.data for piece in everything)
    # Bits that mean nothing (filling, block size) can change; a file can end between streams.
    assert any(piece.damage for piece in everything) or joined == whole or is_cut
    assert refused or not any(piece.damage for piece in everything)


def test_a_stream_that_only_the_library_can_read_is_read_by_it(tmp_path):
    path = tmp_path / "x.bz2"
    # Its one block becomes larger than the buffer of the kernels.
    contents = [b"before" * 9, b"y" * 3_000_000, b"behind" * 9]
    path.write_bytes(b"".join(bz2.compress(one) for one in contents))
    found, refused = read(path)
    assert refused is not None
    assert found == contents[0]
    assert b"".join(piece.data for piece in pieces(path)) == b"".join(contents)


@pytest.mark.parametrize("bit", range(32))
@pytest.mark.parametrize("place", ["block", "stream"])
def test_no_wrong_checksum_is_accepted(tmp_path, place, bit):
    packed = bytearray(bz2.compress("天地玄黃".encode() * 100))
    # A block's checksum stands behind the 4 bytes of the header and its sign of 6; the stream's is
    # the last one, with up to 7 bits behind it to fill the byte.
    at = 13 * 8 - bit + 7 if place == "block" else len(packed) * 8 - 8 - bit
    packed[at // 8] ^= 1 << 7 - at % 8
    path = tmp_path / "x.bz2"
    path.write_bytes(packed)
    found, refused = read(path)
    assert refused == Refused(0, len(found))
    assert len(found) == (0 if place == "block" else 1200)
    assert [bool(piece.damage) for piece in pieces(path)][-1]
