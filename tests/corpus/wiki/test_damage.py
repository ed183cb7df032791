"""Damaged and hostile dumps: what is lost is said, what is not is kept, nothing is invented."""

import bz2
import os
import random
import sys

import pytest

from chatlm.corpus.reasons import DAMAGED
from chatlm.corpus.records import Record, Rejected
from chatlm.corpus.wiki import streams as unpacking
from chatlm.corpus.wiki.dump import read_pages, streams
from chatlm.errors import DataError

from .dumps import FOOTER, HEADER, found_in, packed, page, parts_of, write

CASES = 50 if os.environ.get("CHATLM_TORTURE") else 8
KINDS = ("cut", "flip", "junk_behind", "junk_between", "bomb", "lost_stream_end")


def damaged(content: bytes, starts: list[int], kind: str, draw: random.Random) -> tuple[int, bytes]:
    """Returns where the damage begins, and the damaged file."""
    at = draw.randrange(100, len(content) - 20)
    between = draw.choice(starts[1:])
    if kind == "cut":
        return at, content[:at]
    if kind == "flip":
        return at, content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
    if kind == "junk_behind":
        return len(content), content + draw.randbytes(50)
    if kind == "junk_between":
        return between, content[:between] + draw.randbytes(50) + content[between:]
    if kind == "bomb":
        return between, content[:between] + bz2.compress(bytes(30_000_000)) + content[between:]
    return between - 5, content[: between - 5] + content[between:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(CASES))
def test_no_damage_passes_silently_and_what_is_whole_is_kept(tmp_path, seed, kind):
    draw = random.Random(f"{kind}{seed}")
    padding = "".join(draw.choices("天地玄黃宇宙洪荒", k=200))
    content = packed(parts_of([draw.randint(1, 40) for _ in range(6)], padding))
    path = write(tmp_path / "d.xml.bz2", content)
    spans, before = streams(path), list(read_pages(path))
    at, bad = damaged(content, [span.start for span in spans], kind, draw)
    after = list(read_pages(write(path, bad)))
    texts = [one.fields for one in before if isinstance(one, Record)]
    kept = [one.fields for one in after if isinstance(one, Record)]
    lost = [one for one in after if isinstance(one, Rejected) and one.reason in DAMAGED]
    # A changed bit that means nothing (filling, block size) is no damage.
    assert lost or (kind == "flip" and kept == texts)
    assert [fields for fields in texts if fields in kept] == kept
    ends = max((span.end for span in spans if span.end <= at), default=0)
    whole = [one for one in before if one.position < ends]
    assert [one for one in after if isinstance(one, Record)][: len(whole)] == whole
    assert [one for span in streams(path) for one in read_pages(path, span)] == after


@pytest.mark.parametrize("seed", range(CASES))
def test_a_damaged_block_of_a_single_stream_gives_none_of_its_pages(tmp_path, seed):
    draw = random.Random(seed)
    texts = ["".join(draw.choices("春夏秋冬東南西北一二三四五六", k=400)) for _ in range(300)]
    articles = "".join(page(f"條目{number}", text) for number, text in enumerate(texts))
    content = bz2.compress(f"{HEADER}{articles}{FOOTER}".encode(), 1)
    path = write(tmp_path / "d.xml.bz2", content)
    before = list(read_pages(path))
    at = draw.randrange(len(content) // 2, len(content) - 20)
    after = list(read_pages(write(path, content[:at] + b"\0\xff\0\xff" + content[at + 4 :])))
    kept = [one for one in after if isinstance(one, Record)]
    assert kept == before[: len(kept)]
    assert len(kept) > 60
    reasons = [one.reason for one in after if isinstance(one, Rejected)]
    assert reasons in (["damaged_stream"], ["page_not_closed", "damaged_stream"])


def test_a_bomb_stops_at_its_cap(tmp_path):
    path = write(tmp_path / "d.bz2", bz2.compress(bytes(60_000_000)))
    (piece,) = [piece for piece in unpacking.pieces(path) if piece.damage]
    assert "bomb" in piece.damage
    sizes = [len(piece.data) for piece in unpacking.pieces(path)]
    assert sum(sizes) <= unpacking.MAX_SLACK_BYTES + 2**20 + unpacking.MAX_RATIO * 200


def test_a_file_that_ends_between_streams_is_not_whole(tmp_path):
    path = write(tmp_path / "d.xml.bz2", packed(parts_of([2])[:-1]))
    position = streams(path)[1].start + 2
    assert found_in(path)[-1] == (position, "damaged_stream")
    assert found_in(write(tmp_path / "d.xml", HEADER + page("甲", "乙")))[-1][1] == "damaged_stream"


DTD = {
    "doctype": "<!DOCTYPE mediawiki>",
    "laughs": "<!DOCTYPE m [<!ENTITY a 'ha'>"
    + "".join(f"<!ENTITY a{i} '{f'&a{i - 1};' * 10}'>" for i in range(1, 10))
    + "]>",
    "quadratic": f"<!DOCTYPE m [<!ENTITY a '{'x' * 100_000}'>]>",
    "external": "<!DOCTYPE m [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>",
    "entity_alone": "<!ENTITY % p SYSTEM 'http://example.org/x'>",
}


@pytest.mark.parametrize("name", DTD)
@pytest.mark.parametrize("place", ["before", "header", "page", "between", "end"])
@pytest.mark.parametrize("pack", [str.encode, lambda text: bz2.compress(text.encode())])
def test_a_document_type_is_refused_wherever_it_stands(tmp_path, name, place, pack):
    marks = dict.fromkeys(("before", "header", "page", "between", "end"), "") | {place: DTD[name]}
    xml = (
        f"<?xml version='1.0'?>{marks['before']}{HEADER}{marks['header']}"
        f"{page('甲', '乙&a9;').replace('<ns>', marks['page'] + '<ns>')}{marks['between']}"
        f"{page('丙', '丁')}{marks['end']}{FOOTER}"
    )
    with pytest.raises(DataError, match="declares a document type or entities"):
        found_in(write(tmp_path / "d.xml", pack(xml)))


def test_a_document_type_cut_by_two_pieces_is_seen(tmp_path):
    xml = HEADER + page("甲", "x" * 5) + "<!DOCT"
    path = write(tmp_path / "d.bz2", packed([xml, "YPE m>" + page("丙", "丁") + FOOTER]))
    with pytest.raises(DataError, match="declares a document type"):
        found_in(path)


def test_deep_and_unknown_elements_are_one_malformed_page(tmp_path):
    deep = page("甲", "DEEP").replace("DEEP", "<a>" * 100_000)
    path = write(tmp_path / "d.xml", HEADER + deep + page("丙", "丁") + FOOTER)
    assert found_in(path) == [(1, "malformed_page"), (2, "丙")]


def test_no_other_file_is_opened(tmp_path):
    xml = HEADER + page("甲", "&x; file:///etc/passwd") + FOOTER
    path = write(tmp_path / "d.xml", xml.replace("<mediawiki", "<mediawiki href='file:///etc/x'"))
    opened = list[object]()
    is_watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if is_watching and event in ("open", "os.open", "socket.connect"):
            opened.append(arguments[0])

    sys.addaudithook(watch)
    found = found_in(path)
    is_watching = False
    assert found == [(1, "甲")]
    assert {str(one) for one in opened} == {str(path)}
