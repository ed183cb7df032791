"""Stock phrases: which sentences go from the ends of an answer, and which stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.corpus.boilerplate import strip_boilerplate
from chatlm.corpus.normalize import normalize

BODY = "多喝热水，少吃辛辣的东西，三天后还不好就去医院。"


@pytest.mark.parametrize(
    "closing",
    [
        "希望能帮到你。",
        "希望我的回答对您有所帮助！",
        "期望上述的答案可以协助到您，谢谢。",
        "以上是我的建议，希望对你有所帮助，谢谢！",
        "以上就是全部内容了，希望对大家有帮助。",
        "希望这些建议对你有帮助，祝好运。",
        "望采纳",
        "满意请采纳，谢谢！",
        "如果我的回答对您有帮助，望采纳！",
        "以上建议仅供参考。",
        "以上可以做为参考。",
        "更多健康知识，请关注公众号健康小屋。",
        "欢迎点击关注我的专栏。",
        "如果觉得有用就点个赞吧。",
        "如果还有疑问，可以私信我。",
        "如果您需要帮助，请随时联系我。",
        "希望能给你带来一些启发。\n\n希望对你有帮助~",
    ],
)
def test_a_closing_goes_as_a_whole_sentence(closing):
    assert strip_boilerplate("感冒了怎么办？", BODY + closing) == BODY
    assert strip_boilerplate("感冒了怎么办？", f"{BODY}\n\n{closing}") == BODY


@pytest.mark.parametrize(
    "opening",
    [
        *("谢邀。", "谢邀，", "谢谢邀请。\n", "泻药……", "感谢邀请！", "多谢邀请，", "不请自来。"),
        *("先问是不是，再问为什么。", "谢邀 @小明 ", "谢妖。"),
    ],
)
def test_an_opening_goes(opening):
    assert strip_boilerplate("感冒了怎么办？", opening + BODY) == BODY


@pytest.mark.parametrize(
    "text",
    [
        "你的朋友希望你能帮到他。",
        "希望你早点好起来，也希望你的家人能理解你的选择。",
        "锻炼对身体很有帮助。",
        "我给你几点建议，希望对你有所帮助：\n1. 早睡。",
        "以上就是三角形内角和等于一百八十度的证明过程，因此角 C 是直角。",
        "法院采纳了他的意见。",
        "他邀请我去他家，我谢绝了。",
        "谢谢邀请我参加婚礼，我一定到。",
        "如果遇到问题，他会联系我。",
        "此致\n敬礼\n祝您身体健康！",
        "点赞的人越多，文章排得越靠前。",
    ],
)
def test_a_sentence_that_says_something_stays(text):
    assert strip_boilerplate("请写一封信", text) == text


def test_wishes_go_only_where_they_are_asked_to():
    for wish in ("祝您健康。", "祝患者身体早日恢复健康！", "最后祝宝宝早日康复。"):
        assert strip_boilerplate("", BODY + wish) == BODY + wish
        assert strip_boilerplate("", BODY + wish, wishes=True) == BODY
    both = f"{BODY}希望能帮到你，祝你健康。祝早日康复！"
    assert strip_boilerplate("", both, wishes=True) == BODY


def test_a_laxative_is_no_thanks_for_an_invitation():
    answer = "泻药，比如乳果糖，不宜久用。"
    assert strip_boilerplate("便秘能吃什么药？", answer) == answer
    assert strip_boilerplate("猫为什么怕水？", f"泻药，{BODY}") == BODY


def test_an_answer_of_nothing_but_stock_phrases_is_empty():
    assert strip_boilerplate("感冒了怎么办？", "谢邀。希望我的回答能帮到你！") == ""


@given(
    st.lists(
        st.sampled_from(
            (
                *(
                    "谢邀",
                    "泻药",
                    "希望",
                    "对你",
                    "有帮助",
                    "望采纳",
                    "以上就是",
                    "我的回答",
                    "。",
                    "，",
                ),
                *(
                    "\n",
                    "祝您健康",
                    "好",
                    "！",
                    "全部内容",
                    "点赞",
                    "如果有问题",
                    "可以",
                    "私信我",
                    "供参考",
                ),
            )
        ),
        max_size=12,
    ).map("".join)
)
def test_twice_is_once_and_what_is_left_is_a_normalised_part(raw):
    text = normalize(raw)
    once = strip_boilerplate("", text, wishes=True)
    assert strip_boilerplate("", once, wishes=True) == once
    assert once in text
    assert normalize(once) == once
