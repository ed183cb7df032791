"""Quality filters: what is dropped, what looks like it and stays, and what announces a rule."""

import os
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm.corpus import filters, quality
from chatlm.corpus.boilerplate import strip_boilerplate
from chatlm.corpus.example import Example
from chatlm.corpus.normalize import normalize
from chatlm.corpus.recipe import QUALITY, Recipe

MANY = 20 if os.environ.get("CHATLM_TORTURE") else 1


def pair(response: str, prompt: str = "这件事该怎么办？") -> Example:
    return Example(prompt, response, "test")


# A phrase, what it is asked with, and whether the answer goes.
DROPPED = {
    "repetition": [
        "您需要两种药物，" + "一种是维生素，" * 12,
        "先把锅烧热，再放油，油热了下葱姜，炒出香味后放肉片。" * 2,
        "The best way is to wait. " * 6,
    ],
    "as_an_ai": [
        "作为一个AI语言模型，我无法提供法律建议。",
        "很抱歉，我只是一个虚拟AI助手，不能替您出门。",
        "作为人工智能，我没有实体形式，但可以给您一些建议。",
        "该任务需要画图，无法由 GPT 模型完成。",
        "I'm sorry, but as an AI language model, I cannot do that.",
    ],
    "advertisement": [
        "想要完整资料的朋友可以加我微信，免费发给你。",
        "专业办理各种手续，咨询请加微信：[微信号]。",
        "有意者加我QQ，价格从优。",
    ],
    "points_elsewhere": [
        "https://a.example.com/article/2020/05/24.html",
        "如图",
        "答案见下图。",
        "[图片]",
        "请点击查看附件",
        "详见链接：http://a.example.com/b",
    ],
    "no_prose": ["。。。", "？？？", "😂😂", "——", "-", "∑"],
    "mojibake": ["锟斤拷锟斤拷你好", "今天å¥½å¤©å°空气", "他说��很好", "itâ€™s fine"],
    "markup": [
        '<a href="http://a.example.com">点这里</a>可以看到步骤。',
        "第一步&nbsp;&nbsp;先打开盖子。",
        "[url=http://a.example.com]看这里[/url]就明白了。",
        '<img src="a.png" alt="图">',
    ],
}

KEPT = {
    "repetition": [
        "一一得一\n一二得二\n一三得三\n一四得四\n一五得五\n一六得六\n一七得七\n一八得八\n一九得九\n二二得四\n二三得六",
        "小河流水响叮当，岸上姑娘洗衣裳。\n小河流水响叮当，岸上老牛晒太阳。\n小河流水响叮当，岸上娃娃捉迷藏。",
        "- 苹果：每斤五元\n- 香蕉：每斤四元\n- 西瓜：每斤两元\n- 葡萄：每斤八元\n- 橘子：每斤三元",
        "哈" * 80,
        "1, 0, 0, 0, 1, 0, 0, 0, " * 8,
        "for i in range(3):\n    print('你好世界')\n" * 4,
        "| 一 | 二 |\n|----|----|\n" * 5,
        "-" * 90,
    ],
    "as_an_ai": [
        "语言模型是一种计算句子概率的模型，GPT 是其中一种。",
        "作为人工智能的一个分支，机器学习研究怎样从数据里学习。",
        "我是一名在人工智能公司上班的工程师。",
    ],
    "advertisement": [
        "可以先在微信上和对方说清楚，再约时间见面。",
        "他加我微信以后一直没有说话。",
        "以上是我的看法，如果需要，请私聊我。祝你顺利！",
        "医院的电话是[座机号]，可以提前咨询。",
    ],
    "points_elsewhere": [
        "图片太暗了，可以先调高曝光，再裁掉边缘。",
        "先打开 http://a.example.com ，再点右上角的注册。",
        "如图，三角形 ABC 中角 A 等于角 B，所以两边相等。",
    ],
    "no_prose": ["好", "OK", "第 3 个", "x"],
    "mojibake": [
        "café naïve señor Ærø",
        "温度是25℃±1°",
        "烫烫烫，小心！",
        "áéíóúü 是西班牙语的字母",
    ],
    "markup": [
        "a < b 并且 c > d，所以 a<c 不一定成立。",
        "<他>是谁？[注1]",
        '在 HTML 里写 <a href="x">文字</a> 就是一个链接。',
    ],
}
# The questions that make an answer welcome that would otherwise go.
ASKED = {
    "repetition": ("把这句话重复十遍", "我以后再也不迟到了，一定早起。" * 10),
    "as_an_ai": ("举例说明 GPT 做不到的事", "例如画图，无法由 GPT 模型完成。"),
    "points_elsewhere": ("学校的官网网址是什么？", "http://www.school.example.com/"),
    "no_prose": ("用表情回答我", "😂"),
    "mojibake": ("为什么网页上是乱码？", "锟斤拷是两个替换字符连在一起造成的。"),
    "markup": ("怎么写一个 html 链接？", '<a href="http://a.example.com">首页</a>'),
}


@pytest.mark.parametrize(("reason", "answer"), [(r, a) for r, all in DROPPED.items() for a in all])
def test_an_answer_that_teaches_nothing_has_a_reason(reason, answer):
    assert QUALITY[reason](pair(answer)) == reason


@pytest.mark.parametrize(("reason", "answer"), [(r, a) for r, all in KEPT.items() for a in all])
def test_an_answer_that_only_looks_like_it_stays(reason, answer):
    assert QUALITY[reason](pair(answer)) is None


@pytest.mark.parametrize("reason", ASKED)
def test_an_answer_that_was_asked_for_stays(reason):
    prompt, answer = ASKED[reason]
    assert QUALITY[reason](pair(answer)) == reason
    assert QUALITY[reason](pair(answer, prompt)) is None


def test_digits_are_an_answer_unless_prose_was_asked_for():
    assert quality.no_prose(pair("1234", "请解释这个成语")) == "no_prose"
    assert quality.no_prose(pair("1234", "谁知道密码")) is None
    assert quality.no_prose(pair("★★★", "这款游戏的难度如何？")) is None


def test_a_recipe_names_its_quality_filters_and_none_is_left_out_by_default():
    judges = Recipe(drop=()).filters()
    assert judges[-len(QUALITY) :] == list(QUALITY.values())
    assert len(Recipe(drop=(), quality=("mojibake",)).filters()) == len(judges) - len(QUALITY) + 1


WORDS = (
    *quality.TRIGGERS,
    *(
        "希望",
        "我的回答",
        "对你",
        "可以",
        "微信",
        "我",
        "一个",
        "。",
        "，",
        "\n",
        "！",
        "www",
        "如",
    ),
    *(
        "[",
        "]",
        "<",
        ">",
        "图",
        "好的",
        "abc",
        "å",
        "¥",
        "1",
        "作为",
        "AI",
        "模型",
        "邀",
        "祝",
        "康",
    ),
)
TEXTS = st.lists(st.sampled_from(WORDS), max_size=12).map("".join)
NATURAL = st.text(
    st.sampled_from("的一是了我不在有他这为之大来以个中上们希望对你好帮助微信图。，！\n12ab<[")
)


def announced(text: str) -> bool:
    """Says whether the published conditions leave open that a rule fires on `text`."""
    middle, probe = len(text) // 2, quality.LOOP_PROBE
    sides = (text[middle - probe : middle], text[middle : middle + probe])
    return (
        any(trigger in text for trigger in quality.TRIGGERS)
        or quality.LOST_CHAR in text
        or re.search("[\xc2-\xf4][\xa1-\xbf]", text) is not None
        or not any(char.isalpha() for char in text)
        or (
            len(text) >= quality.MIN_LOOP_CHARS
            and any(
                re.search(f"(?={re.escape(side)})", text[text.find(side) + 1 :]) for side in sides
            )
        )
    )


@settings(max_examples=400 * MANY)
@given(st.one_of(TEXTS, NATURAL), st.sampled_from(("怎么办？", "请解释", "")))
def test_no_rule_fires_on_an_answer_that_is_not_announced(raw, prompt):
    text = normalize(raw)
    fires = strip_boilerplate(prompt, text, wishes=True) != text or any(
        judge(Example(prompt, text, "")) for judge in QUALITY.values()
    )
    assert not fires or announced(text)


@pytest.mark.real_data
@pytest.mark.skipif(not os.environ.get("CHATLM_REAL_DATA"), reason="CHATLM_REAL_DATA is not set")
def test_no_rule_fires_on_a_real_answer_that_is_not_announced():
    path = Path(os.environ["CHATLM_REAL_DATA"]) / "pairs_zh.parquet"
    for row in pq.read_table(path).to_pylist()[:: 20 if MANY == 1 else 1]:
        prompt, text = normalize(row["prompt"]), normalize(row["response"])
        if announced(text) or announced(f"好{prompt}"):
            continue
        assert strip_boilerplate(prompt, text, wishes=True) == text
        assert not any(judge(Example(prompt, text, "")) for judge in QUALITY.values())


@settings(max_examples=200 * MANY)
@given(
    st.lists(
        st.sampled_from(("翻", "译", "成", "中", "请", "Translat", "e to", " into ", "TRANSLATE"))
    )
)
def test_a_prompt_without_a_trigger_is_no_translation_task(words):
    prompt = "".join(words)
    if not any(trigger in prompt for trigger in filters.TRIGGERS):
        assert filters.translation_task(Example(prompt, "好", "")) is None


@given(st.text(st.sampled_from("|+-\t一\n: "), max_size=60))
def test_a_text_without_a_table_sign_is_no_table(text):
    if not any(sign in text for sign in filters.TABLE_SIGNS):
        assert filters.table(pair(text)) is None


def test_long_texts_of_one_phrase_cost_no_quadratic_time():
    # At half a million characters a quadratic rule would take hours, not be a little slow.
    for unit in ("好", "对你有帮助", "http", "[微信号]", "作为AI", "<a ", "â€", "我是一个"):
        text = unit * (500_000 // len(unit))
        for judge in QUALITY.values():
            judge(pair(text))
        strip_boilerplate("", text, wishes=True)
