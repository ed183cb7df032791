"""The tokenizer inside transformers: what it adds, pads, saves, and what it refuses."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from chatlm.errors import CheckpointError
from chatlm.glm.tokenization import ChatGLMTokenizer
from tests.glm.small import PUBLISHED_CONFIG, TOKENIZER_CONFIG, write_folder

GREETING = "def main():\n    print('hello world')\t# greeting"


@pytest.fixture(scope="module")
def tokenizer(published):
    return AutoTokenizer.from_pretrained(published)


@pytest.fixture
def small(tmp_path):
    return AutoTokenizer.from_pretrained(write_folder(tmp_path / "small"))


def test_golden_ids_with_special_tokens(tokenizer):
    assert type(tokenizer) is ChatGLMTokenizer
    assert tokenizer("你好").input_ids == [5, 74874, 130001, 130004]
    ids = [1616, 594, 125936, 4, 130011, 2274, 89, 7283, 398, 125686, 130008, 61, 25672]
    assert tokenizer(GREETING).input_ids == [*ids, 130001, 130004]
    assert tokenizer("你好", "你好").input_ids[4:] == [5, 74874, 130005]
    assert tokenizer.decode([*ids, 130005], skip_special_tokens=True) == GREETING
    assert tokenizer.decode([5, 74874, 130005, 130400]) == "你好<eop>"
    assert len(tokenizer) == tokenizer.vocab_size == 130344


def test_special_ids(tokenizer):
    names = ("bos", "eos", "pad", "mask", "gmask", "unk")
    ids = [getattr(tokenizer, f"{name}_token_id") for name in names]
    assert ids == [130004, 130005, 3, 130000, 130001, 0]


def test_the_older_numbering_is_read_from_the_size_of_the_table(published, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(published, folder)
    config = {**PUBLISHED_CONFIG, "vocab_size": 150528}
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if not key.endswith("_id")})
    )
    older = {k: v for k, v in TOKENIZER_CONFIG.items() if k != "num_image_tokens"}
    (folder / "tokenizer_config.json").write_text(json.dumps(older))
    old = AutoTokenizer.from_pretrained(folder)
    assert old("你好").input_ids == [20005, 94874, 150001, 150004]
    assert old.decode([20005, 94874]) == "你好"
    assert old.encode_texts(["你好"]) == [[20005, 94874]]
    assert (old.eos_token_id, old.pad_token_id, len(old)) == (150005, 20003, 150344)
    assert old.convert_ids_to_tokens([0, 19999, 20004]) == ["<image_0>", "<image_19999>", "<n>"]
    assert old.fingerprint != AutoTokenizer.from_pretrained(published).fingerprint


def test_padding_is_on_the_left_and_masked(small):
    batch = small(["好", "今天天气很好"], padding=True)
    short, long = batch.input_ids
    num_pads = len(long) - len(small("好").input_ids)
    assert short == [small.pad_token_id] * num_pads + small("好").input_ids
    assert batch.attention_mask[0] == [0] * num_pads + [1] * (len(short) - num_pads)
    assert set(batch.keys()) == {"input_ids", "attention_mask"}


def test_a_cut_prompt_keeps_its_end(small):
    ids = small("今天天气很好" * 9, truncation=True, max_length=8).input_ids
    assert len(ids) == 8
    assert ids[-2:] == [small.gmask_token_id, small.bos_token_id]


def test_special_tokens_typed_by_a_user_are_text(small):
    text = "[gMASK]<sop>好<eop><n>"
    ids = small(text).input_ids
    assert ids.count(small.bos_token_id) == ids.count(small.gmask_token_id) == 1
    assert small.eos_token_id not in ids
    assert small.decode(ids, skip_special_tokens=True) == text
    mask = small.get_special_tokens_mask(ids, already_has_special_tokens=True)
    assert mask == [0] * (len(ids) - 2) + [1, 1]


def test_batches_of_texts_and_single_ones_agree(small):
    texts = ["好", GREETING, "", "  \n▁"]
    assert small.encode_texts(texts) == [
        small(text, add_special_tokens=False).input_ids for text in texts
    ]
    tokens = small.tokenize(GREETING)
    assert small.convert_tokens_to_string(tokens) == GREETING


def test_a_saved_tokenizer_comes_back(small, tmp_path):
    small.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "ice_text.model").is_file()
    for load in (AutoTokenizer, ChatGLMTokenizer):
        again = load.from_pretrained(tmp_path / "saved")
        assert type(again) is ChatGLMTokenizer
        assert again(GREETING).input_ids == small(GREETING).input_ids
        assert again.fingerprint == small.fingerprint
        assert again.gmask_token_id == small.gmask_token_id
        assert again.padding_side == "left"
    again.save_pretrained(tmp_path / "saved")  # over itself
    assert ChatGLMTokenizer.from_pretrained(tmp_path / "saved").fingerprint == small.fingerprint


def test_added_tokens_come_after_the_vocabulary(small):
    small.add_tokens(["<mine>"])
    assert small.convert_tokens_to_ids("<mine>") == small.vocab_size


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_image_tokens": 7}, "num_image_tokens=7 must be 0 or 20000"),
        ({"num_image_tokens": 20000}, "are of different versions of ChatGLM-6B"),
        ({"do_lower_case": True}, "do_lower_case=true is not supported"),
    ],
)
def test_folders_that_cannot_be_followed_are_refused(tmp_path, fields, message):
    folder = write_folder(tmp_path / "bad", tokenizer={**TOKENIZER_CONFIG, **fields})
    with pytest.raises(CheckpointError, match=message):
        AutoTokenizer.from_pretrained(folder)
