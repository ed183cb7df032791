"""Private data: what is masked, what is public and stays, and that twice is once."""

import os
import re
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm.corpus import private
from chatlm.corpus.normalize import normalize
from chatlm.corpus.private import mask
from tests.corpus.private_strings import NEGATIVE, POSITIVE, Labelled, labelled

PER_KIND = 140 * (20 if os.environ.get("CHATLM_TORTURE") else 1)
PLACEHOLDER = re.compile("\\[(?:手机号|座机号|身份证号|银行卡号|邮箱|QQ号|微信号|车牌号|IP地址)\\]")
NOISY = st.text(
    st.one_of(
        st.sampled_from("0123456789１３８"),
        st.sampled_from(" .-:：@＠()+京A号是QqVvx微信加电话元版本=/[]，。\\n"),
        st.sampled_from("一二abcdefXx"),
    ),
    max_size=60,
)
NUMBERS = st.lists(
    st.one_of(
        st.from_regex(r"[0-9]{1,4}[-. ]?", fullmatch=True),
        st.sampled_from(
            (
                *("13812345678", "010-62345678", "QQ", "微信：", "abc_1234", "@qq.com", "京A12345"),
                *("元", "58.30.12.113", "、", "电话", "6222021234567890", "110101199003077758"),
                *("[座机号]", "V：", "Q:", "2408:8207:1850:2a1b::1234", "+86 ", "转", "号"),
            )
        ),
    ),
    max_size=8,
).map("".join)


@pytest.fixture(scope="module")
def strings() -> list[Labelled]:
    return labelled(seed=14, per_kind=PER_KIND)


def test_at_least_99_in_100_private_values_are_found_and_97_in_100_finds_are_right(strings):
    wanted, hit, right, made = (Counter[str]() for _ in range(4))
    for one in strings:
        found = Counter[str]()
        masked = mask(one.text, found)
        made.update(dict.fromkeys(found, 1))
        if one.kind:
            wanted[one.kind] += 1
            if one.value not in masked and found[one.kind]:
                hit[one.kind] += 1
                right[one.kind] += 1
    for kind in POSITIVE:
        print(f"{kind}: recall {hit[kind]}/{wanted[kind]}, precision {right[kind]}/{made[kind]}")
    assert len(strings) >= 2000
    assert hit.total() >= 0.99 * wanted.total()
    assert right.total() >= 0.97 * made.total()
    assert all(hit[kind] >= 0.95 * wanted[kind] for kind in POSITIVE)


def test_the_strings_are_half_with_and_half_without_private_data(strings):
    assert sum(not one.kind for one in strings) * 2 == len(strings)
    assert {one.family for one in strings if not one.kind} == set(NEGATIVE)


def test_masking_twice_is_masking_once_and_stable_under_normalize(strings):
    for one in strings:
        masked = mask(normalize(one.text))
        assert mask(masked) == masked
        assert normalize(masked) == masked


@settings(max_examples=300 * (30 if os.environ.get("CHATLM_TORTURE") else 1))
@given(st.one_of(NOISY, NUMBERS))
def test_any_text_is_masked_once_and_never_longer(text):
    text = normalize(text)
    masked = mask(text)
    assert mask(masked) == masked
    assert normalize(masked) == masked
    assert len(masked) <= len(text)


@settings(max_examples=300)
@given(st.one_of(NOISY, NUMBERS))
def test_what_lies_between_private_values_is_kept(text):
    parts = PLACEHOLDER.split(mask(text))
    at = 0
    for part in parts:
        at = text.index(part, at) + len(part)


def test_each_kind_is_counted_once_a_text():
    found = Counter[str]()
    assert mask("电话13812345678或13912345678", found) == "电话[手机号]或[手机号]"
    assert mask("没有号码", found) == "没有号码"
    assert found == {"mask_mobile": 1}


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("电话13812345678张先生", "电话[手机号]张先生"),
        ("邮箱zhang.wei@163.com谢谢", "邮箱[邮箱]谢谢"),
        ("老婆的身份证11010119900307775X挂失", "老婆的身份证[身份证号]挂失"),
        ("身份证号码：110101900307775", "身份证号码：[身份证号]"),
        ("电话：66174063,66174043", "电话：[座机号],[座机号]"),
        ("010-62345678/13812345678", "[座机号]/[手机号]"),
        ("“微信同号13812345678”", "“微信同号[微信号]”"),
        ("车牌京N8P8F8", "车牌[车牌号]"),
        ('{"ask": "你好\\n13812345678"', '{"ask": "你好\\n[手机号]"'),
    ],
)
def test_values_go_and_the_words_around_them_stay(text, masked):
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "打110、12315、12345、95588或400-810-1234",
        "共13812345678元",
        "圆周率3.13812345678",
        "版本10.20.30.401",
        "ping 127.0.0.1 和 192.168.100.101",
        "https://a.com/13812345678.html",
        "微信Android版",
        "苏州高新SCP003",
        "user@example.com",
        "110101900307775",
    ],
)
def test_what_is_public_or_no_number_of_a_person_stays(text):
    assert mask(text) == text


def quiet(text: str) -> bool:
    """Says whether the published conditions promise that no rule fires."""
    chain = re.compile(
        f"(?:[0-9０-９][{re.escape(private.DIGIT_GAPS)}]*){{{private.MIN_DIGITS - 1}}}[0-9０-９]"
    )
    return not (
        any(trigger in text for trigger in private.TRIGGERS)
        or any(sign in text for sign in private.AT_SIGNS)
        or chain.search(text)
        or re.search(":[0-9A-Za-z]{0,4}:", text)
    )


def test_every_labelled_string_that_is_masked_is_announced_by_a_trigger(strings):
    for one in strings:
        text = normalize(one.text)
        assert mask(text) == text or not quiet(text)


@settings(max_examples=300 * (30 if os.environ.get("CHATLM_TORTURE") else 1))
@given(st.one_of(NOISY, NUMBERS))
def test_no_rule_fires_on_a_quiet_text(text):
    if quiet(text):
        assert mask(text) == text
    raw = normalize(text)
    if quiet(raw):
        assert mask(raw) == raw


@pytest.mark.real_data
@pytest.mark.skipif(not os.environ.get("CHATLM_REAL_DATA"), reason="CHATLM_REAL_DATA is not set")
def test_no_rule_fires_on_a_quiet_real_text_and_none_twice():
    path = Path(os.environ["CHATLM_REAL_DATA"]) / "pairs_zh.parquet"
    step = 1 if os.environ.get("CHATLM_TORTURE") else 20
    for row in pq.read_table(path).to_pylist()[::step]:
        for raw in (row["prompt"], row["response"]):
            text = normalize(raw)
            masked = mask(text)
            assert mask(masked) == masked
            assert normalize(masked) == masked
            if masked != text:
                assert not quiet(text)
                assert not quiet(raw)
