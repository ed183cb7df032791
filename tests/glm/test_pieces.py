"""Text to ids and back: golden ids of the published vocabulary, and nothing lost on the way."""

from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatlm.errors import CheckpointError, DataError
from chatlm.glm.pieces import BLANKS, CONTROLS, IceText
from tests.glm.vocabulary import published_layout, trained


@pytest.fixture(scope="module")
def golden():
    return IceText(published_layout())


@cache
def small_pieces():
    return IceText(trained())


@pytest.fixture
def small():
    return small_pieces()


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("你好", [5, 74874]),
        (
            "def main():\n    print('hello world')\t# greeting",
            [1616, 594, 125936, 4, 130011, 2274, 89, 7283, 398, 125686, 130008, 61, 25672],
        ),
        ("👋", [5, 130328, 130247, 130233, 130227]),
    ],
)
def test_golden_ids(golden, text, ids):
    assert golden.encode_batch([text]) == [ids]
    assert golden.decode(ids) == text


def test_the_published_places(golden):
    places = {name: golden.ids[name] for name in ("<unk>", "</s>", "<pad>", "<n>", "[MASK]")}
    assert places == {"<unk>": 0, "</s>": 2, "<pad>": 3, "<n>": 4, "[MASK]": 130000}
    assert [golden.ids[name] for name in ("[gMASK]", "<sop>", "<eop>")] == [130001, 130004, 130005]
    assert (golden.ids["<|tab|>"], golden.ids["<|blank_2|>"]) == (130008, 130009)
    assert (golden.ids["<|blank_80|>"], golden.ids["<0x00>"]) == (130087, 130088)
    assert len(golden.names) == 130344


@pytest.mark.parametrize("num_spaces", [1, 2, 3, 79, 80, 81, 82, 83, 160, 161])
def test_runs_of_spaces_take_the_longest_piece_first(small, num_spaces):
    ids = small.encode_batch([f"a{' ' * num_spaces}b"])[0]
    found = [small.names[index] for index in ids]
    expected = [BLANKS[80]] * (num_spaces // 80)
    if num_spaces % 80 > 1:
        expected.append(BLANKS[num_spaces % 80])
    assert [name for name in found if name.startswith("<|blank")] == expected
    assert small.decode(ids) == f"a{' ' * num_spaces}b"


alphabet = st.sampled_from(
    [*"ab <n>|1你，\n\t▁👋", "[gMASK]", "<sop>", "<|blank_4|>", "<|tab|>", " " * 81]
)


@given(st.lists(alphabet).map("".join) | st.text())
@example("\U0010f000\U0010f050 \U0010f051")
@example(" ▁ ")
def test_every_text_comes_back(text):
    pieces = small_pieces()
    ids = pieces.encode_batch([text])[0]
    assert pieces.decode(ids) == text
    assert not {pieces.ids[name] for name in CONTROLS if name in pieces.ids} & set(ids)


def test_names_of_special_pieces_in_a_text_are_text(small):
    for name in ("<n>", "<|tab|>", "<|blank_4|>", *CONTROLS, "<unk>", "<0x41>"):
        ids = small.encode_batch([name])[0]
        assert small.ids.get(name) not in ids
        assert small.decode(ids) == name


def test_a_normaliser_of_the_model_is_followed_and_leaves_white_space_alone():
    pieces = IceText(trained("nmt_nfkc"))
    ids = pieces.encode_batch(["ＡＢ，\n\t  c"])[0]
    assert pieces.decode(ids) == "AB,\n\t  c"


def test_control_pieces_are_left_out_or_named(small):
    ids = [small.ids["<sop>"], *small.encode_batch(["好"])[0], small.ids["<eop>"], 10**6, -1]
    assert small.decode(ids) == "好"
    assert small.decode(ids, with_controls=True) == "<sop>好<eop>"


def test_half_a_character_is_refused_and_broken_bytes_are_shown(small):
    with pytest.raises(DataError, match="surrogate"):
        small.encode_batch(["a\ud800"])
    assert small.decode([small.ids["<0xF0>"]]) == "\ufffd"


@pytest.mark.parametrize("model", [b"", b"\x0a", b"no model at all", b"\x0a\x7f", trained()[:-700]])
def test_a_damaged_file_is_refused_in_one_line(model):
    with pytest.raises(CheckpointError, match=r"ice_text.model: .*") as caught:
        IceText(model)
    assert "\n" not in str(caught.value)


def test_another_vocabulary_is_refused_by_the_piece_that_it_lacks():
    with pytest.raises(CheckpointError, match="has no piece <n>; it is not the vocabulary"):
        IceText(trained().replace(b"\x0a\x03<n>", b"\x0a\x03<m>"))
