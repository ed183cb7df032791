"""Keys and the split: stable, order-independent, without overlap."""

import os
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.corpus.conversation import opening, render
from chatlm.corpus.keys import (
    CODE_POINT,
    DROPPED,
    POINT,
    SPREAD,
    UNCERTAIN,
    fold_tables,
    folded,
    pair_digest,
    prose_key,
    stable_hash,
)
from chatlm.corpus.split import SplitSizes, assign


@pytest.mark.parametrize(
    ("left", "right"),
    [("你好！", "你好"), ("你 好", "你好"), ("Ａ，１", "A1"), ("“好”。", "好"), ("问：好", "问好")],
)
def test_marks_spaces_and_width_do_not_make_another_question(left, right):
    assert prose_key(left) == prose_key(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("甲借乙钱", "乙借甲钱"),
        ("1+1", "1-1"),
        ("3.14", "314"),
        ("12:30", "1230"),
        ("2*(3+4)", "2*3+4"),
        ("b−v色指数", "u−b色指数"),
        ("。", "！"),
    ],
)
def test_what_is_said_makes_another_question(left, right):
    assert prose_key(left) != prose_key(right)


def test_hashes_are_the_same_for_ever():
    assert stable_hash("你好") == 15910808664728542293
    assert stable_hash("你好", seed=1) == 5159881176027849301
    assert pair_digest("问题", "答案").hex() == "67876c474316c9a4c4614833d84639d9"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好，World！", "你好world"),
        ("（一）第１章：3.14％", "一第1章3.14%"),
        ("12:30，1,000元…", "12:30,1,000元"),
        ("a != b && c++", "a=b&&c++"),
        ("空白____处", "空白处"),
        ("①℃½𠮷É", "1c1⁄2𠮷é"),
        ("。", ""),
        ("😀", ""),
    ],
)
def test_the_folded_text_is_this(text, expected):
    assert folded(text) == expected


def test_the_tables_say_of_every_character_what_the_functions_say():
    tables = fold_tables()
    step = 1 if os.environ.get("CHATLM_TORTURE") == "1" else 61
    for code in [*range(0x3000), *range(0x3000, 0x110000, step), *range(0xFE00, 0x10000)]:
        entry = int(tables.key[code])
        if 0xD800 <= code < 0xE000 or entry & UNCERTAIN:
            continue
        key, low = prose_key(chr(code)), folded(chr(code))
        if entry & SPREAD:
            start = (entry & CODE_POINT) + 1
            narrow = "".join(map(chr, tables.spread[start : start + tables.spread[start - 1]]))
            assert prose_key(narrow) == key
        elif entry & (DROPPED | POINT):
            assert prose_key(f"a{chr(code)}a") == "aa"
            assert (prose_key(f"1{chr(code)}1") == "11") == bool(entry & DROPPED)
            assert low == ""
        else:
            assert (chr(entry & CODE_POINT), low) == (key, chr(tables.low[entry]).strip("\0"))


GROUPS = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60)


@given(GROUPS, st.integers(0, 30), st.integers(0, 30))
def test_a_group_is_never_in_two_parts_and_the_sizes_are_kept(values, num_valid, num_test):
    groups = np.array([value // 3 * 3 for value in values], dtype=np.uint64)
    parts = assign(groups, num_valid, num_test)
    assert (parts == 1).sum() <= num_valid
    assert (parts == 2).sum() <= num_test
    for value in set(groups.tolist()):
        assert len(set(parts[groups == value].tolist())) == 1


@given(GROUPS, st.randoms())
def test_the_part_of_a_row_does_not_depend_on_the_order_of_the_rows(values, rng: random.Random):
    groups = np.array(values, dtype=np.uint64)
    order = list(range(len(values)))
    rng.shuffle(order)
    assert (assign(groups[order], 3, 3) == assign(groups, 3, 3)[order]).all()


def test_the_held_out_sizes_are_reached():
    groups = np.array([stable_hash(str(number // 2)) for number in range(10_000)], dtype=np.uint64)
    parts = assign(groups, 100, 50)
    assert np.bincount(parts).tolist() == [9_850, 100, 50]


def test_a_question_with_very_many_answers_is_not_held_out():
    groups = np.array([0] * 900 + list(range(1, 101)), dtype=np.uint64)
    assert np.bincount(assign(groups, 50, 0), minlength=3).tolist() == [950, 50, 0]


def test_small_data_holds_out_one_percent_and_large_data_so_many_rows():
    assert SplitSizes().rows(100_000) == (1_000, 1_000)
    assert SplitSizes().rows(10_000_000) == (25_000, 25_000)
    assert SplitSizes(valid_rows=10, test_rows=20, max_percent=50).rows(1_000) == (10, 20)


def test_a_rendered_conversation_is_this_picture():
    assert render([], "你好") == "你好"
    assert render([("你好", "您好！"), ("一\n二", "三")], "再见") == (
        "用户：你好\n助手：您好！\n用户：一\n二\n助手：三\n用户：再见\n助手："
    )
    assert opening("用户：只是文字") == "用户：只是文字"


@given(st.lists(st.tuples(st.text("一二\n"), st.text("三四\n")), min_size=1, max_size=3))
def test_the_opening_of_a_conversation_is_its_first_question(turns):
    assert opening(render(turns, "问")) == turns[0][0]
