"""Many pages at once give what each gives alone."""

import os
import random
from pathlib import Path

import pytest

from chatlm.corpus.convert import zhwiki
from chatlm.corpus.records import Record, Rejected
from chatlm.corpus.wiki import variants
from chatlm.corpus.wiki.dump import read_pages, read_wikitext
from chatlm.corpus.wiki.escapes import unescaped, unescaped_beginning

from .dumps import FOOTER, HEADER, page, write

FACTOR = 20 if os.environ.get("CHATLM_TORTURE") else 1
# Characters and words whose conversion depends on what stands beside them, and what ends a text.
PIECES = (
    *("乾", "乾隆", "乾淨", "著", "顯著", "沿著", "著作", "發", "頭髮", "發展", "后", "皇后", "後"),
    *("面", "麵", "里", "裡", "公里", "徵", "象徵", "餘", "剩餘", "於", "於是", "瞭", "瞭解", "鍾"),
    *("。", "，", "「", "」", "\n", " ", "　", "\x00", "\x1f", "\ue000", "𠮷", "e\u0301", "A", "7"),
    *("（", "）", "（，", "()", "_", "&amp;", "&#1;", "-{zh-cn:甲;zh-tw:乙}-", "formula_1", "某"),
)


def text_of(draw: random.Random, pieces: tuple[str, ...] = PIECES) -> str:
    return "".join(draw.choices(pieces, k=draw.randrange(12)))


@pytest.mark.parametrize("seed", range(20 * FACTOR))
def test_texts_converted_together_are_what_each_is_alone(seed):
    draw = random.Random(seed)
    texts = [text_of(draw) for _ in range(draw.randrange(300))]
    assert variants.simplified_all(texts) == [variants.simplified(text) for text in texts]
    pages = [(text_of(draw), text_of(draw)) for _ in range(50)]
    assert variants.clean_texts(pages) == [variants.clean_text(*one) for one in pages]


def test_words_do_not_reach_from_one_text_to_the_next():
    assert variants.simplified_all(["乾", "隆", "乾隆", "沿", "著", "沿著路", ""]) == [
        *("干", "隆", "乾隆", "沿", "著", "沿着路", "")
    ]


def test_a_text_that_has_the_separator_is_converted_as_well():
    texts = ["乾隆\x01發展", "頭髮", "\x01"]
    assert variants.simplified_all(texts) == ["乾隆\x01发展", "头发", "\x01"]


@pytest.mark.parametrize("seed", range(20 * FACTOR))
def test_the_beginning_of_an_escaped_text_is_the_beginning_of_the_decoded_text(seed):
    draw = random.Random(seed)
    pieces = (
        "&lt;",
        "&amp;",
        "&amp;lt;",
        "&",
        "&#39;",
        "&#x10FFFF;",
        "&quo",
        "t;",
        "&a",
        "甲",
        "乙丙",
    )
    for _ in range(50):
        used = tuple(draw.sample(pieces, draw.randint(1, len(pieces))))
        text = "".join(draw.choices(used, k=draw.randrange(60)))
        whole, size = unescaped(text), draw.randrange(1, 40)
        assert unescaped_beginning(text, size) == (whole[:size], len(whole) <= size)


MARKS = (
    *("'''甲'''是", "[[乙|丙]]", "{{lang-en|Thing}}", "<ref>註</ref>", "-{zh-hans:里;zh-hant:裡}-"),
    *("。", "\n", "\n\n", "\n== 節 ==\n", "{{Infobox\n| a = b\n}}", "<math>a</math>", "發展的乾隆"),
    *("[[Category:丁]]", "{{", "]]", "<!-- 註 -->", "&nbsp;", "* 項", "（，）", "沿著 路", "\x01"),
)


def converted(found: Record | Rejected) -> tuple[int, object]:
    """Returns the position, and what becomes of the page: examples or the reason."""
    if isinstance(found, Rejected):
        return found.position, found.reason
    return found.position, zhwiki(found.fields)


def dump_of(draw: random.Random, path: Path) -> Path:
    texts = [text_of(draw, MARKS) * draw.choice([1, 1, 5, 300]) for _ in range(40)]
    pages = "".join(page(f"{text_of(draw)}{n}", text, n) for n, text in enumerate(texts))
    return write(path, HEADER + pages + FOOTER)


@pytest.mark.parametrize("seed", range(10 * FACTOR))
def test_the_reader_of_dumps_gives_what_the_wikitext_gives(tmp_path, seed):
    path = dump_of(random.Random(seed), tmp_path / "d.xml")
    found = [converted(one) for one in read_pages(path)]
    assert found == [converted(one) for one in read_wikitext(path)]
    assert len(found) == 40


def test_a_page_that_lost_its_text_to_a_formula_says_so(tmp_path):
    xml = HEADER + page("圓", "<math>a</math>是圓。") + page("空", "") + FOOTER
    lost, empty = read_pages(write(tmp_path / "d.xml", xml))
    assert isinstance(lost, Rejected)
    assert (lost.position, lost.reason, lost.excerpt) == (1, "lost_formula", "圆\nformula_1是圓。")
    assert converted(empty) == (2, "empty_article")
