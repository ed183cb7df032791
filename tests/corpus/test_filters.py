"""Filters: a named reason or nothing; answers end where a sentence ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.corpus import filters
from chatlm.corpus.example import Example
from chatlm.corpus.filters import finish, last_sentence_end


def pair(prompt: str, response: str = "好的。") -> Example:
    return Example(prompt, response, "test")


def test_lengths_have_a_reason_for_each_side():
    judge = filters.min_chars(2, 3)
    assert judge(pair("", "好的呢")) == "empty_prompt"
    assert judge(pair("问题", "")) == "empty_response"
    assert judge(pair("问", "好的呢")) == "too_short_prompt"
    assert judge(pair("问题", "好的")) == "too_short_response"
    assert judge(pair("问题", "好的呢")) is None
    judge = filters.max_chars(3, 2)
    assert judge(pair("一二三四", "一二")) == "too_long_prompt"
    assert judge(pair("一二三", "一二三")) == "too_long_response"
    assert judge(pair("一二三", "一二")) is None


def test_a_chinese_request_for_code_is_chinese_and_an_english_pair_is_not():
    judge = filters.min_han_share(0.5)
    assert judge(pair("写一个求和的函数", "def add(a, b):\n    return a + b")) is None
    assert judge(pair("Write a function", "def add(a, b): return a + b")) == "not_chinese"
    assert judge(pair("1+1=?", "2")) is None
    assert judge(pair("こんにちは、げんきですか", "はい、げんきです")) == "not_chinese"


@pytest.mark.parametrize(
    "prompt",
    [
        "把下面的句子翻译成英文：你好",
        "请翻译：apple",
        "请你帮我翻译一下这段话",
        "将“Il fait beau”翻译成英语。",
        "中译英：我爱你",
        "Translate this sentence into French.",
    ],
)
def test_requests_to_translate_are_dropped(prompt):
    assert filters.translation_task(pair(prompt)) == "translation_task"


@pytest.mark.parametrize(
    "prompt",
    [
        "翻译行业的前景如何？",
        "请介绍翻译家傅雷。",
        "机器翻译是怎么工作的？",
        "写一个关于译者的故事",
        "这本书被翻译成二十种文字，作者是谁？",
        "外文翻译出版公司在哪里？",
    ],
)
def test_questions_about_translating_stay(prompt):
    assert filters.translation_task(pair(prompt)) is None


@pytest.mark.parametrize(
    "response",
    [
        "|国家|人口|\n|---|---|\n|中国|多|",
        "国家 | 人口\n------|-----\n中国 | 多",
        "+----+----+\n|A |B |\n+----+----+",
        "姓名\t年龄\t城市\n张三\t18\t北京\n李四\t20\t上海",
    ],
)
def test_drawn_tables_are_dropped(response):
    assert filters.table(pair("画表", response)) == "table"


@pytest.mark.parametrize(
    "response",
    [
        # Defect 9: prose was dropped when it named a table or held '-----'.
        "元素周期表是一张表格。",
        "上半部分\n-----\n下半部分",
        "a || b 或 a | b",
        "命令是 cat x | grep y，结果用 + 连接。",
    ],
)
def test_prose_about_tables_stays(response):
    assert filters.table(pair("表格是什么？", response)) is None


def test_votes_decide_only_where_they_are_known():
    assert filters.min_votes(2, 3) == "low_votes"
    assert filters.min_votes(3, 3) is None
    assert filters.min_votes(None, 3) is None


def test_an_answer_that_repeats_the_question_is_dropped():
    assert filters.identical(pair("你好", "你好")) == "identical"
    assert filters.identical(pair("你好", "你好！")) is None


def test_a_long_answer_is_cut_at_its_last_sentence_end_never_inside():
    # Defect 8: answers were cut at 320 characters, 97 % of those inside a sentence.
    text = "第一句话。他说：“第二句。”第三句话很长很长很长"
    assert finish(text, 20) == "第一句话。他说：“第二句。”"
    assert finish(text, len(text)) == text
    assert finish("一" * 30 + "。" + "二" * 40, 50) == "一" * 30 + "。"
    assert finish("一。" + "二" * 100, 50) is None


def test_points_in_numbers_and_list_numbers_are_no_sentence_ends():
    assert finish("前面这句说完了。圆周率约为3.14159", 16) == "前面这句说完了。"
    assert finish("一些话说完了。\n3. 后面还有很长的一条", 11) == "一些话说完了。"
    assert finish("See www.a.com/?q=1 now. And then", 28) == "See www.a.com/?q=1 now."


def test_list_lines_are_whole_units():
    text = "材料如下：\n- 面粉两百克\n- 鸡蛋两个\n- 牛奶一杯"
    assert finish(text, len(text) - 2) == "材料如下：\n- 面粉两百克\n- 鸡蛋两个"


def test_code_is_not_cut_after_a_line():
    code = "def f(a):\n    b = sorted(a)\n    while b:\n        b.pop()\n    return b"
    assert finish(code, len(code) - 3) is None
    program = f"函数先排序，再逐个取出，直到没有剩下的为止。\n{code}"
    assert finish(program, 40) is None
    assert finish(program, 400) == program


def test_a_cut_leaves_no_quote_open_where_another_end_will_do():
    text = "他来了，大家都很高兴。有人说：“今天真好。明天也会好。”后来他走了"
    assert finish(text, 20) == "他来了，大家都很高兴。"
    assert finish(text, 30) == "他来了，大家都很高兴。有人说：“今天真好。明天也会好。”"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("可以试试这些办法，很有用。接下来是我的建议：", "可以试试这些办法，很有用。"),
        ("面点，", None),
        ("巴黎", "巴黎"),
        ("去吃饭的路比回来的路长", "去吃饭的路比回来的路长"),
        ("姓名：\n电话：\n地址：", "姓名：\n电话：\n地址："),
    ],
)
def test_answers_that_must_go_on_are_shortened_or_dropped(text, result):
    assert finish(text, 100) == result


def test_a_scrape_that_breaks_off_loses_its_last_half_sentence():
    text = "它很重要。" * 25 + "那是人工智能领域一个"
    assert finish(text, 512) == text
    assert finish(text, 512, min_unended_chars=100) == "它很重要。" * 25
    code = "说明。" * 40 + "\n```python\nprint(1)\n```"
    assert finish(code, 512, min_unended_chars=100) == code


@given(st.text(st.sampled_from("一二。！，\n”.1 a"), max_size=60), st.integers(1, 60))
def test_what_finish_returns_is_a_beginning_no_longer_than_allowed(text, max_chars):
    result = finish(text, max_chars)
    if result is not None:
        assert text.startswith(result)
        assert len(result) <= max_chars
        assert finish(result, max_chars) == result


@given(st.text(st.sampled_from("一二。！，\n”.1 a"), max_size=60))
def test_a_sentence_end_is_inside_the_text(text):
    assert 0 <= last_sentence_end(text, cut=True) <= len(text)
