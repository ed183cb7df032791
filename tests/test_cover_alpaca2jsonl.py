"""Alpaca's array of instructions becomes lines of pairs, or one line says why not."""

import json

import pytest

from chatlm.errors import ConfigError, DataError
from utils.cover_alpaca2jsonl import main

ROWS = [
    {"instruction": "列出三原色。", "input": "", "output": "红、绿、蓝。"},
    {"instruction": "翻译", "input": "hello", "output": "你好\u2028。"},
    {"instruction": "无", "input": "", "output": ""},
    {"instruction": "无", "input": "", "output": "<no output>"},
    {"instruction": "缺"},
    "not an object",
    {"messages": [{"role": "user", "content": "甲"}, {"role": "assistant", "content": "乙"}]},
]
LINES = (
    '{"prompt":"列出三原色。","response":"红、绿、蓝。"}\n'
    '{"prompt":"翻译\\nhello","response":"你好\u2028。"}\n'
    '{"prompt":"甲","response":"乙"}\n'
)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps(ROWS, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("dashes", ["", "--"])
def test_rows_become_lines_and_each_other_row_has_a_reason(data, tmp_path, capsys, dashes):
    out = tmp_path / "new" / "alpaca.jsonl"
    argv = [f"{dashes}data_path={data}", f"{dashes}save_path={out}"]
    if dashes:
        argv = ["--data_path", str(data), "--save_path", str(out)]
    assert main(argv) == 0
    assert out.read_bytes().decode("utf-8") == LINES
    assert json.loads(capsys.readouterr().out) == {
        "saved": str(out),
        "rows_in": 7,
        "kept": 3,
        "dropped": {"empty_response": 1, "missing_field": 1, "no_output": 1, "not_an_object": 1},
        "modified": {},
    }


def test_a_failure_leaves_the_older_file_alone(tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("older")
    for content, message in (
        ('[{"instruction": "a"', "not a complete JSON array"),
        ("[]", r"holds no pair .*; expected records with instruction, input and output"),
    ):
        (tmp_path / "in.json").write_text(content)
        with pytest.raises(DataError, match=message) as caught:
            main([f"data_path={tmp_path / 'in.json'}", f"save_path={out}"])
        assert "\n" not in str(caught.value)
    assert out.read_text() == "older"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json", "out.jsonl"]


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'data_path'"):
        main(["data_pathh=x"])
    with pytest.raises(DataError, match="cannot be read"):
        main([f"data_path={tmp_path / 'none.json'}", f"save_path={tmp_path / 'x'}"])
    assert not list(tmp_path.iterdir())


def test_help_names_the_settings(capsys):
    assert main(["--help"]) == 0
    assert "data_path=data/alpaca_data.json" in capsys.readouterr().out
