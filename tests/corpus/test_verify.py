"""What the manifests say is what the files hold, and a row can be followed all its way."""

import shutil
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest

from chatlm.corpus.example import Example
from chatlm.corpus.history import explain
from chatlm.corpus.shards import RejectWriter
from chatlm.corpus.store import PairWriter, file_sha256
from chatlm.corpus.tasks import Engine
from chatlm.corpus.verify import Verified, verify
from chatlm.errors import DataError

from .whole_pipeline import run

FIXTURES = Path(__file__).parents[1] / "fixtures" / "raw"


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A folder with raw files and all that the pipeline makes of them."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(FIXTURES, folder / "raw")
    run(folder / "raw", folder / "data")
    return folder


@pytest.fixture
def copy(done, tmp_path) -> Path:
    """A copy that a test may damage; its manifests name the raw files of the original."""
    return Path(shutil.copytree(done / "data", tmp_path / "data"))


def verified(data: Path) -> Verified:
    return verify(data / "clean", data / "out", Engine())


def test_a_pipeline_that_ended_adds_up(copy):
    found = verified(copy)
    assert found.problems == []
    assert any(note.startswith("belle: 12 rows in = 8 kept + 4 dropped") for note in found.notes)
    assert any("train" in note and "rows in" in note for note in found.notes)
    near = [note for note in found.notes if note.endswith("no question is near one of training")]
    assert len(near) == 2


def test_a_held_out_question_that_training_asks_too_is_found(copy):
    out = copy / "out"
    asked = pq.read_table(out / "test.parquet").to_pylist()[0]
    rows = pq.read_table(out / "train.parquet").to_pylist()
    with PairWriter(out / "train.parquet") as writer:
        writer.write([Example(**row) for row in rows[1:]])
        writer.write([Example(f"{asked['prompt']}！", "别的回答。", "x")])
    manifest = orjson.loads((out / "manifest.json").read_bytes())
    manifest["parts"]["train"]["sha256"] = file_sha256(out / "train.parquet")
    (out / "manifest.json").write_bytes(orjson.dumps(manifest))
    (problem,) = verified(copy).problems
    assert f"test.parquet: row 0 asks what row {len(rows) - 1} of" in problem


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("clean/belle/*.arrow", "sha256 is"),
        ("rejects/belle/*.zst", "sha256 is"),
        ("out/train.parquet", "sha256 is"),
        ("clean/belle/manifest.json", "was cleaned again since"),
    ],
)
def test_one_changed_byte_is_found_and_named(copy, pattern, message):
    path = max(copy.glob(pattern), key=lambda candidate: candidate.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if path.suffix == ".json":
        content = bytearray(path.read_bytes().rstrip() + b"  \n")
    path.write_bytes(content)
    problems = verified(copy).problems
    assert len(problems) == 1
    assert message in problems[0]
    assert path.name in problems[0] or "belle" in problems[0]


def test_a_missing_file_is_found_and_named(copy):
    path = next(copy.glob("clean/medical/*.arrow"))
    path.unlink()
    (problem,) = verified(copy).problems
    assert problem == f"{path}: cannot be read (No such file or directory)"


def test_rejects_that_do_not_match_the_counts_are_found(copy):
    """Also where somebody wrote a whole file with its right hash."""
    manifest_path = copy / "clean" / "belle" / "manifest.json"
    manifest = orjson.loads(manifest_path.read_bytes())
    shard = next(one for one in manifest["shards"] if one["counts"]["dropped"])
    path = copy / "rejects" / "belle" / shard["rejects"]["name"]
    with RejectWriter(path):
        pass
    shard["rejects"]["sha256"] = file_sha256(path)
    manifest_path.write_bytes(orjson.dumps(manifest))
    assert any("{}, not {" in problem for problem in verified(copy).problems)


def test_counts_that_do_not_add_up_are_found(copy):
    manifest_path = copy / "out" / "manifest.json"
    manifest = orjson.loads(manifest_path.read_bytes())
    manifest["counts"]["kept"] += 1
    manifest_path.write_bytes(orjson.dumps(manifest))
    problems = verified(copy).problems
    assert any("do not add up" in problem for problem in problems)
    assert any("are not kept plus dropped" in problem for problem in problems)


def test_nothing_to_verify_is_an_error(tmp_path):
    with pytest.raises(DataError, match="run clean and build first"):
        verify(tmp_path, tmp_path, Engine())


def history(done: Path, row: str) -> list[str]:
    return list(explain(row, done / "data" / "clean", done / "data" / "out"))


def test_a_row_of_a_part_is_followed_to_its_raw_record_and_back(done):
    table = pq.read_table(done / "data" / "out" / "train.parquet").to_pylist()
    for number in (0, len(table) // 2, len(table) - 1):
        lines = history(done, f"train:{number}")
        assert lines[0].startswith(f"train:{number}: from {table[number]['source']}/")
        assert any(line.endswith(f"is train:{number}") for line in lines)
        start = table[number]["response"][:20].replace("\n", "\\n")
        assert any(line.startswith("clean") and start in line for line in lines)


def test_a_dropped_record_says_where_and_why(done):
    lines = history(done, "webtext2019zh/web_text_zh_train.json:3")
    assert lines[-1] == "clean 0: dropped as low_votes"
    assert any(line.startswith("raw title: ") for line in lines)


def test_every_rule_that_changed_a_text_is_shown(done):
    lines = history(done, "webtext2019zh/web_text_zh_train.json:5")
    assert any(line.startswith("changed by: ") for line in lines)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("train:100000", "rows, counted from 0"),
        ("nonsense", "expected train:17, or source/file:line"),
        ("belle/none.json:1", "no single file none.json; it was made from"),
        ("belle/train_2M_CN.json:999", "has no record 999"),
        ("nothing/a.json:1", "no nothing; run clean"),
    ],
)
def test_a_row_that_is_not_there_is_one_plain_error(done, row, message):
    with pytest.raises(DataError, match=message):
        history(done, row)
