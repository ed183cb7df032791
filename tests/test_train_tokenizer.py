"""The command turns a file of pairs into a tokenizer folder, or says in one line why it cannot."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatlm.errors import ChatLMError, ConfigError, DataError
from chatlm.tokenizer import Tokenizer
from utils.train_tokenizer import iter_texts, main

ROWS = [
    {"prompt": f"第{i}个问题是什么？", "response": f"这是第{i}个回答，\n希望 它 有帮助。"}
    for i in range(200)
]


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n", encoding="utf-8")
    return path


def test_parquet_and_jsonl_give_the_same_texts(parquet: Path, jsonl: Path) -> None:
    expected = [text for row in ROWS for text in (row["prompt"], row["response"])]
    assert list(iter_texts(parquet, ["prompt", "response"])) == expected
    assert list(iter_texts(jsonl, ["prompt", "response"])) == expected
    assert list(iter_texts(jsonl, ["response"])) == expected[1::2]


def test_the_command_writes_a_folder_and_reports(
    parquet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tokenizer"
    assert main([f"data={parquet}", f"out={out}", "vocab_size=375"]) == 0
    report = json.loads(capsys.readouterr().out)
    tokenizer = Tokenizer.load(out)
    assert report["vocab_size"] == tokenizer.vocab_size == 375
    assert report["fingerprint"] == tokenizer.fingerprint
    assert report["measured_on_texts"] == 400
    assert report["texts_not_restored"] == 0
    tokens = sum(len(tokenizer.encode(text)) for row in ROWS for text in row.values())
    chars = sum(len(text) for row in ROWS for text in row.values())
    assert report["chars_per_token"] == pytest.approx(chars / tokens, abs=1e-3)


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.parquet", None, "does not exist; make it with: python -m utils.raw_data_process"),
        ("a.csv", "prompt,response\n", "must be a .parquet or a .jsonl file"),
        ("a.parquet", "no parquet", "cannot read"),
        ("a.jsonl", '{"prompt": "问"\n', "line 1 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 must hold a JSON object"),
        ("a.jsonl", '{"prompt": "问"}\n', "has no column response; it has prompt"),
        ("a.jsonl", '{"prompt": "问", "response": 3}\n', "line 1: 'response' holds int"),
        ("a.jsonl", '{"prompt": "", "response": ""}\n', "no text to train a tokenizer on"),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path, name, content, message) -> None:
    path = tmp_path / name
    if content is not None:
        _write(path, content)
    with pytest.raises(DataError) as caught:
        main([f"data={path}", f"out={tmp_path / 'out'}"])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_column_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": [1], "response": ["答"]}), path)
    with pytest.raises(DataError, match=r"column 'prompt' of .* holds int64, expected text"):
        main([f"data={path}", f"out={tmp_path / 'out'}"])


def test_a_missing_column_is_named_with_those_there_are(parquet: Path) -> None:
    with pytest.raises(DataError, match="no column text; it has prompt, response"):
        main([f"data={parquet}", "columns=text"])


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        ("vocab_sise=300", ChatLMError, "did you mean 'vocab_size'"),
        ("vocab_size=0", ConfigError, "vocab_size=0 must be at least 1"),
        ("vocab_size=100", ConfigError, "vocab_size=100 is too small"),
    ],
)
def test_bad_settings_are_refused(parquet: Path, argument, error, message) -> None:
    with pytest.raises(error, match=message):
        main([f"data={parquet}", argument])
