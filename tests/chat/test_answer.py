"""Text appears as soon as it cannot be part of a stop string, and no stop string ever appears."""

from hypothesis import given
from hypothesis import strategies as st
from scripted_chat import Pieces

from chatlm.chat.answer import AnswerText

ALPHABET = st.text("abc", max_size=3)


def say(pieces: list[str], stop: list[str]) -> tuple[list[str], bool]:
    codec = Pieces()
    text = AnswerText(codec, stop)
    said = [text.push([codec.id_of(piece)]) for piece in pieces]
    return [*said, text.finish()], text.is_stopped


def test_a_picture() -> None:
    assert say(["你", "好。", "再", "见"], ["。再"]) == (["你", "好", "", "", ""], True)
    assert say(["你", "好。", "见"], ["。再"]) == (["你", "好", "。见", ""], False)
    assert say(["你", "好。"], ["。再"]) == (["你", "好", "。"], False)


@given(st.lists(ALPHABET, max_size=8), st.lists(ALPHABET.filter(bool), max_size=3))
def test_no_stop_string_is_ever_said(pieces, stop) -> None:
    said, is_stopped = say(pieces, stop)
    whole = "".join(pieces)
    ends = [whole.find(one) for one in stop if one in whole]
    assert is_stopped == bool(ends)
    assert not any(one in "".join(said) for one in stop)
    assert whole.startswith("".join(said))
    if not ends:
        assert "".join(said) == whole


@given(st.lists(ALPHABET, max_size=8), ALPHABET.filter(bool))
def test_one_stop_string_cuts_where_it_begins(pieces, stop) -> None:
    assert "".join(say(pieces, [stop])[0]) == "".join(pieces).partition(stop)[0]
