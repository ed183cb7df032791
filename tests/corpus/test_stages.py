"""The stages: rows in are rows kept plus rows dropped, and the same rows give the same files."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from chatlm.corpus import build_stage, clean_stage, starter_parts, statistics, store
from chatlm.corpus.build_stage import BuildSettings
from chatlm.corpus.clean_stage import open_clean
from chatlm.corpus.counts import Counts
from chatlm.corpus.example import Example
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.shards import Origin, ShardWriter, batch_of, read_rejects, read_shard
from chatlm.corpus.sources import SOURCES, files_of
from chatlm.corpus.split import SplitSizes
from chatlm.errors import DataError

from .starter_tables import TABLES, break_table, save

FIXTURES = Path(__file__).parents[1] / "fixtures" / "raw"
PARTS = ("train", "valid", "test")


def rows(path: Path) -> list[dict[str, str]]:
    return pq.read_table(path).to_pylist()


def clean(name: str, folder: Path, recipe: Recipe) -> Counts:
    source = SOURCES[name]
    return clean_stage.clean(source, files_of(source, FIXTURES), recipe, folder / "clean")


def clean_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    shards = open_clean(folder / "clean", name).shards
    return [row for path in shards for batch in read_shard(path) for row in batch.to_pylist()]


def dropped_rows(folder: Path, name: str) -> list[dict[str, object]]:
    return [
        line for path in open_clean(folder / "clean", name).rejects for line in read_rejects(path)
    ]


def test_every_row_of_a_corpus_is_kept_or_has_a_reason(tmp_path):
    recipe = Recipe(min_response_chars=10, min_votes=3, min_unended_chars=100)
    counts = clean("webtext2019zh", tmp_path, recipe)
    assert (counts.rows_in, counts.kept) == (5, 3)
    assert counts.dropped == {"low_votes": 1, "too_short_response": 1}
    assert counts.modified == {"repeated_marks": 1, "finish": 1}
    kept = clean_rows(tmp_path, "webtext2019zh")
    assert [row["response"][-8:] for row in kept] == [
        "的天空是蓝色的。",
        "是蓝光被打散了。",
        "困了再回到床上。",
    ]
    assert [Origin.unpack(row["origin"]).position for row in kept] == [1, 2, 5]
    assert open_clean(tmp_path / "clean", "webtext2019zh").counts == counts
    rejects = dropped_rows(tmp_path, "webtext2019zh")
    assert [(line["position"], line["reason"]) for line in rejects] == [
        (3, "low_votes"),
        (4, "too_short_response"),
    ]
    assert rejects[1]["text"] == "怎样养好一盆绿萝？\n好养。"


def test_a_conversation_gives_a_row_for_each_answer_and_the_book_balances(tmp_path):
    counts = clean("belle", tmp_path, Recipe(drop=("identical", "translation_task", "table")))
    assert counts.dropped == {
        "scripted_dialogue": 1,
        "table": 1,
        "translation_task": 1,
        "unanswered_question": 1,
    }
    assert counts.rows_in == counts.kept + counts.dropped.total() == 12
    prompts = [row["prompt"] for row in clean_rows(tmp_path, "belle")]
    assert "用户：推荐一种水果\n助手：苹果，四季都有。\n用户：怎么保存？\n助手：" in prompts


def test_a_corpus_that_the_policy_rejects_is_read_counted_and_empty(tmp_path):
    counts = clean("finance", tmp_path, Recipe(policy="poor answers"))
    assert counts.kept == 0
    assert counts.dropped == {"not_best_answer": 1, "rejected_by_policy": 1}
    assert clean_rows(tmp_path, "finance") == []


def test_wiki_text_of_both_extractors_becomes_simplified_answers(tmp_path):
    counts = clean("zhwiki", tmp_path, Recipe(min_response_chars=20))
    assert counts.dropped == {"empty_article": 2, "disambiguation": 1}
    answers = [row["response"] for row in clean_rows(tmp_path, "zhwiki")]
    assert any("沿着河岸" in text for text in answers)
    assert any(text.endswith("现代的风力发电机也由它发展而来。") for text in answers)


def test_nothing_usable_is_an_error_and_keeps_the_earlier_output(tmp_path):
    clean("alpaca_zh", tmp_path, Recipe())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="not one of 3 rows of alpaca_data_zh_51k"):
        clean("alpaca_zh", tmp_path, Recipe(min_response_chars=400))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_unknown_filter_is_named():
    with pytest.raises(DataError, match="no filter tabel; there are identical, table"):
        Recipe(drop=("tabel",)).filters()


def test_a_book_that_does_not_balance_is_a_defect():
    counts = Counts(rows_in=3, kept=1)
    counts.dropped["x"] = 1
    with pytest.raises(RuntimeError, match="3 rows in, but 1 kept and 1 dropped"):
        counts.check("stage")


def make_clean(folder: Path, named: dict[str, list[Example]], shard_rows: int = 1000) -> Path:
    """Writes clean corpora as the stage `clean` does, cut into shards."""
    for name, examples in named.items():
        entries = []
        for number, start in enumerate(range(0, len(examples), shard_rows)):
            some_rows = examples[start : start + shard_rows]
            path = folder / name / f"{number}.arrow"
            with ShardWriter(path) as writer:
                origins = [Origin(0, start + place + 1).pack() for place in range(len(some_rows))]
                writer.write(batch_of(some_rows, origins))
            entries.append({"rows": {"name": path.name, "sha256": store.file_sha256(path)}})
        counts = Counts(len(examples), len(examples)).as_dict()
        manifest = {"source": name, "licence": "", "files": [], "shards": entries, "counts": counts}
        store.write_json(folder / name / "manifest.json", manifest)
    return folder


def some(source: str, count: int) -> list[Example]:
    """Returns questions with two answers each, none of them alike."""
    return [
        Example(
            f"{source}{number // 2 * 7919 % 10007}号的问题", f"{chr(0x4E00 + number)}是答案", source
        )
        for number in range(count)
    ]


def build(
    tmp_path: Path,
    name: str,
    named: dict[str, list[Example]],
    sources: list[str] | None = None,
    shard_rows: int = 1000,
    **settings,
) -> Path:
    out = tmp_path / name
    clean_dir = make_clean(tmp_path / f"{name}-clean", named, shard_rows)
    build_stage.build(clean_dir, sources or sorted(named), out, BuildSettings(**settings))
    return out


def fingerprint(folder: Path) -> str:
    return hashlib.sha256(
        b"".join((folder / f"{part}.parquet").read_bytes() for part in PARTS)
    ).hexdigest()


def test_build_drops_duplicates_splits_by_question_and_loses_nothing(tmp_path):
    named = {
        "a": some("甲", 300),
        "b": [*some("乙", 100), Example("甲0号的问题？", "一是答案。", "b")],
    }
    sizes = SplitSizes(valid_rows=20, test_rows=30, max_percent=50)
    out = build(tmp_path, "out", named, sizes=sizes)
    found = {part: rows(out / f"{part}.parquet") for part in PARTS}
    assert {part: len(found[part]) for part in PARTS} == {"train": 350, "valid": 20, "test": 30}
    asked = [{row["prompt"] for row in found[part]} for part in PARTS]
    assert len(set.union(*asked)) == sum(map(len, asked))
    pairs = sorted((row["prompt"], row["response"]) for part in PARTS for row in found[part])
    assert pairs == sorted(
        (one.prompt, one.response) for one in [*some("甲", 300), *some("乙", 100)]
    )
    manifest: Any = store.read_json(out / "manifest.json")
    written = {"train": 350, "valid": 20, "test": 30}
    assert {name: part["rows"] for name, part in manifest["parts"].items()} == written


def test_the_files_do_not_depend_on_how_the_rows_were_stored(tmp_path):
    rows_a, rows_b = some("甲", 300), some("乙", 100)
    first = build(tmp_path, "one", {"a": rows_a, "b": rows_b})
    again = build(tmp_path, "two", {"z": rows_a[:150], "y": rows_b, "x": rows_a[150:][::-1]})
    other = build(tmp_path, "three", {"a": rows_a, "b": rows_b}, seed=1)
    assert fingerprint(first) == fingerprint(again)
    assert fingerprint(first) != fingerprint(other)


def test_of_two_copies_the_earlier_source_stays(tmp_path):
    named = {"a": [Example("问题", "答案", "a")], "b": [Example("问题", "答案。", "b")]}
    for order in (["a", "b"], ["b", "a"]):
        out = build(tmp_path, "-".join(order), named, sources=order)
        assert [row["source"] for row in rows(out / "train.parquet")] == order[:1]


@pytest.mark.parametrize("damage", ["nothing", "empty", "cut", "changed", "named"])
def test_a_build_that_cannot_be_done_says_so_and_keeps_the_earlier_parts(tmp_path, damage):
    out = build(tmp_path, "out", {"a": some("甲", 300)})
    before = fingerprint(out)
    broken = tmp_path / "broken"
    messages = {
        "nothing": "no clean corpora",
        "empty": "no rows in",
        "cut": "no readable manifest",
        "changed": "has changed since clean wrote it",
        "named": "no b; run clean",
    }
    make_clean(broken, {"a": [] if damage == "empty" else some("乙", 10)})
    if damage == "cut":
        (broken / "a" / "manifest.json").write_bytes(b"{")
    if damage == "changed":
        with (broken / "a" / "0.arrow").open("ab") as file:
            file.write(b"x")
    sources = {"named": ["b"], "nothing": []}.get(damage, ["a"])
    with pytest.raises(DataError, match=messages[damage]):
        build_stage.build(broken, sources, out)
    assert fingerprint(out) == before
    assert {path.name for path in out.iterdir()} - {"work", ".lock"} == {
        "manifest.json",
        "test.parquet",
        "train.parquet",
        "valid.parquet",
    }


def test_stats_count_lengths_in_characters(tmp_path):
    clean("baike_qa2019", tmp_path, Recipe())
    (found,) = statistics.stats(tmp_path / "clean", ["baike_qa2019"])
    assert (found.name, found.counts.rows_in, found.counts.kept) == ("baike_qa2019", 2, 2)
    assert sum(found.prompt_lengths) == sum(found.response_lengths) == 2
    # 7 characters and 9: the classes below 8 and from 8 to 15.
    assert found.prompt_lengths == [1, 1, 0, 0, 0, 0, 0, 0]


def test_the_starter_corpus_becomes_the_three_parts(tmp_path):
    save(tmp_path, TABLES)
    starter_parts.prepare_starter(tmp_path, tmp_path / "out")
    again = tmp_path / "again"
    starter_parts.prepare_starter(tmp_path, again)
    found = [len(rows(tmp_path / "out" / f"{part}.parquet")) for part in PARTS]
    assert found == [12 + 5 * starter_parts.OPEN_REPEATS, 3, 3]
    assert fingerprint(again) == fingerprint(tmp_path / "out")
    assert {row["source"] for row in rows(again / "train.parquet")} == {
        "starter/colours",
        "starter_open/colours",
    }


def test_a_starter_question_may_not_be_tested_and_trained_under_another_mark(tmp_path):
    def change(content):
        content["tables"][0]["test"] = [content["tables"][0]["train"][0] + "？"]

    save(tmp_path, break_table(change))
    with pytest.raises(DataError, match=r"the test question .* is asked in train too"):
        starter_parts.prepare_starter(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_starter_answer_that_the_filters_refuse_is_named(tmp_path):
    def change(content):
        content["tables"][0]["answer"] = "{one}和{two}和{result}，"

    save(tmp_path, break_table(change))
    with pytest.raises(DataError, match=r"starter/colours: the pair .* is cut_off"):
        starter_parts.prepare_starter(tmp_path, tmp_path / "out")


def real_folder() -> Path:
    return Path(os.environ.get("CHATLM_REAL_DATA", ""))


@pytest.mark.real_data
@pytest.mark.skipif(not os.environ.get("CHATLM_REAL_DATA"), reason="CHATLM_REAL_DATA is not set")
def test_the_real_medical_file_keeps_every_character_and_nearly_every_row(tmp_path):
    source = SOURCES["medical"]
    (tmp_path / "raw").mkdir()
    shutil.copytree(real_folder() / "raw" / "toyhom_medical", tmp_path / "raw" / "medical")
    recipe = Recipe(min_prompt_chars=4, min_response_chars=4, min_han_share=0.5)
    counts = clean_stage.clean(
        source, files_of(source, tmp_path / "raw"), recipe, tmp_path / "clean"
    )
    assert counts.rows_in == 6_644
    assert not counts.dropped.keys() & {"undecodable_bytes", "ragged_row", "unclosed_quote"}
    assert counts.kept > 6_500


@pytest.mark.real_data
@pytest.mark.skipif(not os.environ.get("CHATLM_REAL_DATA"), reason="CHATLM_REAL_DATA is not set")
def test_the_three_real_wiki_formats_give_the_same_articles(tmp_path):
    source = SOURCES["zhwiki"]
    answers = []
    for name in ("wiki.apertium.txt", "wiki_00.attardi", "wiki_00.json"):
        path, folder = real_folder() / "raw" / "wiki" / name, tmp_path / name
        counts = clean_stage.clean(source, [path], Recipe(), folder / "clean")
        assert counts.kept > 500
        answers.append({row["response"] for row in clean_rows(folder, "zhwiki")})
    assert len(answers[0] & answers[1] & answers[2]) > 0.95 * len(answers[0])


@pytest.mark.real_data
@pytest.mark.skipif(not os.environ.get("CHATLM_REAL_DATA"), reason="CHATLM_REAL_DATA is not set")
def test_a_fastparquet_gzip_file_is_read_and_its_cut_answers_are_mended(tmp_path):
    path = real_folder() / "chatlm_mini_train_3k.parquet"
    recipe = Recipe(max_response_chars=512, min_unended_chars=100)
    counts = clean_stage.clean(SOURCES["pairs"], [path], recipe, tmp_path / "clean")
    assert counts.rows_in == 3_000
    assert counts.modified["finish"] > 300
