"""Figures of answers: sacrebleu's where they are its own, counted by hand where they are ours."""

import json
import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from chatlm.comparison import metrics, scoring
from chatlm.comparison.answers import Answer
from chatlm.comparison.questions import Question

ZH = ["三原色是红、绿、蓝。", "今天天气很好，我们去公园吧！", "1 加 2 等于 3。"]
ZH_SAID = ["三原色是红、黄、蓝。", "天气很好", "1加2等于4"]
EN = ["The cat sat on the mat.", "It isn't here; look there!", "An apple a day, 3.5 pounds."]
EN_SAID = ["The cat is on the mat.", "It is not here; look there!", "An apple a day"]
words = st.lists(st.sampled_from("abc"), max_size=12)


@pytest.mark.parametrize(
    ("said", "references", "tokenize"), [(ZH_SAID, ZH, "zh"), (EN_SAID, EN, "13a")]
)
def test_scores_of_one_language_are_those_of_sacrebleu(said, references, tokenize):
    found = metrics.corpus_nearness(said, [[one] for one in references])
    bleu = BLEU(tokenize=tokenize)
    assert found.bleu4 == bleu.corpus_score(said, [references]).score > 5
    assert found.chrf == CHRF().corpus_score(said, [references]).score > 30
    for answer, reference in zip(said, references, strict=True):
        row = metrics.nearness(answer, [reference])
        single = BLEU(tokenize=tokenize, effective_order=True)
        assert row.bleu4 == single.sentence_score(answer, [reference]).score
        assert row.chrf == CHRF().sentence_score(answer, [reference]).score


def test_languages_mix_and_each_row_is_cut_by_its_own_rule():
    # Every n-gram of both rows is right, which only each row's own tokenizer can see.
    said = ["红、绿、蓝都是颜色", "It is here, there."]
    assert metrics.corpus_nearness(said, [[one] for one in said]).bleu4 == pytest.approx(100)
    # By 13a the Chinese row would be one word, and a wrong character would make it wholly wrong.
    assert metrics.nearness("红绿蓝都是好颜色", ["红绿蓝都是颜色"]).bleu4 > 50


def test_several_references_are_those_of_sacrebleu_in_any_number():
    said, references = ["猫在垫子上", "今天下雨"], [["垫子上有猫", "猫在垫子上"], ["今天下雨"]]
    whole = metrics.corpus_nearness(said, references)
    assert (whole.chrf, whole.bleu4, whole.rouge_l) == pytest.approx((100, 100, 100))
    streams = [[row[0] for row in references], ["猫在垫子上", None]]
    expected = BLEU(tokenize="zh").corpus_score(["猫在垫子", "今天下雪"], streams).score  # type: ignore
    found = metrics.corpus_nearness(["猫在垫子", "今天下雪"], references)
    assert found.bleu4 == expected
    assert metrics.nearness("猫在垫子上", references[0]).rouge_l == 100


def test_nothing_said_scores_nothing():
    assert metrics.nearness("", ["一句话"]) == metrics.Nearness(0, 0, 0)
    assert metrics.corpus_nearness(["", ""], [["一"], ["a"]]) == metrics.Nearness(0, 0, 0)


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("police killed the gunman", "police kill the gunman", 2 * 3 / 8),
        ("the gunman kill police", "police kill the gunman", 2 * 2 / 8),
        ("我爱北京", "我很爱北京", 2 * 4 / 9),
        ("我爱 Python 3", "我用 python，爱它", 2 * 2 / 9),
        ("。，！", "你好", 0),
        ("Word.", "WORD!", 1),
    ],
)
def test_rouge_l_by_hand(answer, reference, expected):
    assert metrics.rouge_l(answer, [reference]) == pytest.approx(100 * expected)


@given(words, words)
def test_the_common_subsequence_is_as_long_as_the_table_says(ours, theirs):
    @cache
    def longest(i: int, j: int) -> int:
        if i == len(ours) or j == len(theirs):
            return 0
        if ours[i] == theirs[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    assert metrics.common_length(ours, theirs) == longest(0, 0)


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("哈" * 16, True),
        ("哈" * 15, False),
        ("好的。" * 6, True),
        ("开头是对的，" + "苹果，" * 6 + "苹", True),
        ("苹果，" * 6 + "最后说完了。", False),
        ("the cat and " * 6, True),
        ("a b c d e f g h " * 3, False),
        ("a b c d e f g h " * 4, True),
        ("", False),
    ],
)
def test_a_loop_is_four_times_the_same_at_the_end(text, loops):
    assert metrics.ends_in_loop(text) is loops


@given(st.text("abc哈，。 ", min_size=1), st.text("的了x 。"))
def test_what_is_said_often_enough_is_a_loop(unit, before):
    count = -(-metrics.LOOP_PIECES // max(1, len(metrics.pieces(f"{unit} ")))) + 4
    text = before + f" {unit}" * count
    assert metrics.is_repetitive(text) is bool(metrics.pieces(unit))


def test_the_share_of_repeated_4_grams_by_hand():
    assert metrics.repeated_share("一二三") == 0
    assert metrics.repeated_share("一二三四五") == 0
    # 一二三四 一二三四: five 4-grams, four different ones.
    assert metrics.repeated_share("一二三四一二三四") == pytest.approx(1 / 5)
    assert not metrics.is_repetitive("一二三四一二三四")
    assert metrics.is_repetitive("今天很好，今天很好，今天很好，是吧")


@pytest.mark.real_data
@pytest.mark.skipif("CHATLM_REAL_DATA" not in os.environ, reason="CHATLM_REAL_DATA names no folder")
@pytest.mark.parametrize("name", ["alpaca_data.json", "alpaca_data_zh.json"])
def test_good_answers_are_hardly_ever_called_repetitive(name):
    path = Path(os.environ["CHATLM_REAL_DATA"]) / "raw" / name
    texts = [row["output"] for row in json.loads(path.read_text("utf-8"))[::40]]
    assert sum(map(metrics.ends_in_loop, texts)) == 0
    assert sum(map(metrics.is_repetitive, texts)) < 0.01 * len(texts)


def test_an_answer_that_goes_on_in_blanks_is_repetitive():
    question = Question("?", [1], ["1. 苹果"], [[2]])
    said = [Answer("1. 苹果", True, 40, blank_end=blanks) for blanks in (0, 15, 16, 200)]
    rows = scoring.rows_of([question] * 4, said, None)
    assert [row.tuned.is_repetitive for row in rows] == [False, False, True, True]
    assert scoring.figures_of(said, [question] * 4, None).repetitive == 0.5
