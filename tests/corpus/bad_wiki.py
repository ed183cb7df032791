"""Hostile files of Wikipedia: every fault in each of the four forms in which it comes."""

import bz2
import html
import json
from collections.abc import Callable, Iterator

from .bad_rows import TEXTS, Item

TITLES = ("石拱桥", "蒲公英")
_BODY = "{}是一种常见的事物，在各地都能见到，人们很早就认识它，至今仍然常常提起它。"

_FAULTS: dict[str, bytes] = {
    "bytes": b"\xff\xfe\x80",
    "gb18030": "这一行的编码不对。".encode("gb18030"),
    "nul": b"\x00" * 100,
    "cesu": b"\xed\xa0\x80",
    "end": b"</doc>",
    "end_twice": b"</doc>\n</doc>\n</doc>",
    "open": '<doc id="9" url="u" title="断">'.encode(),
    "open_without_title": b'<doc id="9">',
    "open_with_quote": '<doc id="9" url="u" title="a"b">\n正文。\n</doc>'.encode(),
    "cr": "一\r二\r三".encode(),
    "colons": ":\n\n:\n\n::\n\n：\n".encode(),
    "tags": b"<b><i><!-- <ref>",
    "doctype": b'<!DOCTYPE a [<!ENTITY b "c">]>',
    "cdata": b"<![CDATA[ ]]>",
    "page": b"<page><title>x</title>",
    "page_end": b"</page></mediawiki>",
    "table": b"{| class=x\n|-\n| a || b\n" * 300,
    "templates": b"{{a|" * 3_000,
    "links": b"[[a|" * 3_000,
    "refs": b"<ref name=a>" * 3_000,
    "conversion": "-{zh-hans:甲;zh-hant:乙".encode() * 1_000,
    "math": b"<math>" * 2_000,
    "nowiki": b"<nowiki>" * 2_000,
    "headings": b"== a ==\n" * 2_000,
    "quotes": b"'" * 10_000,
    "comments": b"<!--" * 5_000,
    "magic": b"__NOTOC__" * 1_000,
    "files": b"[[File:a.jpg|thumb|" * 2_000,
    "redirect": "#REDIRECT [[甲]]".encode(),
    "entities": b"&lt;&#x110000;&nosuch;&#0;" * 100,
}


def items() -> Iterator[Item]:
    """Yields the hostile files."""
    for form, write in _FORMS.items():
        for number, text in enumerate(TEXTS):
            yield write(f"text/{number}", text.encode("utf-8", "surrogatepass"))
        for name, raw in _FAULTS.items():
            yield write(f"fault/{name}", raw)
            yield write(f"fault_line/{name}", b"\n" + raw + b"\n\n" + raw)
        for part in range(1, 6):
            whole = write("whole", b"x").content
            yield Item(
                f"zhwiki/{form}/cut/{part}",
                "zhwiki",
                write("cut", b"").file_name,
                whole[: len(whole) * part // 6],
                num_rows=0,
                is_file=True,
            )


def _attardi(name: str, fault: bytes) -> Item:
    good = [
        f'<doc id="{number}" url="u" title="{title}">\n{title}\n\n{_BODY.format(title)}\n\n</doc>\n'
        for number, title in enumerate(TITLES)
    ]
    bad = '<doc id="8" url="u" title="坏">\n坏\n\n'.encode() + fault + b"\n\n</doc>\n"
    content = good[0].encode() + bad + good[1].encode()
    return Item(f"zhwiki/attardi/{name}", "zhwiki", "wiki_00", content)


def _apertium(name: str, fault: bytes) -> Item:
    first, last = (f"\n{title}:\n{_BODY.format(title)}\n" for title in TITLES)
    content = first.encode() + "\n坏:\n".encode() + fault + b"\n" + last.encode()
    return Item(f"zhwiki/apertium/{name}", "zhwiki", "wiki.txt", content)


def _json(name: str, fault: bytes) -> Item:
    first, last = (
        json.dumps({"id": "1", "title": title, "text": f"{title}\n\n{_BODY.format(title)}"})
        for title in TITLES
    )
    text = fault.decode("utf-8", errors="surrogateescape")
    bad = json.dumps({"id": "2", "title": "坏", "text": text})
    return Item(f"zhwiki/json/{name}", "zhwiki", "wiki_00", f"{first}\n{bad}\n{last}\n".encode())


def _page(title: str, number: int, text: bytes) -> bytes:
    head = f"<page><title>{title}</title><ns>0</ns><id>{number}</id><revision><id>1</id>"
    return head.encode() + b'<text xml:space="preserve">' + text + b"</text></revision></page>\n"


def _dump(name: str, fault: bytes) -> Item:
    first, last = (
        _page(title, number, html.escape(_BODY.format(f"'''{title}'''")).encode())
        for number, title in enumerate(TITLES)
    )
    body = fault if name.startswith("fault") else html.escape(fault.decode()).encode()
    content = b"<mediawiki>\n" + first + _page("坏", 7, body) + last + b"</mediawiki>\n"
    # What looks like another page or the end of the dump inside a page is a broken file.
    is_file = any(mark in fault for mark in (b"<page>", b"</page>", b"<!DOCTYPE", b"</mediawiki"))
    return Item(
        f"zhwiki/dump/{name}",
        "zhwiki",
        "zhwiki-20260101-pages-articles-multistream.xml.bz2",
        bz2.compress(content, 1),
        is_file=is_file,
    )


_FORMS: dict[str, Callable[[str, bytes], Item]] = {
    "attardi": _attardi,
    "apertium": _apertium,
    "json": _json,
    "dump": _dump,
}
