"""The command turns lines of pairs into a folder of ids, or says in one line why it cannot."""

import json
import os
from pathlib import Path

import pytest

from chatlm.adapters.forms import open_form
from chatlm.adapters.sequences import open_sequences
from chatlm.errors import CheckpointError, ConfigError, DataError
from tests.glm.small import write_folder
from utils import cover_alpaca2jsonl, tokenize_dataset_rows
from utils.tokenize_dataset_rows import main

ROWS = [
    {"prompt": "列出三原色。", "response": "红、绿、蓝。"},
    {"prompt": "你好", "response": "今天天气很好，我们一起去公园散步吧。" * 4},
    {"context": "Instruction: 好\nAnswer: ", "target": "好"},
    {"prompt": "空", "response": ""},
]


@pytest.fixture
def base(tmp_path):
    return write_folder(tmp_path / "base")


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    path.write_text(f"{text}\n{{broken\n", encoding="utf-8")
    return path


def run(lines, base, out, capsys, *more):
    argv = ["--jsonl_path", str(lines), "--save_path", str(out), "--max_seq_length", "40", *more]
    assert main([*argv, f"base={base}"]) == 0
    return json.loads(capsys.readouterr().out)


def test_false_means_false_and_true_means_true(lines, base, tmp_path, capsys):
    kept = {}
    for value in ("true", "false"):
        report = run(lines, base, tmp_path / value, capsys, "--skip_overlength", value)
        assert report["rows_in"] == 5
        assert report["kept"] + sum(report["dropped"].values()) == 5
        assert report["form"] == "chatglm"
        kept[value] = report["kept"]
    assert kept == {"true": 2, "false": 3}
    form = open_form(str(base))
    store = open_sequences(tmp_path / "false", form.fingerprint)
    decode = form.tokenizer.decode
    whole = [decode([*store.sources[row], *store.targets[row]]) for row in range(3)]
    assert whole[0] == "列出三原色。[gMASK]<sop> 红、绿、蓝。<eop>"
    assert whole[2] == "Instruction: 好\nAnswer: [gMASK]<sop> 好<eop>"
    assert len(store.sources[1]) + len(store.targets[1]) == 40
    assert form.end_ids[0] not in store.targets[1]


def test_the_older_name_of_the_model_is_understood(lines, base, tmp_path, capsys):
    argv = [f"--jsonl_path={lines}", f"--save_path={tmp_path / 'out'}", f"--chatglm_path={base}"]
    assert main(argv) == 0
    captured = capsys.readouterr()
    assert "'chatglm_path' is called 'base' today" in captured.err
    assert json.loads(captured.out)["kept"] == 3


def test_the_two_commands_one_after_the_other(base, tmp_path, capsys):
    rows = [{"instruction": "加", "input": "1 2", "output": "3"}] * 3
    (tmp_path / "alpaca.json").write_text(json.dumps(rows))
    lines = tmp_path / "alpaca.jsonl"
    cover_alpaca2jsonl.main([f"data_path={tmp_path / 'alpaca.json'}", f"save_path={lines}"])
    capsys.readouterr()
    assert run(lines, base, tmp_path / "out", capsys)["kept"] == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["max_seq_length=3"], ConfigError, "max_seq_length=3 must be at least 4"),
        (["skip_overlength=perhaps"], ConfigError, "skip_overlength=perhaps is not a valid"),
        (["max_seq_lenght=8"], ConfigError, "did you mean 'max_seq_length'"),
        (["jsonl_path=none.jsonl"], DataError, "none.jsonl: cannot be read"),
        (["base=/nothing/here"], CheckpointError, "its tokenizer cannot be loaded"),
        (["max_seq_length=4"], DataError, "no row is left to train on"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(lines, base, tmp_path, arguments, error, message):
    argv = [f"jsonl_path={lines}", f"save_path={tmp_path / 'out'}", f"base={base}", *arguments]
    with pytest.raises(error, match=message) as caught:
        main(argv)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_help_names_the_settings(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert "skip_overlength=False" in text
    assert tokenize_dataset_rows.TokenizeConfig.max_seq_length == 384


@pytest.mark.real_data
@pytest.mark.skipif(not os.environ.get("CHATLM_REAL_DATA"), reason="CHATLM_REAL_DATA is not set")
@pytest.mark.parametrize(
    ("name", "rows", "dropped"),
    [
        ("alpaca_data.json", 52002, {"empty_response": 28, "no_output": 53}),
        ("alpaca_data_zh.json", 51002, {"empty_response": 49, "no_output": 40}),
    ],
)
def test_the_published_files_lose_no_row_without_a_reason(name, rows, dropped, tmp_path, capsys):
    data, out = Path(os.environ["CHATLM_REAL_DATA"]) / "raw" / name, tmp_path / "out.jsonl"
    assert cover_alpaca2jsonl.main([f"data_path={data}", f"save_path={out}"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rows_in"], report["dropped"]) == (rows, dropped)
    assert out.read_bytes().count(b"\n") == report["kept"] == rows - sum(dropped.values())
