"""Normalisation: what it repairs, what it must never touch, and that twice is once.

The named defects are those of the pipeline that this one replaces; each test fails on its output.
"""

import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.corpus.normalize import RULES, decode_html, normalize

TEXTS = st.text(
    st.one_of(
        st.sampled_from(
            "。！？，、；：…—～~!?.,-=&*/|{}()（）《》“”‘’[]\"' \t\r\n\u3000\xa0\u200b\ufeff"
        ),
        st.sampled_from("一二三的s1aéé\u0301\u0338ば"),
        st.characters(),
    )
)


@given(TEXTS)
def test_twice_is_once(text):
    once = normalize(text)
    assert normalize(once) == once


@given(TEXTS)
def test_letters_digits_brackets_and_quotes_survive_in_their_order(text):
    def kept(raw: str) -> str:
        composed = unicodedata.normalize("NFC", raw)
        marks = "()[]{}（）《》「」『』“”‘’\"'"
        return "".join(c for c in composed if c in marks or unicodedata.category(c)[0] in "LN")

    visible = dict(RULES)["invisible"](text)
    assert kept(normalize(text)) == kept(visible)


@given(TEXTS)
def test_the_result_is_nfc_without_control_characters(text):
    result = normalize(text)
    assert unicodedata.is_normalized("NFC", result)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\u200b]", result)
    assert "\n\n\n" not in result
    assert result == result.strip()


@pytest.mark.parametrize(
    "text",
    [
        # Defect 1: the letter s and the backslash were punctuation.
        "class business less: this is a test",
        "He said (she saw) C:\\users\\sss",
        # Defect 2: every space became a full-width comma.
        "I like to eat pizza",
        "1. 苹果\n2. 香蕉",
        "用 Python 3.11 运行 main.py",
        # Defect 3: of any two marks in a row the second was deleted.
        "“你好，”他说",
        "《红楼梦》（曹雪芹）",
        "他说：“你好！”",
        "《三国》、《水浒》",
        "价格(元)：(100)",
        "C++ (2020) 需要 $5",
        "if x == y && z != 0 || !!w: a ?? b; c--; // **x** ... for (;;) {}",
        "第一段。\n\n第二段。\n- 列表\n- 列表",
        "case a) cmd;;\nf(a,,b)\n~~删除线~~ --- ***",
        "真的？！",
        # Defect 6: points, colons and commas between digits became full-width.
        "圆周率是3.14，12:30出发，共1,000人，U.S.的规则",
        # What else must stay.
        "def f(x):\n    return x  # 注释\n\n\tif x:",
        "他说——是的……好",
        "５０％的Ａ",
        "它叫 “铁公鸡”",
        "女方提出离婚 但是男方不同意 怎么办",
        "猫：鱼：：狗：骨头",
        "👨‍👩‍👧 家",
    ],
)
def test_meaning_is_left_alone(text):
    assert normalize(text) == text


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        # Defect 11: the paragraphs of baike answers are divided by bare CRs.
        ("你好！\r\r当然是冬天。 \r\r不过", "你好！\n\n当然是冬天。\n\n不过"),
        ("一\r\n二\u2028三\x0b四", "一\n二\n三\n四"),
        ("谢谢！！！！", "谢谢！"),
        ("真的吗？？？好", "真的吗？好"),
        ("Great!!! Thanks", "Great! Thanks"),
        ("是吗??", "是吗?"),
        ("我不知道。。。。。算了。。", "我不知道……算了。"),
        ("嗯…………好", "嗯……好"),
        ("破折号————长", "破折号——长"),
        ("盘子~~~~他", "盘子~他"),
        ("等等......好", "等等...好"),
        ("A、、B，，，C；；D", "A、B，C；D"),
        ("def f(x):\n\xa0\xa0\xa0\xa0return x", "def f(x):\n    return x"),
        ("你好 ！ ！ 再见", "你好！再见"),
        ("电脑， 汽车， 电话", "电脑，汽车，电话"),
        ("系统 （GPS） 定位", "系统（GPS）定位"),
        ("\u3000\u3000第一段\n\u3000\u3000第二段\u3000", "第一段\n第二段"),
        ("a\xa0b\u200b\ufeff\x00c\ufffc", "a bc"),
        ("亲   自己的   东西", "亲 自己的 东西"),
        ("e\u0301", "é"),
        ("a\n\n\n\n\nb  \n c", "a\n\nb\n c"),
    ],
)
def test_noise_goes(raw, clean):
    assert normalize(raw) == clean


def test_every_rule_that_changed_something_is_counted():
    changed = Counter[str]()
    normalize("好！！\r\n", changed)
    assert changed == {"line_ends": 1, "repeated_marks": 1, "blank_space": 1}


def test_long_runs_of_blanks_and_marks_cost_no_quadratic_time():
    # At a million characters a quadratic rule would take hours, not be a little slow.
    for unit in (" ", "\t", "!", "。", "…", "\u3000", ". "):
        normalize(f"a{unit * 1_000_000}b")


def test_html_is_decoded_once():
    assert decode_html("一<br>二<BR/>三</p><p>四") == "一\n二\n三\n四"
    assert decode_html("a &lt;b&gt; &amp;lt; &nbsp;&#39;") == "a <b> &lt; \xa0'"
    assert decode_html("x < y && z") == "x < y && z"
