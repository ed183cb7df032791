"""Nothing that a model writes can drive a terminal or hide; everything visible stays."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.sanitize import MAX_SEQUENCE_CHARS, Sanitizer, sanitize

ATTACKS = [
    ("\x1b[31m红\x1b[0m", "红"),
    ("清\x1b[2J屏\x1b[H", "清屏"),
    ("标\x1b]0;title\x07题", "标题"),
    ("链\x1b]8;;http://a\x1b\\接\x1b]8;;\x1b\\", "链接"),
    ("剪\x1b]52;c;aGk=\x9c贴", "剪贴"),
    ("设备\x1bP1$r0m\x1b\\串", "设备串"),
    ("字符\x1b(B集", "字符集"),
    ("复位\x1bc", "复位"),
    ("八位\x9b31m码\x9d0;t\x07", "八位码"),
    ("退\x08\x08格\r回车\x0b\x0c\x7f\x00", "退格回车"),
    ("右\u202e左\u2066隔\u2069", "右左隔"),
    ("零\u200b宽\ufeff\u2060\u200d", "零宽"),
    ("\x1b[31", ""),
    ("\x1b", ""),
    ("\x1b\x1b[1m双", "双"),
    ("\x1b[1\x1b[2m中断", "中断"),
    ("\x1b汉字", "汉字"),
    ("\x1b[汉字", "汉字"),
    ("\x1b]没有结束\n下一行", "\n下一行"),
    ("行\u2028段\u2029", "行\n段\n"),
    ("代理\ud800", "代理\ufffd"),
]
HARMLESS = [
    "第一行\n\t第二行",
    "全角：ＡＢＣ　１２３，“引号”！",
    "𠮷野家 café naïve résumé",
    "👨‍👩‍👧‍👦 🏳️‍🌈 👩🏽‍💻 ❤️",
    "a[31m ]0; \\n <b>粗</b> [link=x]",
]
PIECES = st.lists(
    st.one_of(
        st.text(max_size=4),
        st.sampled_from(
            [
                "\x1b",
                "[",
                "]",
                "31m",
                "\x07",
                "\\",
                "\x9b",
                "\x9d",
                "\x9c",
                "\n",
                "汉",
                "👩",
                "\u200d",
            ]
        ),
    ),
    max_size=12,
)


@pytest.mark.parametrize(("text", "expected"), ATTACKS)
def test_attacks_lose_their_teeth(text: str, expected: str) -> None:
    assert sanitize(text) == expected


@pytest.mark.parametrize(("text", "expected"), ATTACKS)
def test_attacks_split_anywhere_lose_their_teeth(text: str, expected: str) -> None:
    for cut in range(len(text) + 1):
        sanitizer = Sanitizer()
        assert sanitizer.push(text[:cut]) + sanitizer.push(text[cut:]) == expected


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_stays(text: str) -> None:
    assert sanitize(text) == text


@given(pieces=PIECES)
def test_the_result_is_safe_stable_and_independent_of_the_pieces(pieces: list[str]) -> None:
    sanitizer = Sanitizer()
    result = "".join(map(sanitizer.push, pieces))
    assert result == sanitize("".join(pieces))
    assert all(char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs") for char in result)
    assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\ufeff") & set(
        result
    )
    assert sanitize(result) == result


def test_an_endless_sequence_does_not_swallow_the_answer() -> None:
    text = "\x1b]" + "长" * 1000
    assert sanitize(text) == "长" * (1001 - MAX_SEQUENCE_CHARS)
