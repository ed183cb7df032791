"""The commands, run as a user runs them: one line and exit code 2 when nothing can be done."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chatlm.corpus.recipe import Recipe
from chatlm.corpus.sources import SOURCES
from chatlm.errors import ConfigError
from tests import programs
from utils import raw_data_process
from utils.raw_data_process import POLICY

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures" / "raw"


def run(*argv: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "utils.raw_data_process", *argv],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def settings(folder: Path) -> dict[str, str]:
    return {
        "raw": f"raw={FIXTURES}",
        "clean": f"clean={folder / 'clean'}",
        "out": f"out={folder / 'out'}",
    }


def test_the_whole_way_from_raw_files_to_parts_and_statistics(tmp_path):
    where = settings(tmp_path)
    run("clean", where["raw"], where["clean"])
    # A second run replaces the first without a question.
    code, _, log = run("clean", where["raw"], where["clean"])
    assert code == 0, log
    assert "not in" in log
    assert "pairs" in log
    code, _, log = run("build", where["clean"], where["out"], "max_percent=20")
    assert code == 0, log
    found = {path.name for path in (tmp_path / "out").iterdir()} - {"work", ".lock"}
    assert found == {"manifest.json", "test.parquet", "train.parquet", "valid.parquet"}
    code, table, log = run("stats", where["clean"])
    assert code == 0, log
    assert "4,100,000" in table
    assert "rejected_by_policy" in table
    assert "2,600,000" in table
    code, text, log = run("verify", where["clean"], where["out"])
    assert code == 0, log
    assert "belle: 12 rows in = " in text
    code, text, log = run("explain", "train:0", where["clean"], where["out"])
    assert code == 0, log
    assert "build: " in text.splitlines()[-1]
    (tmp_path / "out" / "test.parquet").write_bytes(b"x")
    code, text, log = run("verify", where["clean"], where["out"])
    assert code == 2
    assert "test.parquet: sha256 is" in text
    assert "1 disagreements" in log


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["clean", "raw={tmp}/none"], "no such folder"),
        (["clean", "raw={tmp}"], "no raw files; expected"),
        (["clean", "raw={tmp}", "sources=bellle"], "sources: no bellle; there are"),
        (["clean", "raws={tmp}"], "raws"),
        (["build", "clean={tmp}/none"], "run clean first"),
        (["build", "clean={tmp}", "engine=spark"], "there are local and ray"),
        (["clean", "raw={tmp}", "recipe=old"], "recipe=old: there are policy and compat"),
        (["explain"], "name a row: row=train:17"),
        (["verify", "clean={tmp}", "out={tmp}"], "run clean and build first"),
        (["build", "clean={tmp}"], "no clean corpora"),
        (["stats", "clean={tmp}", "sources=belle"], "no belle; run clean for it first"),
        (
            ["merge"],
            "expected a command (download, clean, build, stats, verify, explain), found 'merge'",
        ),
        ([], "found nothing"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(tmp_path, argv, message, capfd):
    words = [word.replace("{tmp}", str(tmp_path)) for word in argv]
    done = programs.run(raw_data_process.main, words, capfd)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_command_itself_ends_with_one_line_and_exit_code_2():
    code, out, err = run("merge")
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1


def test_one_damaged_corpus_does_not_cost_the_others(tmp_path):
    raw = tmp_path / "raw"
    shutil.copytree(FIXTURES / "alpaca_zh", raw / "alpaca_zh")
    shutil.copytree(FIXTURES / "alpaca_en", raw / "alpaca_en")
    clean = tmp_path / "clean"
    assert run("clean", f"raw={raw}", f"clean={clean}")[0] == 0
    before = {path: path.read_bytes() for path in (clean / "alpaca_zh").glob("[!.]*.*")}
    (raw / "alpaca_zh" / "alpaca_data_zh_51k.json").write_text('[{"instruction": "')
    shutil.rmtree(clean / "alpaca_en")
    code, _, err = run("clean", f"raw={raw}", f"clean={clean}")
    assert code == 2
    assert "1 of 2 sources failed" in err.splitlines()[-1]
    assert "not a complete JSON array" in err.splitlines()[-1]
    assert {path: path.read_bytes() for path in (clean / "alpaca_zh").glob("[!.]*.*")} == before
    assert (clean / "alpaca_en" / "manifest.json").is_file()


def test_the_policy_names_every_corpus_once_and_rejects_finance_with_a_reason():
    assert set(POLICY) == set(SOURCES)
    assert [name for name, recipe in POLICY.items() if recipe.policy] == ["finance"]
    assert all(isinstance(recipe, Recipe) and recipe.filters() for recipe in POLICY.values())


def test_help_lists_every_command_and_setting(capsys):
    assert raw_data_process.main(["--help"]) == 0
    text = capsys.readouterr().out
    for word in (*raw_data_process.COMMANDS, "raw=data/raw", "max_percent=1"):
        assert word in text


def test_an_unknown_command_is_a_config_error():
    with pytest.raises(ConfigError):
        raw_data_process.main(["cleen"])
