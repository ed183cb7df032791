"""The harness sees what it is to see, and our sanitizer passes before it whatever is made up."""

import pytest

pytest.importorskip("pyte", reason="the referee of terminals: pip install pyte")

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.security import escapes, referee
from chatlm.sanitize import Sanitizer, sanitize

PARTS = st.lists(
    st.one_of(
        st.text(max_size=3),
        st.sampled_from(
            [attack.content.decode("utf-8", "replace") for attack in escapes.attacks()]
        ),
        st.sampled_from(escapes.HARMLESS),
        st.sampled_from(
            list("\x1b[]\\\x07\x9b\x9d\x9c;0123mhHJ\u200d\ufe0f\U0001f3f4\U000e007f汉")
        ),
    ),
    max_size=8,
)


@pytest.mark.parametrize(
    ("sent", "changed"),
    [
        ("\x1b[31m", "attributes of the cursor"),
        ("\x1b[1m粗\x1b[0m", "look of a character"),
        ("\x1b]0;title\x07", "title"),
        ("\x1b]1;icon\x07", "icon name"),
        ("\x1b[?25l", "hidden cursor"),
        ("\x1b[?5h", "modes"),
        ("\x1b[2;9r", "margins"),
        ("\x1b7", "saved cursors"),
        ("\x1b[3g", "tab stops"),
    ],
)
def test_the_referee_sees_each_kind_of_change(sent, changed):
    assert changed in referee.judge(sent.encode()).changed
    assert referee.forbidden(sent.encode())


@pytest.mark.parametrize(
    "sent", ["\x9b2J", "a\rb", "\x08", "\x07", "\x7f", "\x85", "\u202e", "\u2066"]
)
def test_controls_that_an_emulator_may_not_know_are_seen_too(sent):
    assert referee.forbidden(sent.encode())


@pytest.mark.parametrize("sent", ["\U000e0041", "\u200b", "😀" + "\ufe00" * 4, "\u2060\ufeff"])
def test_what_hides_is_seen(sent):
    assert referee.hidden(sent.encode())


@pytest.mark.parametrize("text", escapes.HARMLESS)
def test_harmless_text_passes_the_referee_and_the_sanitizer(text):
    sent = text.replace("\n", "\r\n").encode()
    assert not referee.judge(sent).changed
    assert not referee.forbidden(sent)
    assert not referee.hidden(sent)
    assert sanitize(text) == text


def test_attacks_are_attacks():
    dangerous = [
        attack
        for attack in escapes.attacks()
        if referee.forbidden(attack.whole)
        or referee.hidden(attack.whole)
        or referee.judge(attack.whole).changed
    ]
    assert len(escapes.attacks()) >= 500
    assert len(dangerous) >= 500


@settings(max_examples=300)
@given(parts=PARTS)
def test_whatever_is_made_up_leaves_a_terminal_as_it_was(parts):
    sanitizer = Sanitizer()
    shown = "".join(map(sanitizer.push, parts))
    assert shown == sanitize("".join(parts))
    assert sanitize(shown) == shown
    sent = shown.replace("\n", "\r\n").encode()
    assert not referee.forbidden(sent)
    assert not referee.hidden(sent)
    assert not referee.judge(sent).changed
