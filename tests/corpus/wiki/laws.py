"""What must hold for any bytes that claim to be a dump, a wikitext or an extractor's output.

Used by the fuzzer and by the test that replays its corpus. The first byte says what the rest is.
"""

import bz2
from pathlib import Path

from chatlm.corpus.convert import zhwiki
from chatlm.corpus.read_wiki import read_apertium, read_attardi
from chatlm.corpus.reasons import REASONS
from chatlm.corpus.records import Read, Record, Rejected
from chatlm.corpus.wiki import wikitext
from chatlm.corpus.wiki.dump import grouped, read_pages, streams
from chatlm.errors import DataError

from .dumps import FOOTER, HEADER, page

LEAD_LIMIT = 4 * wikitext.ENOUGH_CHARS


def check(data: bytes, folder: Path) -> None:
    """Reads `data` as the kind that its first byte names; raises where a law is broken."""
    kind, rest = data[:1], data[1:]
    path = folder / "input"
    if kind == b"w":
        _check_article(rest.decode("utf-8", "replace"))
        return
    if kind == b"p":
        text = rest.decode("utf-8", "ignore")
        rest = (HEADER + page("甲", text) + FOOTER).encode()
    elif kind == b"z":
        rest = bz2.compress(HEADER.encode()) + rest
    elif kind == b"s":
        rest = b"".join(bz2.compress(part) for part in rest.split(b"\0"))
    path.write_bytes(rest)
    if kind == b"a":
        _check_read(read_attardi(path))
    elif kind == b"t":
        _check_read(read_apertium(path))
    else:
        _check_dump(path)


def _check_dump(path: Path) -> None:
    try:
        whole = _check_read(read_pages(path))
        parts = [one for span in grouped(streams(path), 64) for one in read_pages(path, span)]
    except DataError:
        return
    texts = [one.fields for one in whole if isinstance(one, Record)]
    assert texts == [one.fields for one in parts if isinstance(one, Record)]


def _check_read(found: Read) -> list[Record | Rejected]:
    everything = list(found)
    for one in everything:
        if isinstance(one, Record):
            converted = zhwiki(one.fields)
            if isinstance(converted, str):
                assert converted in REASONS
            else:
                assert not wikitext.has_markup(converted[0].response)
        else:
            assert one.reason in REASONS
    return everything


def _check_article(text: str) -> None:
    found = wikitext.lead(text)
    assert len(found) <= LEAD_LIMIT
    found.encode()
    zhwiki({"title": text[:20], "wikitext": text})
    zhwiki({"title": text[:20], "text": text})
