"""Door 1 as a user meets it: help, typos and old spellings, each without loading torch.

All that is typed goes to one process, in turn: it never comes to load torch.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import train
from chatlm import cli
from chatlm.config import TrainConfig

ROOT = Path(__file__).parent.parent


TURNS = """
import contextlib, io, json, sys
import train
from chatlm import cli

def turn(words):
    sys.argv = ["train.py", *words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.run(train.main)
        except SystemExit as end:
            return [end.code, out.getvalue(), err.getvalue(), "torch" in sys.modules]

print(json.dumps([turn(words) for words in json.loads(sys.argv[1])]))
"""
HELP = [["--help"], ["train", "--help"], ["evaluate", "--help"], ["plan", "--help"]]
MISTAKES = [
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
]


@pytest.fixture(scope="module")
def told():
    """Returns a function: what is typed -> exit code, stdout, stderr, whether torch is loaded."""
    typed = [*HELP, *(argv for argv, _ in MISTAKES)]
    done = subprocess.run(
        [sys.executable, "-c", TURNS, json.dumps(typed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    turns = dict(zip(map(tuple, typed), json.loads(done.stdout), strict=True))
    return lambda argv: turns[tuple(argv)]


@pytest.mark.parametrize("argv", HELP)
def test_help_needs_no_torch(told, argv):
    code, out, _, has_torch = told(argv)
    assert (code, has_torch) == (0, False)
    assert "usage:" in out


@pytest.mark.parametrize(("argv", "line"), MISTAKES)
def test_a_mistake_is_one_line_and_code_2(told, argv, line):
    code, _, err, has_torch = told(argv)
    assert (code, has_torch) == (2, False)
    (only,) = err.splitlines()
    assert only.startswith(line)


@pytest.mark.parametrize(("argv", "line"), [([], "usage:"), MISTAKES[0]])
def test_the_script_itself_ends_with_code_2_and_without_torch(argv, line):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "train.py", *argv],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    timed = [one for one in done.stderr.splitlines() if one.startswith("import time")]
    said = [one for one in done.stderr.splitlines() if one not in timed]
    assert line in "\n".join(said)
    assert "chatlm.config" in {one.rpartition("|")[2].strip() for one in timed}
    assert "torch" not in {one.rpartition("|")[2].strip() for one in timed}


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
