"""How ChatGLM-6B is asked, and how its answers are shown, as literals."""

import pytest

from chatlm.glm.prompts import prompt, shown


def test_a_first_question_is_bare_and_later_ones_stand_in_rounds():
    assert prompt("你好") == "你好"
    assert prompt("那么绿呢？", [("红", "是红。"), ("蓝", "是蓝。")]) == (
        "[Round 0]\n问：红\n答：是红。\n[Round 1]\n问：蓝\n答：是蓝。\n"
        "[Round 2]\n问：那么绿呢？\n答："
    )


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (" 你好,世界!\n", "你好，世界！"),
        ("好:a;b?c", "好：a;b?c"),
        ("a,好 b!好;", "a，好 b！好；"),
        ("3,000 and 10:30, yes!", "3,000 and 10:30, yes!"),
        ("我学到[[训练时间]]为止?", "我学到2023年为止？"),
        ("好,,好!?", "好，，好！?"),
        ("", ""),
    ],
)
def test_marks_beside_han_become_wide(answer, expected):
    assert shown(answer) == expected
    assert shown(expected) == expected
