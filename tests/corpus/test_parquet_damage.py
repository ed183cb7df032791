"""Damaged, lying and foreign parquet files: whole rows or one line, never rows that are not so."""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatlm.corpus import parquet_file, read_parquet, store
from chatlm.corpus.example import Example
from chatlm.corpus.read_table import parquet_plan, read_parquet_batches
from chatlm.corpus.records import Record, Rejected
from chatlm.errors import DataError

TORTURE = bool(os.environ.get("CHATLM_TORTURE"))
NAMES = ["prompt", "response", "source"]
PLAIN = {"compression": "none", "use_dictionary": False}


def rows_of(path: Path, **options) -> list[dict[str, object]]:
    required = [(name,) for name in NAMES]
    found = read_parquet.read_parquet(path, required, **options)
    return [dict(one.fields) for one in found if isinstance(one, Record)]


def batch_rows(path: Path) -> list[dict[str, object]]:
    found = read_parquet_batches(path, NAMES)
    return [row for one in found if not isinstance(one, Rejected) for row in one[1].to_pylist()]


def table_of(*texts: str | None, **columns: pa.Array) -> pa.Table:
    column = pa.array(texts, pa.string())
    return pa.table({"prompt": column, "response": column, "source": column} | columns)


def written(path: Path, table: pa.Table, **options) -> Path:
    pq.write_table(table, path, **options)
    return path


def of_our_store(path: Path) -> list[dict[str, object]]:
    rng = random.Random(3)
    examples = [
        Example(f"问题{number}是{rng.random()}吗", "答" * rng.randint(1, 40) + str(number), "test")
        for number in range(400)
    ]
    with store.PairWriter(path) as writer:
        writer.write(examples)
    return [{name: getattr(one, name) for name in NAMES} for one in examples]


def test_a_flipped_bit_is_found_or_harmless(tmp_path):
    # Half of the flips hit the footer and the page headers, which no checksum covers.
    path = tmp_path / "x.parquet"
    rows = of_our_store(path)
    content = path.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    rng, ends = random.Random(11), Counter[str]()
    for number in range(1_000 if TORTURE else 150):
        flipped = bytearray(content)
        first = len(content) - footer if number % 2 else 0
        flipped[rng.randrange(first, len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        for read in (rows_of, batch_rows):
            try:
                assert read(path) == rows
                ends["harmless"] += 1
            except DataError as error:
                ends["found" if "x.parquet" in str(error) else "nameless"] += 1
    assert ends["found"] > ends["harmless"] > 0
    assert not ends["nameless"]


def test_a_cut_file_is_one_line(tmp_path):
    path = tmp_path / "x.parquet"
    of_our_store(path)
    content = path.read_bytes()
    for length in [*range(12), *range(0, len(content), len(content) // 40)]:
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="not a complete parquet file"):
            rows_of(path)


def test_a_column_of_another_type_than_its_schema_does_not_end_the_process(tmp_path):
    # The library aborts when it is asked about such a column; the footer is refused before that.
    path = tmp_path / "x.parquet"
    of_our_store(path)
    content = bytearray(path.read_bytes())
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for place in range(start, len(content) - 8):
        if content[place : place + 3] == b"\x15\x0c\x25":
            content[place + 1] = 4
    path.write_bytes(content)
    with pytest.raises(DataError, match="footer is not sound"):
        rows_of(path)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "none"},
        {"compression": "snappy", "use_dictionary": False},
        {"compression": "zstd", "data_page_version": "2.0", "write_page_checksum": True},
        {"use_dictionary": False, "column_encoding": {"prompt": "DELTA_BYTE_ARRAY"}},
        {"use_dictionary": False, "column_encoding": "DELTA_LENGTH_BYTE_ARRAY"},
        {"store_schema": False, "row_group_size": 2},
        {"write_page_index": True, "write_statistics": False},
    ],
)
def test_every_encoding_and_codec_is_read(tmp_path, options):
    texts = ["一", None, "", "一二三", "一二四", "𠮷\n", "一"]
    path = written(tmp_path / "x.parquet", table_of(*texts), **options)
    expected = [dict.fromkeys(NAMES, text) for text in texts]
    assert rows_of(path) == expected
    assert batch_rows(path) == expected


TEXT = ["一", None, "二"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(TEXT, pa.large_string()),
        pa.array(TEXT, pa.string_view()),
        pa.array(TEXT).dictionary_encode(),
        pa.array([text and text.encode() for text in TEXT], pa.binary()),
        pa.array([text and text.encode() for text in TEXT], pa.large_binary()),
    ],
    ids=lambda column: str(column.type),
)
def test_texts_of_every_type_are_texts(tmp_path, column):
    path = written(tmp_path / "x.parquet", table_of(*TEXT, prompt=column))
    assert [row["prompt"] for row in rows_of(path)] == TEXT
    assert [row["prompt"] for row in batch_rows(path)] == TEXT


def test_a_column_of_nothing_is_nulls(tmp_path):
    path = written(tmp_path / "x.parquet", table_of("一", prompt=pa.nulls(1)))
    assert [row["prompt"] for row in rows_of(path) + batch_rows(path)] == [None, None]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2]),
        pa.array([1.5, float("nan")]),
        pa.array([["一"], []]),
        pa.array([{"a": "一"}, None]),
        pa.array([10**18, 0], pa.timestamp("us")),
    ],
    ids=lambda column: str(column.type),
)
def test_what_is_no_text_is_refused_where_text_must_be_and_left_out_elsewhere(tmp_path, column):
    table = table_of("一", "二", prompt=column)
    path = written(tmp_path / "x.parquet", table)
    for read in (rows_of, batch_rows):
        with pytest.raises(DataError, match=r"x\.parquet: column prompt is .*; expected text"):
            read(path)
    path = written(tmp_path / "x.parquet", table_of("一", "二", more=column))
    assert [row["prompt"] for row in rows_of(path)] == ["一", "二"]


def test_a_row_that_is_not_utf8_is_rejected_and_its_neighbours_are_kept(tmp_path):
    raw = [b"\xe4\xb8\x80", b"\xff", None, b"\xed\xa0\x80", b"x"]
    binary, text = pa.array(raw, pa.binary()), pa.array(raw, pa.binary()).view(pa.string())
    for column in (binary, text, text.dictionary_encode()):
        path = written(tmp_path / "x.parquet", table_of(*"abcde", prompt=column))
        found = list(read_parquet.read_parquet(path))
        assert [(one.position, getattr(one, "reason", "")) for one in found] == [
            (1, ""),
            (2, "invalid_utf8"),
            (3, ""),
            (4, "invalid_utf8"),
            (5, ""),
        ]
        columns = [
            (one.position, one.reason) if isinstance(one, Rejected) else (one[0], len(one[1]))
            for one in read_parquet_batches(path, NAMES)
        ]
        assert columns == [(1, 1), (2, "invalid_utf8"), (3, 1), (4, "invalid_utf8"), (5, 1)]


def test_a_missing_renamed_or_double_column_is_named(tmp_path):
    path = written(tmp_path / "x.parquet", table_of("一").rename_columns(["Prompt", *NAMES[1:]]))
    with pytest.raises(DataError, match="no column prompt; the file has Prompt, response, source"):
        rows_of(path)
    path = written(tmp_path / "x.parquet", table_of("一").append_column("prompt", [["二"]]))
    with pytest.raises(DataError, match="column prompt is there twice"):
        rows_of(path)


def test_a_file_without_rows_or_columns_has_none(tmp_path):
    assert rows_of(written(tmp_path / "x.parquet", table_of())) == []
    path = written(tmp_path / "x.parquet", pa.table({}))
    with pytest.raises(DataError, match="the file has no columns"):
        rows_of(path)


def test_pieces_are_row_groups_and_rows_keep_their_numbers(tmp_path):
    texts = [str(number) for number in range(25)]
    path = written(tmp_path / "x.parquet", table_of(*texts), row_group_size=4)
    plan = parquet_plan(path, 10)
    assert plan.pieces == ((0, 2), (2, 4), (4, 7))
    assert plan.first_rows == (1, 9, 17)
    assert not plan.has_checksums
    found = [
        one for piece in plan.pieces for one in read_parquet.read_parquet(path, row_groups=piece)
    ]
    assert [(one.position, one.fields["prompt"]) for one in found if isinstance(one, Record)] == [
        (number + 1, text) for number, text in enumerate(texts)
    ]
    (batch,) = read_parquet_batches(path, ["response", "prompt"], (2, 3))
    assert not isinstance(batch, Rejected)
    assert (batch[0], batch[1].schema.names) == (9, ["response", "prompt"])
    assert parquet_plan(path, 1).pieces == tuple((group, group + 1) for group in range(7))
    with pytest.raises(DataError, match="has 7 row groups, not 6 to 9"):
        rows_of(path, row_groups=(6, 9))


def test_a_file_without_checksums_is_noted(tmp_path):
    path = tmp_path / "x.parquet"
    of_our_store(path)
    notes = Counter[str]()
    rows_of(path, notes=notes)
    assert parquet_plan(path, 100).has_checksums
    assert not notes
    rows_of(written(path, table_of("一")), notes=notes)
    assert notes == {"without_checksums": 1}


def test_bombs_are_refused_by_their_footers(tmp_path, monkeypatch):
    nulls = pa.nulls(200_000, pa.string())
    path = written(tmp_path / "rows.parquet", pa.table(dict.fromkeys(NAMES, nulls)))
    with pytest.raises(DataError, match=r"200000 rows in .* bytes, which is no text"):
        rows_of(path)
    monkeypatch.setattr(parquet_file, "MAX_SMALL_BYTES", 10_000_000)
    rows = table_of(*["好"] * 6, prompt=pa.array(["好" * 1_000_000] * 6))
    path = written(tmp_path / "texts.parquet", rows, compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match="decompression bomb"):
        batch_rows(path)


def test_one_text_repeated_by_a_dictionary_neither_fills_the_memory_nor_goes_on(tmp_path):
    # 90,000 rows of a megabyte each, in a file of a few kilobytes whose footer names a few more.
    huge = pa.array(["好" * 300_000])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 90_000, pa.int32()), huge)
    path = written(tmp_path / "x.parquet", pa.table(dict.fromkeys(NAMES, column)))
    code = (
        "import sys\n"
        "from tests.corpus.memory import peak_kib\n"
        "from pathlib import Path\n"
        "from chatlm.corpus.read_table import read_parquet, read_parquet_batches\n"
        "from chatlm.errors import DataError\n"
        "before = peak_kib()\n"
        "path = Path(sys.argv[1])\n"
        "for found in (read_parquet(path), read_parquet_batches(path, ['prompt'])):\n"
        "    try:\n"
        "        print(sum(1 for _ in found))\n"
        "    except DataError as error:\n"
        "        print('bomb' in str(error))\n"
        "print(peak_kib() - before < 256 << 10)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True\nTrue\nTrue\n"


def test_the_caps_leave_room_for_any_text(tmp_path):
    # 100,000 equal short answers: as small as a real corpus can become, and still read.
    path = written(tmp_path / "x.parquet", table_of(*["好的"] * parquet_file.MAX_SMALL_ROWS))
    assert len(batch_rows(path)) == parquet_file.MAX_SMALL_ROWS
