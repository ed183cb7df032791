"""Small made-up dumps for tests: pages, streams, and whatever is wrong with them."""

import bz2
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from chatlm.corpus.records import Record, Rejected
from chatlm.corpus.wiki.dump import read_wikitext

HEADER = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="zh">\n'
    "  <siteinfo>\n    <sitename>Wikipedia</sitename>\n    <dbname>zhwiki</dbname>\n"
    '    <namespaces>\n      <namespace key="0" case="first-letter" />\n    </namespaces>\n'
    "  </siteinfo>\n"
)
FOOTER = "</mediawiki>\n"


def page(title: str, text: str, number: int = 1, ns: int = 0, redirect: str = "") -> str:
    """Returns the XML of one page."""
    target = f'    <redirect title="{escape(redirect)}" />\n' if redirect else ""
    escaped = escape(text, {'"': "&quot;"})
    return (
        f"  <page>\n    <title>{escape(title)}</title>\n    <ns>{ns}</ns>\n    <id>{number}</id>\n"
        f"{target}    <revision>\n      <id>{number * 7}</id>\n      <contributor>\n"
        f"        <username>甲</username>\n        <id>3</id>\n      </contributor>\n"
        f'      <text bytes="{len(text.encode())}" xml:space="preserve">{escaped}</text>\n'
        "      <sha1>x</sha1>\n    </revision>\n  </page>\n"
    )


def pages(start: int, count: int, padding: str = "") -> str:
    """Returns `count` articles whose titles and texts carry their numbers."""
    numbers = range(start, start + count)
    return "".join(page(f"條目{n}", f"'''條目{n}'''是第{n}個條目。{padding}", n) for n in numbers)


def packed(parts: Iterable[str]) -> bytes:
    """Returns one bzip2 stream for each part."""
    return b"".join(bz2.compress(part.encode()) for part in parts)


def parts_of(counts: Sequence[int], padding: str = "") -> list[str]:
    """Returns header, streams of so many pages, and footer."""
    starts = [1 + sum(counts[:at]) for at in range(len(counts))]
    bodies = [pages(start, count, padding) for start, count in zip(starts, counts, strict=True)]
    return [HEADER, *bodies, FOOTER]


def write(path: Path, content: bytes | str) -> Path:
    """Returns `path` after writing to it."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def found_in(path: Path) -> list[tuple[int, str]]:
    """Returns position and title or reason of all that is found in a dump."""
    return [short(one) for one in read_wikitext(path)]


def short(one: Record | Rejected) -> tuple[int, str]:
    """Returns position and title or reason."""
    return one.position, str(one.fields["title"]) if isinstance(one, Record) else one.reason
