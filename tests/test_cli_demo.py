"""The door: what is typed on the command line, down to a real model's answer on stdout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoint import make_checkpoint

import cli_demo
from chatlm.chat.session import ChatSession
from chatlm.chat.settings import ChatSettings
from chatlm.errors import CheckpointError, ConfigError
from chatlm.inference.open import open_engine
from chatlm.sanitize import sanitize

ROOT = Path(__file__).resolve().parent.parent
SAMPLING = ["temperature=1.5", "seed=5", "--min_new_tokens", "4"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one run in it."""
    project = tmp_path_factory.mktemp("project")
    make_checkpoint(project / "out" / "train-001" / "step_000500")
    return project


def run(
    project: Path, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "cli_demo.py"), *arguments],
        cwd=project,
        input=stdin or "",
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )


def expected_answer(project: Path, question: str) -> str:
    engine = open_engine(project / "out" / "train-001" / "step_000500", "cpu")
    chat = ChatSession(engine, ChatSettings(temperature=1.5, seed=5, min_new_tokens=4))
    return sanitize("".join(chat.ask(question)))


def test_a_pipe_and_one_question_get_the_answers_of_the_model(project: Path) -> None:
    answer = expected_answer(project, "你好")
    one = run(project, "chat", *SAMPLING, "device=cpu", "model=out/train-001", "你好")
    assert (one.stdout, one.stderr, one.returncode) == (f"{answer}\n", "", 0)
    pipe = run(project, *SAMPLING, stdin="你好\n今天天气\n")
    lines = [
        expected_answer(project, question).strip().replace("\n", "\\n")
        for question in ("你好", "今天天气")
    ]
    assert (pipe.stdout.splitlines(), pipe.stderr, pipe.returncode) == (lines, "", 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chat", "temprature=1"], "error: unknown setting 'temprature': did you mean"),
        (["caht"], "error: unknown command 'caht': did you mean 'chat'?"),
        (["你好"], "error: unknown command '你好': expected chat, serve"),
        (["model=none"], "error: model folder none does not exist; runs here: out/train-001;"),
        (["chat", "top_p=7", "你好"], "error: top_p=7.0: expected"),
        (["chat", "device=gpu", "你好"], "error: device=gpu cannot be used here"),
        (["chat", "stop=,", "json=maybe", "你好"], "error: json=maybe is not a valid bool"),
        (["chat", "--no-stream", "你好"], "error: unknown setting 'no-stream': did you mean"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(project: Path, arguments, message) -> None:
    result = run(project, *arguments)
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert (result.stdout, result.returncode) == ("", 2)


def test_without_a_model_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert "python train.py train" in result.stderr
    assert result.returncode == 2


@pytest.mark.parametrize(
    ("argv", "settings", "question"),
    [
        ([], [], ""),
        (["你好"], [], "你好"),
        (["你好", "吗"], [], "你好 吗"),
        (["top_p=1", "1+1=?"], ["top_p=1"], "1+1=?"),
        (["--seed", "3", "--top_p=1", "问"], ["--seed", "3", "--top_p=1"], "问"),
        (["--seed", "top_p=1"], ["--seed", "top_p=1"], ""),
        (["seed=1", "--", "x=1", "--y"], ["seed=1"], "x=1 --y"),
        (["解方程 x=1"], [], "解方程 x=1"),
        (["--json", "你好"], ["--json=True"], "你好"),
        (["--json", "false", "--no_stream", "问"], ["--json=false", "--no_stream=True"], "问"),
        (["--beams", "4", "问"], ["--beams", "4"], "问"),
    ],
)
def test_settings_and_question_are_told_apart(argv, settings, question) -> None:
    assert cli_demo.split_question(argv) == (settings, question)


def test_help_and_typos_do_not_wait_for_torch(project: Path) -> None:
    code = (
        "import sys, cli_demo\n"
        "from chatlm.errors import ChatLMError\n"
        "cli_demo.main(['--help'])\n"
        "for argv in (['chat', 'temprature=1'], ['caht'], ['model=none']):\n"
        "    try:\n"
        "        cli_demo.main(argv)\n"
        "    except ChatLMError as error:\n"
        "        print(error)\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'rich'} & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    lines = result.stdout.splitlines()
    assert lines[0] == "用法："
    assert lines[-1] == "[]"
    assert "did you mean 'temperature'" in result.stdout


def test_every_setting_has_its_line_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_demo.main(["help"]) == 0
    text = capsys.readouterr().out
    for line in text.splitlines():
        if "=" in line and line.startswith("  ") and "cli_demo" not in line:
            assert len(line.split()) >= 2, f"no help for {line}"
    assert "temperature=0.0" in text


def test_errors_are_of_the_kinds_that_doors_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        cli_demo.main([])
    with pytest.raises(ConfigError):
        cli_demo.main(["serf"])
