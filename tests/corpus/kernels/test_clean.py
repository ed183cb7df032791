"""The compiled loops of cleaning give what the functions on rows give."""

import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from chatlm.corpus import filters, private
from chatlm.corpus.convert import question
from chatlm.corpus.kernels import finishing, joining, normalizing, triggers
from chatlm.corpus.kernels.characters import REPEATS, UNSURE, classes, folds
from chatlm.corpus.kernels.utf8 import decode, encode
from chatlm.corpus.keys import prose_key
from chatlm.corpus.normalize import RULES, decode_html

EXAMPLES = 20_000 if os.environ.get("CHATLM_TORTURE") else 300

# Letters, digits, marks that repeat, blanks, line ends, brackets, markup: what the rules look at.
NOISY = st.text(
    "中文字ab19。。！！？？，，、；～…——!!??..~~ \t\u3000\xa0\n\n\r\x0b\u2028\u200b\x07"
    "“”‘’（）()《》「」：-*•·[]{}<&;/",
    max_size=60,
)
EXTRA = st.characters(exclude_categories=["Cs"], max_codepoint=0x31FFF)
TEXTS = st.one_of(NOISY, st.text(st.one_of(EXTRA, st.sampled_from("中。! \n")), max_size=20))


def points_of(text: str) -> tuple[NDArray[np.int32], int, int, bool]:
    """Returns the code points of a text with room behind them, and what `decode` says of them."""
    data = np.frombuffer(text.encode() + b"\0", np.uint8)
    points = np.zeros(len(text) + 64, np.int32)
    num, seen, repeated = decode(data, 0, len(data) - 1, classes(), points, 0)
    return points, num, seen, repeated


def text_of(points: NDArray[np.int32], num: int) -> str:
    return "".join(map(chr, points[:num].tolist()))


@settings(max_examples=EXAMPLES, deadline=None)
@given(TEXTS)
def test_bytes_become_code_points_and_bytes_again(text: str) -> None:
    points, num, _, repeated = points_of(text)
    assert text_of(points, num) == text
    out = np.zeros(len(text.encode()) + 8, np.uint8)
    end = encode(points, 0, num, out, 0)
    assert out[:end].tobytes() == text.encode()
    marks = [a for a, b in pairwise(text) if a == b and ord(a) < 0x32000]
    assert repeated == any(classes()[ord(mark)] & REPEATS for mark in marks)


@settings(max_examples=3 * EXAMPLES, deadline=None)
@given(TEXTS)
def test_the_rules_of_normalize_change_the_same_and_say_the_same(text: str) -> None:
    points, num, seen, repeated = points_of(text)
    if seen & UNSURE:
        return
    left, changed = normalizing.normalize(points, num, seen, repeated, classes())
    wanted = 0
    for bit, (_, rule) in enumerate(RULES):
        result = rule(text)
        wanted |= (result != text) << bit
        text = result
    assert text_of(points, left) == text
    assert changed == wanted


@pytest.mark.parametrize(
    "text", ["e\u0301", "\u1100\u1161", "\u212b", "\ufa10", "\U000e0041", "가\u11a8"]
)
def test_a_text_that_may_not_be_composed_is_left_to_unicodedata(text: str) -> None:
    assert points_of(text)[2] & UNSURE


@settings(max_examples=3 * EXAMPLES, deadline=None)
@given(NOISY, st.integers(1, 40), st.one_of(st.none(), st.integers(1, 30)))
def test_finish_cuts_where_the_filter_cuts(text: str, most: int, unended: int | None) -> None:
    text = text.replace("\r", "").strip()
    points, num, _, _ = points_of(text)
    kept = finishing.finish(points, num, most, -1 if unended is None else unended, classes())
    wanted = filters.finish(text, most, unended)
    if kept != finishing.UNDECIDED:
        assert (None if kept == finishing.CUT_OFF else text[:kept]) == wanted


def test_finish_decides_ordinary_long_answers() -> None:
    text = "先烧水，再下面。" * 20 + "\n1. 加盐\n2. 加油"
    points, num, _, _ = points_of(text)
    kept = finishing.finish(points, num, 100, 50, classes())
    assert text[:kept] == filters.finish(text, 100, 50) == "先烧水，再下面。" * 12


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(TEXTS)
def test_the_prose_key_of_code_points_is_the_prose_key(text: str) -> None:
    points, num, _, _ = points_of(text)
    key = np.zeros(3 * len(text) + 8, np.int32)
    length = joining.prose_key(points, 0, num, classes(), folds(), key)
    if length != joining.UNDECIDED:
        assert text_of(key, length) == prose_key(text)


def test_the_prose_key_keeps_what_stands_between_digits() -> None:
    for text in ("圆周率是3.14。", "１２：３０开会", "3..5", "a.5", "五…六", "ＡＢＣ，１，０００"):
        points, num, _, _ = points_of(text)
        key = np.zeros(64, np.int32)
        length = joining.prose_key(points, 0, num, classes(), folds(), key)
        assert text_of(key, length) == prose_key(text)


TITLES = st.one_of(
    st.sampled_from(
        ["", "无", "None", "nan", "NaN", "null", "怎么办？", "怎么办", " 3.14 是什么", "是什么"]
    ),
    st.text("怎么办是什3.14？，。 \u3000A", max_size=10),
)


@settings(max_examples=2 * EXAMPLES, deadline=None)
@given(TITLES, TITLES)
def test_title_and_detail_are_joined_as_on_rows(title: str, detail: str) -> None:
    points, num, _, _ = points_of(title + detail)
    out, key, other = (np.zeros(64, np.int32) for _ in range(3))
    length = joining.join_question(points, len(title), num, classes(), folds(), key, other, out)
    if length != joining.UNDECIDED:
        wanted = question({"title": title, "detail": detail}, "title", "detail")
        assert text_of(out, length) == wanted


HTML = st.lists(
    st.sampled_from(
        [
            "<br>",
            "<BR />",
            "<br/",
            "</p>",
            "<p>",
            "<P>",
            "<",
            " ",
            "\n",
            "字",
            "& ",
            "&",
            "R&D",
            "&lt",
            "&lt;",
            "&gt;",
            "&quot;",
            "&#39;",
            "&amp;",
            "lt;",
        ]
    )
).map("".join)


@settings(max_examples=EXAMPLES, deadline=None)
@given(HTML)
def test_break_tags_become_line_ends_as_on_rows(text: str) -> None:
    points, num, _, _ = points_of(text)
    length = joining.decode_html(points, num, classes())
    if length != joining.UNDECIDED:
        assert text_of(points, length) == decode_html(text)


def test_an_entity_is_left_to_the_html_module() -> None:
    points, num, _, _ = points_of("a&copy;b")
    assert joining.decode_html(points, num, classes()) == joining.UNDECIDED


def test_a_string_is_found_where_it_matters_whatever_its_case() -> None:
    strings = {"WeChat": triggers.IN_PROMPT, "谢邀": triggers.AT_START, "@": triggers.IN_PROMPT}
    index = triggers.index(strings)

    def found(text: str, places: int) -> list[int]:
        points, num, _, _ = points_of(text)
        return [i for i in range(num) if triggers.begins(points, i, num, index, places)]

    assert found("加wechat或WECHAT", triggers.IN_PROMPT) == [1, 8]
    assert found("加wechat", triggers.IN_ANSWER) == []
    assert found("谢邀。", triggers.AT_START) == [0]
    assert found("谢", triggers.AT_START) == []
    assert found("a@b", triggers.IN_PROMPT) == [1]
    assert found("a@b", triggers.IN_ANSWER) == []
    table = triggers.mark(strings)
    marked = {chr(point) for point in np.flatnonzero(table != classes())}
    assert marked == {"谢", "@"}
    pairs = [triggers.pair_of(ord(pair[0]), ord(pair[1])) for pair in ("we", "WE", "wE", "谢邀")]
    assert index.pairs[pairs].all()
    assert index.pairs.sum() <= 5


def test_no_mask_fires_on_few_digits_without_a_word_before() -> None:
    """What `columns` relies on: under ten digits only IPv4, and local numbers after a word."""
    rng = np.random.default_rng(7)
    before, after = ["号码", "编号是", "在", "约", "+", ""], ["", "。", "元"]
    gaps = ["", "", "", "-", " ", ".", "(", ")", "（", "—"]
    for _ in range(EXAMPLES * 10):
        num = int(rng.integers(7, 10))
        digits = [str(rng.integers(10)) + gaps[rng.integers(len(gaps))] for _ in range(num)]
        number = "".join(digits)
        if number.count(".") < 3:
            text = f"{rng.choice(before)}{number}{rng.choice(after)}"
            assert private.mask(text) == text
