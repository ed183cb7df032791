"""Decisions about rows: what is a duplicate, of what, and what does not matter for it."""

import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm.corpus.conversation import render
from chatlm.corpus.duplicates.decide import DuplicateSettings, decide
from chatlm.corpus.duplicates.signing import mapped
from chatlm.corpus.executors import LocalPool
from chatlm.corpus.keys import prose_key
from chatlm.corpus.tasks import Engine
from chatlm.errors import ConfigError, DataError
from tests.corpus.duplicates.reference import (
    column,
    components,
    exact,
    groups_of,
    near,
    write_shards,
)

TIMES = 10 if os.environ.get("CHATLM_TORTURE") == "1" else 1
SURE = DuplicateSettings(pair_bands=32, pair_band_rows=3)
"""Bands so many and so short that they miss nothing at this threshold (one pair in 10**13)."""


def decided_of(folder, shards, chosen=SURE, executor=None):
    paths = write_shards(folder / "clean", shards)
    return decide(paths, folder / "work", Engine(executor), chosen)


def kept(folder, rows, chosen=SURE):
    return decided_of(folder, [("some", rows)], chosen).kept().tolist()


STORY = "从前有一座山，山上有一座庙，庙里有个老和尚在给小和尚讲故事，讲的是从前有一座桥。"
LONG = STORY + "桥下的河水很清，河边的人家都用它洗菜做饭，夏天孩子们在里面游泳，冬天在上面滑冰。"


def edited(text, rng):
    """Returns `text` after a few small changes, so that similarities around 0.85 are common."""
    chars = list(text)
    for _ in range(rng.randint(0, 3)):
        place = rng.randrange(len(chars) + 1)
        chars[place : place + rng.randint(0, 2)] = rng.choice(["", "的", "x", "7", "，", "𠮷"])
    return "".join(chars) or "空"


def made_up_rows(seed, size):
    rng = random.Random(seed)
    bases = ["".join(rng.choices("山水田人工大小上下ABc12，", k=40)) for _ in range(4)]
    answers = ["是", "不对", "共有十二个", LONG, LONG[::-1]]
    return [(edited(rng.choice(bases), rng), edited(rng.choice(answers), rng)) for _ in range(size)]


@pytest.mark.parametrize("seed", range(3 * TIMES))
def test_groups_are_those_of_a_comparison_of_all_with_all(tmp_path, seed):
    rows = made_up_rows(seed, 120)
    decided = decided_of(tmp_path, [("a", rows[:50]), ("b", rows[50:])])

    def same(left, right):
        return exact(rows[left], rows[right]) or near(rows[left], rows[right])

    expected = components(len(rows), same)
    assert groups_of(decided) == expected
    assert 5 < len(expected) < 115
    assert decided.kept().sum() == len(expected)
    assert sum(decided.dropped.values()) == len(rows) - len(expected)


def test_without_guards_only_the_similarity_of_the_whole_counts(tmp_path):
    rows = made_up_rows(99, 120)
    chosen = DuplicateSettings(
        pair_bands=32, pair_band_rows=3, respect_digits=False, response_threshold=0.0
    )
    decided = decided_of(tmp_path, [("a", rows)], chosen)

    def same(left, right):
        pair = rows[left], rows[right]
        return exact(*pair) or near(*pair, response_threshold=0.0, digits=False)

    assert groups_of(decided) == components(len(rows), same)


def by_content(decided, shards):
    """Returns what was decided, in terms of texts and corpora only."""
    rows = [(corpus, *row) for corpus, some in shards for row in some]
    of, reasons = column(decided, "of").tolist(), column(decided, "reasons").tolist()
    clusters, order = column(decided, "clusters").tolist(), column(decided, "order").tolist()
    return sorted(
        (row, reason, rows[stays] if stays >= 0 else None, cluster if not reason else 0, key)
        for row, reason, stays, cluster, key in zip(rows, reasons, of, clusters, order, strict=True)
    )


def test_order_cuts_and_workers_change_no_decision(tmp_path):
    rows = made_up_rows(5, 150) + made_up_rows(6, 150)
    shards = [("a", rows[:100]), ("b", rows[100:])]
    expected = by_content(decided_of(tmp_path / "0", shards), shards)
    rng = random.Random(0)
    mixed = [("a", rng.sample(rows[:100], 100)), ("b", rng.sample(rows[100:], 200))]
    assert by_content(decided_of(tmp_path / "1", mixed), mixed) == expected
    cut = [
        ("a", mixed[0][1][:1]), ("a", []), ("a", mixed[0][1][1:]),
        ("b", mixed[1][1][:77]), ("b", mixed[1][1][77:]),
    ]  # fmt: skip
    assert by_content(decided_of(tmp_path / "2", cut), cut) == expected
    pool = LocalPool(2)
    assert by_content(decided_of(tmp_path / "3", cut, executor=pool), cut) == expected


def test_the_row_of_the_more_trusted_corpus_stays(tmp_path):
    rows = [("怎么养花？", LONG), ("怎么养花", LONG), ("怎样养花？", LONG)]
    for number, best in enumerate(rows):
        others = [row for row in rows if row != best]
        decided = decided_of(tmp_path / str(number), [("best", [best]), ("other", others)])
        assert decided.kept().tolist() == [True, False, False]
        assert column(decided, "of").tolist() == [-1, 0, 0]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (("甲借了乙的书", "好"), ("乙借了甲的书", "好")),
        (("你好", "您好"), ("你好", "你好")),
        (("?", "!"), ("!", "!")),
        (("😀", "好"), ("😂", "好")),
        (("A", "B"), ("A", "b")),
        (("计算长5厘米、宽2厘米的矩形的面积", "10"), ("计算长5厘米、宽8厘米的矩形的面积", "40")),
        (("3+5等于多少", "8"), ("3-5等于多少", "-2")),
        # The text is long, the question short: the similarity of the whole says nothing.
        ((f"{LONG}\n谁讲故事？", "老和尚"), (f"{LONG}\n桥在哪里？", "河上")),
        ((f"{LONG}\n谁讲故事？", "文中没有说"), (f"{LONG}\n孩子们夏天在哪里？", "文中没有说")),
        # Numbers apart, even where 3-grams are alike.
        ((f"{LONG}有3个人", LONG), (f"{LONG}有8个人", LONG)),
        ((f"{LONG}过了两年", LONG), (f"{LONG}过了三年", LONG)),
    ],
)
def test_what_says_something_else_is_kept(tmp_path, left, right):
    assert kept(tmp_path, [left, right]) == [True, True]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (("讲个故事！", LONG), ("讲个故事", LONG)),
        (("讲个故事", LONG), ("请讲个故事", LONG)),
        (("讲个故事", LONG), ("讲个故事", LONG.replace("清", "干净"))),
        (("Tell me a story", LONG), ("tell me a story", LONG)),
        (("讲个故事", f"1. {LONG}"), ("讲个故事", LONG)),
        (("ＡＢ①讲㎏，２℃", LONG), ("AB1讲kg,2°C", LONG)),
        (("讲个𠮷𠮷的故事", LONG), ("讲个𠮷𠮷故事", LONG)),
    ],
)
def test_what_says_the_same_is_dropped(tmp_path, left, right):
    assert sum(kept(tmp_path, [left, right])) == 1


def test_without_near_only_equal_rows_are_dropped_and_like_questions_stay_together(tmp_path):
    rows = [("讲个长长的关于山和庙的故事吧", LONG), ("请讲个长长的关于山和庙的故事吧", LONG)]
    rows.append((rows[0][0] + "！", LONG))
    decided = decided_of(tmp_path, [("a", rows)], DuplicateSettings(near=False))
    assert decided.dropped == {"exact_duplicate": 1}
    assert len(set(decided.clusters()[decided.kept()].tolist())) == 1


def test_like_questions_and_all_turns_of_a_conversation_are_one_cluster(tmp_path):
    question = LONG + "山上的那一座老庙里面一共有几个老和尚？"
    rows = [
        (question, "一个。"),
        (question.replace("里面", "里"), "我不知道你说的是哪一座庙。"),
        (render([(question, "一个。")], "他在讲什么？"), "讲从前。"),
        (question.replace("几", "3"), "对，三个。"),
        ("河边有人家吗？", "有。"),
        ("？", "什么？"),
        ("！", "怎么了？"),
    ]
    decided = decided_of(tmp_path, [("a", rows)])
    assert decided.kept().all()
    clusters = decided.clusters().tolist()
    assert len(set(clusters[:4])) == 1
    assert len(set(clusters)) == 4


def test_no_rows_and_no_shards_are_no_mistake(tmp_path):
    assert decided_of(tmp_path / "0", []).num_rows == 0
    empty = decided_of(tmp_path / "1", [("a", []), ("b", [])])
    assert (empty.num_rows, empty.dropped, len(empty.kept())) == (0, {}, 0)


def test_a_damaged_shard_is_named(tmp_path):
    paths = write_shards(tmp_path, [("a", [("问", "答")])])
    paths[0].write_bytes(paths[0].read_bytes()[:200])
    with pytest.raises(DataError, match=r"00000\.arrow: damaged .* run clean again"):
        decide(paths, tmp_path / "work", Engine(), SURE)


@pytest.mark.parametrize("shape", [(0,), (7,), (3, 5), (2, 0)])
def test_a_work_file_is_mapped_as_it_was_saved_and_named_if_it_is_damaged(tmp_path, shape):
    path, array = tmp_path / "some.npy", np.arange(np.prod(shape), dtype=np.uint32).reshape(shape)
    np.save(path, array)
    found = mapped(str(path))
    assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())
    content = path.read_bytes()
    for size in (0, 5, 9, 60, len(content) - 1):
        (tmp_path / "cut.npy").write_bytes(content[:size])
        with pytest.raises(DataError, match=r"cut\.npy: not readable .* build again"):
            mapped(str(tmp_path / "cut.npy"))
    with pytest.raises(DataError, match=r"none\.npy"):
        mapped(str(tmp_path / "none.npy"))


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0.2}, {"pair_bands": 0}, {"response_threshold": 2}]
)
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DuplicateSettings(**wrong)


TEXTS = st.text("甲乙借3，A\U00020bb7℃ ", max_size=12)


@settings(max_examples=15 * TIMES, deadline=None)
@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=12))
def test_a_dropped_row_has_a_kept_row_that_it_is_like(tmp_path_factory, rows):
    decided = decided_of(tmp_path_factory.mktemp("rows"), [("a", rows)])
    reasons, of = column(decided, "reasons").tolist(), column(decided, "of").tolist()
    for number, (reason, stays) in enumerate(zip(reasons, of, strict=True)):
        assert (stays == -1) == (reason == 0)
        if reason:
            assert reasons[stays] == 0
        if reason == 1:
            twins = [other for other in range(len(rows)) if exact(rows[other], rows[number])]
            assert len(twins) > 1
    assert len({tuple(map(prose_key, row)) for row in rows}) >= np.sum(decided.kept())
