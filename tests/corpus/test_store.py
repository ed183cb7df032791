"""The store: complete files or none, and one line for a damaged one."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatlm.corpus import store
from chatlm.corpus.example import Example
from chatlm.errors import DataError


def examples(count: int) -> list[Example]:
    return [Example(f"问{number}", f"答{number}", "test") for number in range(count)]


def write(path: Path, rows: list[Example]) -> Path:
    with store.PairWriter(path) as writer:
        writer.write(rows)
    return path


def prompts(path: Path) -> list[str]:
    return [text for batch in store.read_pairs(path, ["prompt"]) for text in batch[0].to_pylist()]


def test_what_was_written_is_read_in_full_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ROW_GROUP_ROWS", 100)
    rows = examples(250)
    with store.PairWriter(tmp_path / "x.parquet") as writer:
        for start in range(0, 250, 30):
            writer.write(rows[start : start + 30])
    assert prompts(tmp_path / "x.parquet") == [row.prompt for row in rows]
    metadata = pq.ParquetFile(tmp_path / "x.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(3)] == [100, 100, 50]
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert store.num_rows(tmp_path / "x.parquet") == 250


def test_a_file_without_rows_is_a_whole_file(tmp_path):
    assert prompts(write(tmp_path / "x.parquet", [])) == []


def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = write(tmp_path / "x.parquet", examples(3))
    before = path.read_bytes()

    def interrupted():
        with store.PairWriter(path) as writer:
            writer.write(examples(9))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["x.parquet"]


def test_an_earlier_file_is_replaced_without_a_question(tmp_path):
    write(tmp_path / "x.parquet", examples(3))
    assert len(prompts(write(tmp_path / "x.parquet", examples(5)))) == 5


def test_text_that_is_no_unicode_fails_and_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path / "x.parquet", [Example("\ud800", "好", "test")])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_a_data_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        write(tmp_path / "file" / "x.parquet", [])


def test_a_cut_file_and_a_flipped_byte_are_one_line_each(tmp_path):
    path = write(tmp_path / "x.parquet", examples(5000))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="not a complete parquet file"):
        prompts(path)
    flipped = bytearray(content)
    flipped[200] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(DataError, match="damaged"):
        list(store.read_pairs(path))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"prompt": ["一"]}, "no column response"),
        ({"prompt": ["一"], "response": [1]}, "column response is int64; expected text"),
    ],
)
def test_a_file_of_another_shape_is_named(tmp_path, table, message):
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message):
        list(store.read_pairs(tmp_path / "x.parquet", ["prompt", "response"]))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.parquet: no such file"):
        list(store.read_pairs(tmp_path / "none.parquet"))


def test_a_manifest_comes_back_and_a_damaged_one_is_named(tmp_path):
    store.write_json(tmp_path / "m.json", {"b": 1, "a": "好"})
    assert store.read_json(tmp_path / "m.json") == {"a": "好", "b": 1}
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(DataError, match="no readable manifest"):
        store.read_json(tmp_path / "m.json")


def test_reading_a_long_file_holds_only_the_group_that_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ROW_GROUP_ROWS", 100)
    noise = np.random.default_rng(0)
    texts = [noise.bytes(2000).hex() for _ in range(3000)]  # Not to be compressed to nothing.
    path = write(tmp_path / "x.parquet", [Example(text, text[::-1], "test") for text in texts])
    before, most = pa.total_allocated_bytes(), 0
    for _ in store.read_pairs(path, batch_rows=50):
        most = max(most, pa.total_allocated_bytes() - before)
    of_a_group = sum(map(len, texts[:100])) * 2
    assert most < 4 * of_a_group
