"""Dumps: which pages are articles, and that spans of streams give what the whole file gives."""

import bz2
import os
import random

import pytest

from chatlm.corpus import readers
from chatlm.corpus.records import Record, Rejected
from chatlm.corpus.wiki import dump
from chatlm.corpus.wiki.dump import Span, grouped, read_pages, read_wikitext, streams
from chatlm.errors import DataError

from . import dumps
from .dumps import FOOTER, HEADER, found_in, packed, page, parts_of, write


def test_a_dump_is_known_by_its_first_bytes(tmp_path):
    for name, content in (("a.bz2", packed([HEADER])), ("b", HEADER), ("c", "<?xml ?>" + HEADER)):
        assert readers.layout_of(write(tmp_path / name, content)) == "dump"


@pytest.mark.parametrize(
    ("xml", "kind"),
    [
        (page("Re:從零", "是動畫。"), "Re:從零"),
        (page("AT&T", "是公司。"), "AT&T"),
        (page("Template:甲", "甲", ns=10), "other_namespace"),
        (page("旧", "#REDIRECT [[新]]", redirect="新"), "redirect"),
        (page("旧", " #重定向 [[新]]"), "redirect"),
        (page("舊", "#重新導向 [[新]]"), "redirect"),
        (page("井", "#是井號。"), "井"),
        (page("甲 (消歧義)", "甲是姓。"), "disambiguation"),
        (page("甲", "甲可以指：\n{{disambig|cat=人名}}"), "disambiguation"),
        (page("甲", "甲可以指：\n{{Dab}}"), "disambiguation"),
        (page("甲", "甲可以指：\n{{消歧義\n|cat=}}"), "disambiguation"),
        (page("甲", "{{需要消歧义|乙}}是地名。"), "甲"),
        ("<page><title>甲</title><id>1</id></page>", "malformed_page"),
        (page("甲", "乙").replace("<text", "<tekst"), "malformed_page"),
        (page("甲", "乙").replace("</text>", "<b></text>"), "malformed_page"),
        (page("甲", "乙").replace("乙", "\udcff"), "invalid_utf8"),
        (page("甲", "").replace(' xml:space="preserve"></text>', " />"), "甲"),
    ],
)
def test_every_page_is_an_article_or_has_a_reason(tmp_path, xml, kind):
    content = (HEADER + xml + FOOTER).encode("utf-8", "surrogateescape")
    assert found_in(write(tmp_path / "d.xml", content)) == [(1, kind)]


def test_only_the_entities_of_xml_are_decoded_and_only_once(tmp_path):
    xml = page("甲", "TEXT").replace("TEXT", "&amp;lt;&lt;&#39;&#x4E00;&#38;lt;&nbsp;&#0;&#xD800;")
    (record,) = read_wikitext(write(tmp_path / "d.xml", HEADER + xml + FOOTER))
    assert isinstance(record, Record)
    assert record.fields == {"title": "甲", "wikitext": "&lt;<'一&lt;&nbsp;\ufffd\ufffd"}


def test_a_page_that_does_not_end_costs_only_itself(tmp_path):
    cut = page("甲", "乙", 1).replace("</page>", "")
    path = write(
        tmp_path / "d.xml", HEADER + cut + "junk" + page("丙", "丁", 2) + "x" + cut + FOOTER
    )
    assert found_in(path) == [
        (1, "page_not_closed"),
        (2, "丙"),
        (2, "text_outside_page"),
        (3, "page_not_closed"),
    ]


def test_a_text_that_is_too_long_is_dropped_and_the_next_page_read(tmp_path, monkeypatch):
    monkeypatch.setattr(dump, "MAX_TEXT_BYTES", 1000)
    monkeypatch.setattr(dump, "_MAX_PAGE_BYTES", 3000)
    for length in (1001, 5000, 3_000_000):
        xml = page("甲", "a" * length) + page("丙", "丁", 2)
        path = write(tmp_path / "d.xml", HEADER + xml + FOOTER)
        assert found_in(path) == [(1, "text_too_long"), (2, "丙")]


def test_what_is_no_dump_is_refused(tmp_path):
    for name, content in (
        ("a.xml", "<?xml version='1.0'?><page></page>"),
        ("b.xml", "<html>" + "x" * 100_000),
        ("c.bz2", bz2.compress(b'{"a": 1}\n')),
    ):
        with pytest.raises(DataError, match="is no MediaWiki dump"):
            found_in(write(tmp_path / name, content))


def test_streams_are_found_by_their_marks(tmp_path):
    parts = parts_of([3, 100, 1])
    path = write(tmp_path / "d.xml.bz2", packed(parts))
    sizes = [len(bz2.compress(part.encode())) for part in parts]
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    assert [span.start for span in streams(path)] == starts
    assert [span.end for span in streams(path)] == [*starts[1:], sum(sizes)]
    assert grouped(streams(path), 10**9) == [Span(0, sum(sizes))]
    for name, content in (("one.bz2", bz2.compress("".join(parts).encode())), ("p.xml", HEADER)):
        plain = write(tmp_path / name, content)
        assert streams(plain) == [Span(0, plain.stat().st_size)]


def test_the_sign_of_a_stream_inside_a_stream_is_no_boundary(tmp_path):
    noise = random.Random(0).randbytes(100_000)
    inside = noise[:50_000] + b"BZh91AY&SY" + noise[50_000:]
    path = write(tmp_path / "d.bz2", bz2.compress(b"a") + inside + bz2.compress(b"b"))
    assert len(streams(path)) == 1


def test_positions_are_the_number_of_the_page_in_its_stream_after_its_offset(tmp_path):
    path = write(tmp_path / "d.xml.bz2", packed(parts_of([2, 2])))
    first, second = (span.start for span in streams(path)[1:3])
    assert found_in(path) == [
        (first + 1, "條目1"),
        (first + 2, "條目2"),
        (second + 1, "條目3"),
        (second + 2, "條目4"),
    ]


def cut_anywhere(seed: int) -> list[str]:
    """Returns a dump cut into streams without regard to its pages, some of them empty."""
    draw = random.Random(seed)
    text = HEADER + dumps.pages(1, 6) + "junk" + dumps.pages(7, 6) + FOOTER
    cuts = sorted(draw.choices(range(len(text)), k=12))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.mark.parametrize("seed", range(1000 if os.environ.get("CHATLM_TORTURE") else 25))
def test_spans_give_what_the_whole_file_gives_wherever_streams_end(tmp_path, seed):
    path = write(tmp_path / "d.xml.bz2", packed(cut_anywhere(seed)))
    whole = list(read_pages(path))
    assert sum(isinstance(one, Record) for one in whole) == 12
    for size in (0, 150, 400):
        spans = grouped(streams(path), size)
        assert [one for span in spans for one in read_pages(path, span)] == whole
    positions = [one.position for one in whole if isinstance(one, Record)]
    assert positions == sorted(set(positions))


def test_a_large_stream_of_many_blocks_is_read_to_its_end(tmp_path):
    draw = random.Random(1)
    padding = "".join(draw.choices("一二三四五六七八九十百千", k=3000))
    text = "".join(parts_of([400], padding))
    path = write(tmp_path / "d.xml.bz2", bz2.compress(text.encode(), 1))
    found = list(read_pages(path))
    assert [one.position for one in found] == list(range(1, 401))
    assert not any(isinstance(one, Rejected) for one in found)
