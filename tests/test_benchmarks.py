"""Generated corpora have the rows and the planted defects that their truth names."""

import bz2
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatlm.corpus import readers
from chatlm.corpus.example import Example
from chatlm.corpus.records import Record
from chatlm.corpus.sources import SOURCES

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "generate_corpora.py"
ROWS = 2000


def generate(real, out, workers):
    argv = [f"real={real}", f"out={out}", f"rows={ROWS}", f"workers={workers}", "seed=3"]
    subprocess.run([sys.executable, SCRIPT, *argv], check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Pairs from which sentences are taken; the words carry a number, so that all differ."""
    path = tmp_path_factory.mktemp("real") / "pairs.parquet"
    prompts = [f"第{i}号花园里，春天种什么花？" for i in range(300)]
    answers = [f"第{i}号花园种月季。土要松{i}天，“水”要少！\n肥料{i}克。" for i in range(300)]
    pq.write_table(pa.table({"prompt": prompts, "response": answers}), path)
    return path


@pytest.fixture(scope="module")
def raw(real, tmp_path_factory):
    return generate(real, tmp_path_factory.mktemp("raw"), workers=2)


@pytest.fixture(scope="module")
def truth(raw):
    return json.loads((raw / "truth.json").read_text())


def test_all_sources_get_their_share_of_the_rows(truth):
    rows = {name: entry["rows"] for name, entry in truth["files"].items()}
    assert sum(rows.values()) == ROWS
    assert {name.split("/")[0] for name in rows} == {
        "webtext2019zh",
        "baike_qa2019",
        "medical",
        "finance",
        "zhihu_kol",
        "belle",
        "zhwiki",
    }


def test_every_file_reads_as_its_truth_says(raw, truth):
    tables = {name: entry for name, entry in truth["files"].items() if "zhwiki" not in name}
    for name, entry in tables.items():
        source = SOURCES[name.split("/")[0]]
        read = list(readers.read(raw / name, source.columns))
        rejected = [one.position for one in read if not isinstance(one, Record)]
        assert (name, len(read)) == (name, entry["rows"])
        assert rejected == entry["malformed_lines"]


def test_every_record_converts_to_text_or_a_reason(raw, truth):
    for name in truth["files"]:
        if "zhwiki" in name:
            continue
        source = SOURCES[name.split("/")[0]]
        for record in readers.read(raw / name, source.columns):
            if isinstance(record, Record):
                result = source.convert(record.fields)
                if not isinstance(result, str):
                    examples = [one for one in result if isinstance(one, Example)]
                    assert result
                    assert all(one.source == source.name for one in examples)


def test_the_dump_has_its_pages_in_streams_of_a_hundred(raw, truth):
    (name,) = (name for name in truth["files"] if "zhwiki" in name)
    content = (raw / name).read_bytes()
    pages = []
    while content:
        decompressor = bz2.BZ2Decompressor()
        pages.append(decompressor.decompress(content).count(b"<page>"))
        content = decompressor.unused_data
    entry = truth["files"][name]
    assert pages == [0, 100, entry["rows"] - 100, 0]
    found = Counter()
    for one in readers.read(raw / name):
        found["article" if isinstance(one, Record) else one.reason] += 1
    assert found == {
        "article": entry["article"] + entry["stub"],
        "redirect": entry["redirect"],
        "disambiguation": entry["disambiguation"],
        "other_namespace": entry["other_space"],
    }


def test_the_bytes_do_not_depend_on_the_workers(real, raw, tmp_path):
    other = generate(real, tmp_path, workers=1)
    for path in sorted(raw.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (other / path.relative_to(raw)).read_bytes(), path


def test_the_whole_pipeline_is_measured_on_any_raw_folder(tmp_path):
    raw = ROOT / "tests" / "fixtures" / "raw"
    argv = [f"raw={raw}", f"out={tmp_path / 'whole'}", "workers=1"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "data.py"), *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert [one["name"] for one in figures["commands"]] == ["clean", "build", "verify"]
    assert all(one["seconds"] > 0 for one in figures["commands"])
    assert figures["rows_in"] == 39
    assert sum(figures["parts"].values()) == 23
