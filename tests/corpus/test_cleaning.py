"""The row road: every row has a place and a reason, twice is once, nothing private is written."""

import os
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm.corpus import private
from chatlm.corpus.cleaning import clean_batch, clean_example
from chatlm.corpus.counts import Counts
from chatlm.corpus.example import Example
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.records import Record, Rejected
from chatlm.corpus.sources import SOURCES

MANY = 20 if os.environ.get("CHATLM_TORTURE") else 1
STRICT = Recipe(min_unended_chars=20, wishes=True, max_response_chars=60)
CHATTY = st.lists(
    st.sampled_from(
        (
            *(
                "谢邀",
                "希望",
                "对你",
                "有帮助",
                "望采纳",
                "以上就是",
                "我的回答",
                "。",
                "，",
                "\n",
                "！！",
            ),
            *("3.", "祝您健康", "好的", "“", "”", "：", "138 1234 5678", "QQ：", "12345678", "元"),
            *("京A12345", "微信：", "abc_123", "a@b.cn", ". ", "!", "\u200b", "\u3000", "……", "- "),
            "如果有问题可以私信我",
        )
    ),
    max_size=30,
).map("".join)


def one(text: str, recipe: Recipe, prompt: str = "怎么办？") -> tuple[Example | str, Counts]:
    counts = Counts()
    return clean_example(Example(prompt, text, "test"), recipe, counts), counts


@settings(max_examples=300 * MANY)
@given(CHATTY, CHATTY, st.sampled_from((STRICT, Recipe(), Recipe(mask=False))))
def test_cleaning_what_was_cleaned_changes_nothing(prompt, response, recipe):
    cleaned, _ = one(response, recipe, prompt)
    if isinstance(cleaned, Example):
        counts = Counts()
        assert clean_example(cleaned, recipe, counts) == cleaned
        assert not counts.modified


def test_what_was_removed_and_masked_is_counted_by_rule():
    cleaned, counts = one("谢邀。打13812345678或13912345678。希望能帮到你。", Recipe())
    assert cleaned == Example("怎么办？", "打[手机号]或[手机号]。", "test")
    assert counts.modified == {"mask_mobile": 1, "boilerplate": 1}


def test_an_end_that_comes_to_light_goes_too():
    text = "多喝热水就好了，不要担心，会好的。" * 2 + "希望能帮到你。还有就是注意饮食和休息的时间，"
    cleaned, counts = one(text, Recipe())
    assert cleaned == Example("怎么办？", "多喝热水就好了，不要担心，会好的。" * 2, "test")
    assert counts.modified == {"finish": 1, "boilerplate": 1}


def test_an_answer_of_stock_phrases_has_a_reason():
    assert one("谢邀。希望能帮到你。", Recipe())[0] == "boilerplate"
    given = Recipe(boilerplate=False, quality=(), mask=False)
    assert one("谢邀。希望能帮到你。", given)[0] == Example(
        "怎么办？", "谢邀。希望能帮到你。", "test"
    )


def test_every_example_knows_its_record_and_its_turn():
    turns = [
        {"from": speaker, "value": value}
        for speaker, value in (
            *(("human", "你好"), ("assistant", "你好，请说。")),
            *(("human", "再见"), ("assistant", "再见，")),
            *(("human", "等等"), ("assistant", "好的，我在。")),
        )
    ]
    records = [
        Record(3, {"instruction": "问一句", "output": "答一句。"}),
        Rejected("f", 4, "malformed_json", "{"),
        Record(7, {"conversations": turns}),
        Record(9, {"instruction": "", "output": "答。"}),
    ]
    done = clean_batch(records, "f", SOURCES["belle"], Recipe())
    assert [example.response for example in done.examples] == [
        "答一句。",
        "你好，请说。",
        "好的，我在。",
    ]
    assert done.positions == [3, 7, 7]
    assert done.turns == [0, 0, 2]
    assert [(r.position, r.turn, r.reason) for r in done.rejects] == [
        *((4, 0, "malformed_json"), (7, 1, "cut_off"), (9, 0, "empty_prompt")),
    ]
    done.counts.check("test")


def test_nothing_private_is_written_with_a_reject():
    value = "13812345678"
    long = "前" * 188 + value
    records = [
        Rejected("f", 1, "malformed_json", f'{{"output": "电话\\n{value}'),
        Record(2, {"instruction": f"我的电话{value}", "output": ""}),
        Record(3, {"instruction": f"QQ：{value[:8]}", "output": f"发到a{value}@qq.com，"}),
        Record(4, {"instruction": long, "output": "电话，"}),
        Record(5, {"instruction": "1\u200b3812\u200b345678是谁", "output": "，"}),
    ]
    for recipe in (Recipe(), Recipe(mask=False)):
        done = clean_batch(records, "f", SOURCES["belle"], recipe)
        assert len(done.rejects) == len(records)
        for reject in done.rejects:
            assert private.mask(reject.excerpt) == reject.excerpt
            assert value[:8] not in reject.excerpt.replace("\u200b", "")
            assert len(reject.excerpt) <= 200


@pytest.mark.real_data
@pytest.mark.skipif(not os.environ.get("CHATLM_REAL_DATA"), reason="CHATLM_REAL_DATA is not set")
def test_real_rows_are_cleaned_once():
    path = Path(os.environ["CHATLM_REAL_DATA"]) / "pairs_zh.parquet"
    rows = pq.read_table(path).to_pylist()[:: 20 if MANY == 1 else 1]
    recipe = Recipe(min_han_share=0.5, min_unended_chars=100, wishes=True)
    done = clean_batch(
        (Record(number, row) for number, row in enumerate(rows)), "f", SOURCES["pairs"], recipe
    )
    again = clean_batch(
        (
            Record(number, {"prompt": e.prompt, "response": e.response, "source": e.source})
            for number, e in enumerate(done.examples)
        ),
        "f",
        SOURCES["pairs"],
        recipe,
    )
    assert again.examples == done.examples
    assert again.counts.modified == Counter()
