"""What goes into a token store comes out again, and a damaged one is refused."""

import numpy as np
import pytest

from chatlm.dataset import token_store
from chatlm.dataset.token_store import Limits
from chatlm.errors import DataError
from chatlm.tokenizer import Tokenizer

PAIRS = [("三原色是什么？", "红、绿、蓝。"), ("你好", "你好！" * 20), ("", "无"), ("空", "")]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([text for pair in PAIRS for text in pair if text] * 3, 400)


@pytest.fixture
def folder(tmp_path, tokenizer):
    token_store.write(PAIRS, tokenizer, Limits(6, 30), tmp_path / "store", "name")
    return tmp_path / "store"


def test_an_answer_that_fits_ends_with_eos_and_decodes_to_itself(folder, tokenizer):
    store = token_store.open_store(folder)
    ids = store.targets[0].tolist()
    assert ids[-1] == tokenizer.eos_id
    assert tokenizer.decode(ids) == "红、绿、蓝。"
    assert store.target_chars[0] == len("红、绿、蓝。")


def test_a_cut_answer_gets_no_eos(folder, tokenizer):
    store = token_store.open_store(folder)
    ids = store.targets[1].tolist()
    assert len(ids) == 30
    assert tokenizer.eos_id not in ids
    assert store.target_chars[1] == len(tokenizer.decode(ids))
    assert store.meta["cut_targets"] == 1


def test_a_cut_question_keeps_its_eos(folder, tokenizer):
    store = token_store.open_store(folder)
    assert store.sources.lengths.max() <= 6
    assert all(store.sources[row][-1] == tokenizer.eos_id for row in range(len(store)))


def test_rows_with_an_empty_side_are_counted(folder):
    meta = token_store.open_store(folder).meta
    assert (meta["rows"], meta["empty_rows"]) == (2, 2)


def test_nothing_usable_is_an_error_and_leaves_no_folder(tmp_path, tokenizer):
    with pytest.raises(DataError, match="no pair to train on"):
        token_store.write([("", "x")], tokenizer, Limits(8, 8), tmp_path / "store", "name")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["sources.bin", "targets.bin", "source_offsets.npy", "meta.json"])
def test_a_cut_file_is_refused_by_name(folder, file):
    (folder / file).write_bytes((folder / file).read_bytes()[:-3])
    with pytest.raises(DataError, match="delete"):
        token_store.open_store(folder)


def test_the_name_changes_with_data_tokenizer_and_limits(tokenizer):
    other = Tokenizer.train(["完全不同的文字"] * 3, 400)
    names = {
        token_store.fingerprint("a", tokenizer, Limits(8, 8)),
        token_store.fingerprint("b", tokenizer, Limits(8, 8)),
        token_store.fingerprint("a", other, Limits(8, 8)),
        token_store.fingerprint("a", tokenizer, Limits(8, 9)),
    }
    assert len(names) == 4


def test_small_vocabularies_take_two_bytes_a_token(folder):
    assert token_store.open_store(folder).sources.ids.dtype == np.uint16
