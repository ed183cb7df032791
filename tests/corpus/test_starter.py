"""The starter corpus: what expands, and what is refused by name."""

import pytest

from chatlm.corpus import starter
from chatlm.corpus.example import Example
from chatlm.errors import DataError

from .starter_tables import TABLES, break_table, save


def test_closed_and_open_tables_expand_into_their_split(tmp_path):
    save(tmp_path, TABLES)
    assert starter.expand(tmp_path, "test") == [
        Example("红与黄调出哪种颜色？", "红和黄混合得到橙色。", "starter/colours"),
        Example("蓝与黄调出哪种颜色？", "蓝和黄混合得到绿色。", "starter/colours"),
        Example(
            "颜色里你偏爱哪个？",
            "我没有眼睛，不过大家常说蓝色让人平静。",
            "starter_open/colours",
        ),
    ]
    assert len(starter.expand(tmp_path, "train")) == 2 * 6 + 5
    assert len(starter.expand(tmp_path, "valid")) == 3


def test_subfolders_are_corpora_of_their_own(tmp_path):
    (tmp_path / "finetune").mkdir()
    save(tmp_path / "finetune", {"broken": True})
    assert starter.expand(save(tmp_path, TABLES), "valid")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("topic"), "expected exactly the keys topic and tables"),
        (lambda c: c.update(tables={}), "tables a list"),
        (lambda c: c["tables"][0].update(kind="other"), "table 1: kind must be closed or open"),
        (lambda c: c["tables"][0].pop("rows"), "table mixing: missing keys: rows"),
        (lambda c: c["tables"][0].update(note="x"), "table mixing: .*unknown keys: note"),
        (lambda c: c["tables"][0]["train"].pop(), "train has 5 phrasings, needs 6"),
        (lambda c: c["tables"][0]["valid"].append("{nine}"), "'{nine}' must name columns"),
        (lambda c: c["tables"][0].update(answer="没有列名。"), "must name columns"),
        (lambda c: c["tables"][0]["rows"].append(["红"]), "row 3: expected 3 values"),
        (lambda c: c["tables"][0]["rows"].append(["红", True, 7]), "row 3 holds True, .* quote it"),
        (
            lambda c: c["tables"][0]["test"].append(c["tables"][0]["train"][0]),
            "is in train and in test",
        ),
        (
            lambda c: c["tables"][0]["rows"].append(["红", "黄", "棕色"]),
            "has two answers: '红和黄混合得到橙色。'",
        ),
        (lambda c: c["tables"][1]["items"][0].pop("answer"), "table taste, item 1: missing keys"),
        (lambda c: c["tables"][1]["items"].append("x"), "item 2: expected train, valid, test"),
    ],
)
def test_a_table_of_another_shape_is_named(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        starter.expand(save(tmp_path, break_table(change)), "train")


def test_a_file_that_is_no_yaml_and_a_folder_without_any_are_named(tmp_path):
    with pytest.raises(DataError, match="no starter tables"):
        starter.expand(tmp_path, "train")
    (tmp_path / "x.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.yaml: not readable as YAML") as error:
        starter.expand(tmp_path, "train")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no split 'dev'"):
        starter.expand(tmp_path, "dev")


def test_one_question_has_one_answer_across_topics(tmp_path):
    save(tmp_path, TABLES)

    def change(content):
        content["topic"] = "paint"
        content["tables"][0]["answer"] = "{one}{two}变{result}。"

    save(tmp_path, break_table(change), "paint.yaml")
    with pytest.raises(DataError, match=r"starter/paint: .* has two answers"):
        starter.expand(tmp_path, "train")
