"""Door 1 as a user meets it: help, typos and old spellings, each without loading torch."""

import subprocess
import sys
from pathlib import Path

import pytest

import train
from chatlm import cli
from chatlm.config import TrainConfig

ROOT = Path(__file__).parent.parent


def door(*argv):
    return subprocess.run(
        [sys.executable, "-X", "importtime", "train.py", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def imported(done):
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}


def said(done):
    return [line for line in done.stderr.splitlines() if not line.startswith("import time")]


@pytest.mark.parametrize(
    "argv", [["--help"], ["train", "--help"], ["evaluate", "--help"], ["plan", "--help"]]
)
def test_help_needs_no_torch(argv):
    done = door(*argv)
    assert done.returncode == 0
    assert "usage:" in done.stdout
    assert "torch" not in imported(done)


def test_nothing_at_all_is_help_and_code_2():
    done = door()
    assert done.returncode == 2
    assert "usage:" in "\n".join(said(done))
    assert "torch" not in imported(done)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["train", "epohcs=3"], "error: unknown setting 'epohcs': did you mean 'epochs'?"),
        (["trian"], "error: unknown command 'trian': did you mean 'train'?"),
        (["train", "batch_size=x"], "error: batch_size=x is not a valid int"),
        (["evaluate", "modle=x"], "error: unknown setting 'modle': did you mean 'model'?"),
        (["train", "data=nowhere"], "error: data=nowhere does not exist"),
        (["plan", "epohcs=3"], "error: unknown setting 'epohcs': did you mean 'epochs'?"),
        (["plan", "price_per_hou=3"], "error: unknown setting 'price_per_hou': did you mean"),
        (["plan", "gpu=h20"], "error: gpu=h20 is not in the table: did you mean 'h200'?"),
        (["plan", "tflops=300"], "error: a card that is not here needs gpu=, or"),
        (["plan", "data=nowhere"], "error: data=nowhere does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(argv, line):
    done = door(*argv)
    assert done.returncode == 2
    (only,) = said(done)
    assert only.startswith(line)
    assert "torch" not in imported(done)


@pytest.mark.parametrize(
    ("spelling", "key"),
    [
        ("finetrune=True", "finetune"),
        ("--is_finetune=True", "finetune"),
        ("is_finetune=True", "finetune"),
        ("--is_keep_training=True", "resume"),
    ],
)
def test_the_spellings_of_the_predecessors_work_and_are_named(spelling, key, capfd):
    given = cli.overrides([spelling], TrainConfig, aliases=train.ALIASES)
    assert given == {key: "True"}
    assert f"is called '{key}' today" in capfd.readouterr().err


def test_keys_beat_presets_and_presets_beat_defaults(tmp_path, monkeypatch):
    (tmp_path / "facts").mkdir()
    (tmp_path / "facts" / "a.yaml").write_text("topic: a\n")
    monkeypatch.chdir(tmp_path)
    config, source, start = train.resolve(["data=facts", "batch_size=7"])
    assert (source.kind, config.preset, start) == ("starter", "starter", None)
    assert config.batch_size == 7
    assert config.max_target_tokens == 96
    assert config.clip_norm == 1.0
