"""Blocks of JSON Lines: the same rows, rejects and line numbers as the row reader, at any cut."""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from chatlm.corpus import read_json
from chatlm.corpus.json_blocks import line_spans, read_blocks
from chatlm.corpus.read_json import read_json_array, read_jsonl
from chatlm.corpus.records import Record, Rejected
from chatlm.errors import DataError

from .json_noise import check_readers, noisy_file, rows_of_blocks

TORTURE = bool(os.environ.get("CHATLM_TORTURE"))
LINES = 100_000 if TORTURE else 5_000
SEEDS = Path(__file__).parent.parent / "fuzz" / "corpus" / "json"
REASONS = {
    "invalid_utf8",
    "lone_surrogate",
    "malformed_json",
    "not_an_object",
    "too_deep",
}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def verdicts(found: dict[int, Record | Rejected]) -> dict[int, str]:
    return {line: getattr(one, "reason", "record") for line, one in found.items()}


def test_a_block_has_columns_and_tells_what_is_in_none(tmp_path):
    lines = [
        '{"title": "甲", "star": 3, "answer": "乙\\r\\r丙"}',
        "",
        '{"title": null, "star": "4", "x": true}',
        '{"title": ["nested"]}',
        '{"title": "cut off',
    ]
    path = write(tmp_path / "x.jsonl", "\n".join(lines))
    (block,) = read_blocks(path, ["title", "answer"], ["star"], first_line=11)
    assert block.positions.tolist() == [11, 13]
    assert list(block.texts["title"]) == ["甲", ""]
    assert list(block.texts["answer"]) == ["乙\r\r丙", ""]
    assert block.ints["star"].tolist() == [3, 0]
    assert {name: flags.tolist() for name, flags in block.present.items()} == {
        "title": [True, False],
        "answer": [True, False],
        "star": [True, False],
    }
    assert block.record(1) == Record(13, {"title": None, "star": "4", "x": True})
    assert block.others == [
        Record(14, {"title": ["nested"]}),
        Rejected(str(path), 15, "malformed_json", '{"title": "cut off'),
    ]
    assert (len(block), block.num_lines) == (2, 5)
    assert block.mentions("x")
    assert not block.mentions("desc")


@pytest.mark.parametrize("block_bytes", [1, 61, 4096, 1 << 20])
def test_both_readers_and_the_strict_parser_agree_on_hostile_lines(tmp_path, block_bytes):
    rng = random.Random(block_bytes)
    seen = set[str]()
    for _ in range(LINES // 4 // 250):
        raw = noisy_file(rng, 250)
        seen |= set(verdicts(check_readers(tmp_path / "x.jsonl", raw, block_bytes)).values())
    assert seen == REASONS | {"record"}


@pytest.mark.parametrize("span_bytes", [1, 700, 20_000, 1 << 30])
def test_the_rows_of_all_spans_are_the_rows_of_the_file(tmp_path, span_bytes):
    for seed in range(8):
        raw = noisy_file(random.Random(seed), 60)
        path = write(tmp_path / "x.jsonl", raw)
        whole = {one.position: one for one in read_jsonl(path)}
        plan = line_spans(path, span_bytes)
        assert (plan.sha256, plan.num_bytes) == (hashlib.sha256(raw).hexdigest(), len(raw))
        by_block, by_row = dict[int, Record | Rejected](), dict[int, Record | Rejected]()
        end, next_line = 0, 1
        for span in plan.spans:
            assert (span.start, span.first_line) == (end, next_line)
            assert raw[span.end - 1 : span.end] == b"\n" or span.end == len(raw)
            assert raw.find(b"\n", span.start + span_bytes - 1, span.end - 1) < 0
            assert span.sha256 == hashlib.sha256(raw[span.start : span.end]).hexdigest()
            cut = (span.start, span.end)
            by_block |= rows_of_blocks(path, cut, 512, span.first_line)
            by_row |= {one.position: one for one in read_jsonl(path, cut, span.first_line)}
            end, next_line = span.end, span.first_line + span.num_lines
        assert (end, next_line - 1) == (len(raw), raw.count(b"\n") + (raw[-1:] != b"\n"))
        assert by_block == by_row == whole


def test_spans_end_with_the_line_that_reaches_their_size(tmp_path):
    path = write(tmp_path / "x.jsonl", "12345\n78\n0\n" + "x" * 20 + "\n1")
    cuts = [(span.start, span.end, span.num_lines) for span in line_spans(path, 8).spans]
    assert cuts == [(0, 9, 2), (9, 32, 2), (32, 33, 1)]


def test_a_file_larger_than_a_plan_reads_at_once_is_cut_where_its_lines_end(tmp_path):
    line = b'{"title": "' + b"x" * 1000 + b'"}\n'
    path = write(tmp_path / "x.jsonl", line * 5000)
    plan = line_spans(path, 3 << 20)
    assert [span.num_lines for span in plan.spans] == [3103, 1897]
    assert plan.sha256 == hashlib.sha256(line * 5000).hexdigest()
    assert plan.spans[1].sha256 == hashlib.sha256(line * 1897).hexdigest()


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n\n", b"\xef\xbb\xbf\n \t\r\n"])
def test_files_of_nothing_give_nothing(tmp_path, content):
    assert check_readers(tmp_path / "x.jsonl", content, 64) == {}


def test_a_file_of_nothing_has_no_spans(tmp_path):
    assert line_spans(write(tmp_path / "x.jsonl", "")).spans == []


@pytest.mark.parametrize("block_bytes", [1, 50, 1000, 1 << 16])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines_around_the_limit_are_judged_alike(tmp_path, monkeypatch, block_bytes, mark):
    monkeypatch.setattr(read_json, "MAX_LINE_BYTES", 100)
    for size in (98, 99, 100, 101, 102, 103, 104, 150, 199, 200, 201, 500):
        long = b'{"title":"' + b"x" * (size - 12) + b'"}'
        assert len(long) == size
        lines = [long, b'{"title":"a"}', long, b" " * size, b"", long, long, b'{"star":1}', long]
        found = check_readers(tmp_path / "x.jsonl", mark + b"\n".join(lines), block_bytes)
        held = "record" if size < 100 else "line_too_long"
        last = "record" if size <= 100 else "line_too_long"
        expected = dict(enumerate([held, "record", held, held, "", held, held, "record", last], 1))
        del expected[5]
        if size < 100:
            del expected[4]
        assert verdicts(found) == expected


def test_nesting_is_counted_as_a_parser_would(tmp_path):
    def nested(depth: int, text: str) -> bytes:
        return f'{{"title": "{text}", "x": {"[" * (depth - 1)}{"]" * (depth - 1)}}}'.encode()

    texts = ["[" * 99, '\\"' + "[" * 99, '\\\\\\"' + "{" * 99, "\\\\", "]" * 99, "[]" * 99]
    for text in texts:
        raw = b"\n".join([nested(64, text), nested(65, text), b"[" * 99 + b'"' + b"]" * 99])
        found = check_readers(tmp_path / "x.jsonl", raw, 1 << 16)
        assert verdicts(found) == {1: "record", 2: "too_deep", 3: "too_deep"}


MEASURE = """
import sys
from pathlib import Path
from chatlm.corpus.json_blocks import line_spans, read_blocks
from tests.corpus.memory import peak_kib
from chatlm.corpus.read_json import read_jsonl
small, path = Path(sys.argv[1]), Path(sys.argv[2])
def read(path):
    rows = [(one.position, getattr(one, "reason", "record")) for one in read_jsonl(path)]
    blocks = []
    for block in read_blocks(path, ["a"]):
        blocks += [(line, "record") for line in block.positions.tolist()]
        blocks += [(one.position, one.reason) for one in block.others]
    assert rows == sorted(blocks), (rows, blocks)
    return line_spans(path).spans[-1].first_line, rows
read(small)
base = peak_kib()
found = read(path)
print(found, (peak_kib() - base) >> 10)
"""


def test_a_huge_line_and_huge_nesting_cost_little_memory_and_no_neighbour(tmp_path):
    small = write(tmp_path / "small.jsonl", '{"a": "x"}\n[[]]\n')
    path = tmp_path / "huge.jsonl"
    with path.open("wb") as file:
        file.write(b'{"a": "first"}\n{"a": "')
        file.seek((1 << 30) if TORTURE else (100 << 20), os.SEEK_CUR)  # a hole reads as zeros
        file.write(b'"}\n{"a": "third"}\n' + b"[" * 10**7 + b"\n")
        file.write(b'{"a":' * 2_000_000 + b"\n" + b'{"a": "sixth"}\n')
    argv = [sys.executable, "-c", MEASURE, small, path]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    rows, megabytes = done.stdout.rsplit(maxsplit=1)
    names = ["record", "line_too_long", "record", "too_deep", "too_deep", "record"]
    assert rows.endswith(f"{list(enumerate(names, start=1))})")
    assert int(megabytes) <= 256


def _cut(path: Path) -> None:
    os.truncate(path, 30_000)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"title": "more"}\n')


@pytest.mark.parametrize("change", [_cut, _grow])
@pytest.mark.parametrize("reader", ["rows", "blocks"])
def test_a_file_that_changes_while_it_is_read_is_one_plain_error(tmp_path, change, reader):
    path = write(
        tmp_path / "x.jsonl", b'{"title": "' + b"x" * 100 + b'"}\n' * 1 + b"{}\n" * 100_000
    )
    reading = read_jsonl(path) if reader == "rows" else read_blocks(path, ["title"], (), None, 8192)
    next(reading)
    change(path)
    with pytest.raises(DataError, match=r"x\.jsonl: changed its size while it was being read"):
        for _ in reading:
            pass


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "cannot be read"),
        ("wide.jsonl", '{"title": 1}'.encode("utf-16"), "is UTF-16"),
        ("short.jsonl", b"{}\n", "changed its size"),
    ],
)
def test_hopeless_files_are_one_line_for_every_reader(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    span = (0, 10) if name == "short.jsonl" else None
    for reading in (read_jsonl(path, span), read_blocks(path, ["title"], (), span)):
        with pytest.raises(DataError, match=message):
            next(iter(reading))
    if span is None:
        with pytest.raises(DataError, match=message):
            line_spans(path)


def test_an_array_too_large_for_memory_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "big.json"
    with path.open("wb") as file:
        file.write(b"[")
        file.truncate((1 << 30) + 1)
    with pytest.raises(
        DataError, match=r"big\.json: .* 1\.0 GiB .* jq -cn --stream .* > big\.jsonl"
    ):
        next(read_json_array(path))


def test_field_names_are_taken_once(tmp_path):
    with pytest.raises(ValueError, match="different field names"):
        next(read_blocks(write(tmp_path / "x.jsonl", "{}"), ["a"], ["a"]))


def test_a_block_without_wanted_fields_still_counts_its_lines(tmp_path):
    (block,) = read_blocks(write(tmp_path / "x.jsonl", '{"a":1}\n[]\n{"b":"x"}'), [])
    assert (block.positions.tolist(), len(block.others), block.num_lines) == ([1, 3], 1, 3)


@pytest.mark.parametrize("seed", sorted(SEEDS.glob("*")), ids=lambda seed: seed.name)
def test_the_readers_agree_on_what_the_fuzzer_kept(tmp_path, seed):
    raw = seed.read_bytes()
    for block_bytes in (1, 16, 1 << 16):
        check_readers(tmp_path / "x.jsonl", raw, block_bytes)
