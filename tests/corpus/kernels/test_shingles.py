"""Compiled folding, 3-grams and links: the same as their definitions in Python."""

import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm.corpus.conversation import render
from chatlm.corpus.duplicates.settings import DuplicateSettings
from chatlm.corpus.duplicates.signing import fold_row, sign
from chatlm.corpus.kernels import candidates, linking, shingles
from chatlm.corpus.kernels.alike import MILLION
from chatlm.corpus.kernels.minhash import lower, permutations
from chatlm.corpus.kernels.texts import Texts
from chatlm.corpus.keys import folded
from tests.corpus.duplicates.reference import grams, jaccard, only_numbers_differ

TIMES = 20 if os.environ.get("CHATLM_TORTURE") == "1" else 1
NOTHING = candidates.pair_set(np.empty((0, 2), np.int64))
_PIECES = [
    *"甲乙，。：.,:;!１2９aＡ 　\n…—·~～(（_*%±😀é가𠮷℃½⒈㎏ﷺﾞかİß",
    *("\u0301", "\u11a8", "\u200b", "\U0002f800", "\U000e0100", "用户：", "\n助手："),
]
NASTY = st.lists(st.sampled_from(_PIECES) | st.characters(codec="utf-8"), max_size=12).map("".join)


def as_signed(rows):
    prompts, responses = (Texts.from_strings(column) for column in zip(*rows, strict=True))
    return sign(prompts, responses, DuplicateSettings())


def utf16(text):
    return np.frombuffer(text.encode("utf-16-le"), np.uint16)


@settings(max_examples=150 * TIMES, deadline=None)
@given(st.lists(st.tuples(NASTY, NASTY), min_size=1, max_size=6))
def test_compiled_folding_is_what_the_definitions_say(rows):
    rows = [*rows, (render(rows, rows[0][1]), "答")]
    signed = as_signed(rows)
    for number, row in enumerate(rows):
        expected = fold_row(*row)
        units = signed.units[signed.ends[number] : signed.ends[number + 1]]
        assert units.tolist() == expected.units.tolist()
        assert tuple(signed.spans[number].tolist()) == expected.span
        found = (*signed.digests[number], signed.questions[number])
        assert found == expected.hashes


def test_the_question_of_a_conversation_is_the_same_as_when_it_stands_alone():
    question = "河里有几条𠮷鱼？"
    signed = as_signed([(question, "一"), (render([(question, "二")], "然后呢"), "三")])
    assert signed.questions[0] == signed.questions[1]
    assert (signed.question_keys[:, 0] == signed.question_keys[:, 1]).all()
    start = signed.ends[1] + signed.spans[1, 0]
    units = signed.units[start : start + len(utf16(folded(question)))]
    assert units.tolist() == utf16(folded(question)).tolist()


def test_only_texts_of_three_characters_and_more_are_signed():
    rows = [("", ""), ("你好", ""), ("你", "好"), ("你好", "吗"), ("你好吗", ""), ("??", "!!!")]
    assert as_signed(rows).long_enough.tolist() == [0, 0, 0, 1, 3, 0]


@given(st.text(min_size=3, max_size=20))
def test_packed_grams_are_as_different_as_the_grams(text):
    units = utf16(text)
    points, packed = np.empty(len(units), np.uint64), np.empty(len(units), np.uint64)
    size = shingles.pack(points, shingles.code_points(units, 0, len(units), points, 0), packed)
    assert size == len(text) - 2
    slots = shingles.table_size(size)
    table, stamps = np.empty(slots, np.uint64), np.zeros(slots, np.int32)
    distinct = shingles.enter(packed, 0, size, table, stamps, 1)
    assert distinct == len(set(packed[:distinct].tolist())) == len(grams(text))


ALIKE = st.text("甲乙1", min_size=3, max_size=40)


def linked(left, right, threshold, digits):
    texts = Texts.from_strings([left, right])
    units = np.concatenate([utf16(left), utf16(right)])
    ends = np.array([0, len(utf16(left)), len(units)])
    links, unlike = linking.link(
        np.array([0, 1]), np.array([0, 2]), units, ends, ends[1:].copy(), np.arange(2), NOTHING,
        round(threshold * MILLION), 0, digits, shingles.table_size(len(texts.data)),
    )  # fmt: skip
    assert len(links) + len(unlike) == 1
    return len(links) == 1


@settings(max_examples=300 * TIMES, deadline=None)
@given(ALIKE, ALIKE, st.sampled_from([0.5, 0.6, 0.75, 0.85, 1.0]), st.booleans())
def test_two_texts_are_linked_if_and_only_if_they_are_alike(left, right, threshold, digits):
    expected = jaccard(left, right) >= threshold
    if digits and only_numbers_differ(left, right):
        expected = False
    assert linked(left, right, threshold, digits) == expected


def test_the_threshold_itself_is_alike():
    # 17 of 20: in floating point 0.85 is not 17 / 20.
    left, right = "abcdefghijklmnopqrs" + "tu", "abcdefghijklmnopqrs" + "v"
    assert len(grams(left) & grams(right)) == 17
    assert len(grams(left) | grams(right)) == 20
    assert linked(left, right, 0.85, False)
    assert not linked(left, right, 0.850001, False)


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=30), st.integers(0, 30))
def test_a_signature_in_two_steps_is_the_signature_of_all(values, cut):
    numbers, lanes = np.array(values, np.uint16), permutations(12)
    cut = min(cut, len(numbers))
    signature = np.full(12, 0xFFFF, np.uint16)
    lower(numbers, 0, cut, lanes, signature)
    lower(numbers, cut, len(numbers), lanes, signature)
    hashes = numbers[:, None] * lanes[0] + lanes[1]
    assert signature.tolist() == hashes.min(axis=0).tolist()


def test_signatures_agree_as_often_as_sets_do():
    numbers = np.random.default_rng(0).permutation(1 << 16)[:3000].astype(np.uint16)
    lanes = permutations(2048)
    signatures = np.full((2, 2048), 0xFFFF, np.uint16)
    lower(numbers, 0, 2500, lanes, signatures[0])
    lower(numbers, 500, 3000, lanes, signatures[1])
    assert (signatures[0] == signatures[1]).mean() == pytest.approx(2 / 3, abs=0.04)


def test_a_large_bucket_is_joined_through_its_first_rows():
    text = "从前有一座山山上有一座庙"
    size = 3 * linking.ALL_PAIRS_ROWS
    units, ends = np.tile(utf16(text), size), np.arange(size + 1) * len(text)
    links, unlike = linking.link(
        np.arange(size), np.array([0, size]), units, ends, ends[1:].copy(), np.arange(size),
        NOTHING, 850_000, 0, True, shingles.table_size(len(text)),
    )  # fmt: skip
    assert (len(links), len(unlike)) == (size - 1, 0)


@given(st.lists(st.integers(0, 5), max_size=40))
def test_buckets_are_the_rows_that_share_a_key_and_are_not_connected(keys):
    rows = np.arange(len(keys), dtype=np.uint64)
    packed = np.sort(np.array(keys, np.uint64) << np.uint64(32) | rows)
    parents = np.array([row if key else keys.index(0) for row, key in enumerate(keys)], np.int64)
    members, ends = linking.buckets(packed, parents, NOTHING)
    found = [members[start:end].tolist() for start, end in pairwise(ends.tolist())]
    expected = [[row for row, key in enumerate(keys) if key == one] for one in range(1, 6)]
    assert found == [rows for rows in expected if len(rows) > 1]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
def test_a_set_of_pairs_holds_each_either_way_round_and_no_other(pairs):
    table = candidates.pair_set(np.array(pairs, np.int64).reshape(-1, 2))
    for row in range(10):
        for other in range(10):
            expected = (row, other) in pairs or (other, row) in pairs
            assert candidates.is_in(table, candidates.pair_of(row, other)) == expected


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.data())
def test_rows_that_were_compared_before_are_no_news(keys, data):
    rows = np.arange(len(keys), dtype=np.uint64)
    packed = np.sort(np.array(keys, np.uint64) << np.uint64(32) | rows)
    everything = [
        (row, other) for row in range(len(keys)) for other in range(row) if keys[row] == keys[other]
    ]
    known = data.draw(st.lists(st.sampled_from(everything))) if everything else []
    rejected = candidates.pair_set(np.array(known, np.int64).reshape(-1, 2))
    members, _ = linking.buckets(packed, np.arange(len(keys)), rejected)
    news = {keys[row] for row, other in everything if (row, other) not in known}
    assert {keys[row] for row in members.tolist()} == news


@given(
    st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 5), max_size=40),
    st.integers(0, 40),
    st.data(),
)
def test_all_rows_that_share_a_key_are_gathered(keys, cut, data):
    size = len(keys)
    flags = np.array(
        data.draw(st.lists(st.sampled_from([0, 1, 2, 3]), min_size=size, max_size=size)), np.uint8
    )
    roots = np.array([data.draw(st.sampled_from([row, 0, -1])) for row in range(size)], np.int64)
    column = np.array(keys, np.uint32)
    shards = [
        (column[part], flags[part], 2, roots[part], part.start)
        for part in (slice(0, min(cut, size)), slice(min(cut, size), size))
    ]
    tables = candidates.bit_tables(size)
    packed = np.empty(2 * sum(candidates.meet(*shard, tables) for shard in shards), np.uint64)
    end = 0
    for shard in shards:
        end = candidates.gather(*shard, tables, packed, end)
    found = [(int(one) >> 32, int(one) & 0xFFFFFFFF) for one in packed[:end]]
    taking_part = [row for row in range(size) if flags[row] & 2 and roots[row] == row]
    shared = [row for row in taking_part if [keys[one] for one in taking_part].count(keys[row]) > 1]
    assert found == sorted(found, key=lambda pair: pair[1])
    assert all(keys[row] == key and row in taking_part for key, row in found)
    assert set(shared) <= {row for _, row in found}
