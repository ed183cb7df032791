"""Lengths are exact where the store is there, sampled where it is not, and nothing is written."""

import json

import numpy as np
import pytest

from chatlm import cli
from chatlm.config import TrainConfig
from chatlm.dataset import prepare
from chatlm.errors import DataError
from chatlm.plan import lengths
from chatlm.tokenizer import Tokenizer
from tests import tiny_data


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tiny_data.make(tmp_path / "pairs")


def find(data, **changes):
    config = cli.build(TrainConfig, tiny_data.SETTINGS, {"data": str(data)}, changes)
    return lengths.find(config, prepare.locate(str(data), finetune=False)), config


def test_a_sample_has_the_lengths_that_the_store_will_have(folder):
    sampled, config = find(folder)
    assert not (folder.parent / "data").exists()
    assert sampled.basis == "all 70 pairs, tokenised"
    source = prepare.locate(str(folder), finetune=False)
    prepared = prepare.prepare(config, source, prepare.find(source), None)
    exact, _ = find(folder)
    assert exact.is_prepared
    assert "exact" in exact.basis
    assert (sampled.num_pairs, sampled.vocab_size) == (exact.num_pairs, exact.vocab_size)
    assert np.array_equal(exact.source_lengths, prepared.train.sources.lengths)
    assert np.array_equal(sampled.source_lengths, exact.source_lengths)
    assert np.array_equal(sampled.target_lengths, exact.target_lengths)
    assert sampled.tokens_an_epoch() == exact.tokens_an_epoch()


def test_long_texts_count_as_cut(folder):
    sampled, _ = find(folder, max_source_tokens=6, max_target_tokens=5)
    assert sampled.source_lengths.max() == 6
    assert sampled.target_lengths.max() == 5


def test_a_file_of_lines_is_counted_to_its_end(folder, monkeypatch):
    monkeypatch.setattr(lengths, "SAMPLE_PAIRS", 8)
    path = folder.parent / "pairs.jsonl"
    rows = [{"prompt": one.prompt, "response": one.response} for one in tiny_data.examples(50)]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    found, _ = find(path, tokenizer=str(folder / "tokenizer"))
    assert (found.num_pairs, len(found.source_lengths)) == (50, 8)
    assert found.basis == "a sample of 8 of 50 pairs, tokenised"
    size = Tokenizer.load(folder / "tokenizer").vocab_size
    assert found.vocab_size == size


def test_without_a_tokenizer_tokens_are_guessed_from_characters(folder):
    path = folder.parent / "one.jsonl"
    path.write_text(json.dumps({"prompt": "零一二三四五", "response": "好的，没问题。"}))
    found, config = find(path)
    assert "assumed" in found.basis
    assert found.source_lengths.tolist() == [5]
    assert found.vocab_size == config.vocab_size


def test_a_file_without_pairs_is_refused(folder):
    path = folder.parent / "none.jsonl"
    path.write_text(json.dumps({"prompt": "", "response": ""}))
    with pytest.raises(DataError, match="no pair to plan for"):
        find(path)
