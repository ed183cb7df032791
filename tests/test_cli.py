"""What a user may type as settings, and what is said when it is wrong."""

import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from chatlm import cli
from chatlm.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rank: int = 0


@dataclass(frozen=True)
class Settings:
    finetune: bool = False
    learning_rate: float = 1e-3
    data: str = field(default="x", metadata={"help": "where the pairs are"})
    limit: int | None = 5
    names: list[str] = field(default_factory=list)
    lora: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    "argv",
    [
        ["finetune=True"],
        ["--finetune=True"],
        ["--finetune", "True"],
        ["--finetune"],
        ["finetune=true"],
        ["finetune=1"],
    ],
)
def test_every_spelling_of_a_flag(argv):
    assert cli.parse(argv, Settings).finetune is True


def test_types_follow_the_dataclass():
    given = ["learning_rate=1e-4", "data=a[b]=c", "limit=none", "names=a,b", "lora.rank=8"]
    assert cli.parse(given, Settings) == Settings(
        learning_rate=1e-4, data="a[b]=c", limit=None, names=["a", "b"], lora=Inner(8)
    )


def test_an_old_spelling_works_and_is_named(capfd):
    settings = cli.parse(["finetrune=True"], Settings, aliases={"finetrune": "finetune"})
    assert settings.finetune is True
    assert "'finetrune' is called 'finetune' today" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["learning_rte=1"], "unknown setting 'learning_rte': did you mean 'learning_rate'?"),
        (["rank=8"], "unknown setting 'rank': did you mean 'lora.rank'?"),
        (["zzz=1"], "unknown setting 'zzz': --help lists the settings"),
        (["limit=x"], "limit=x is not a valid int | None"),
        (["train"], "'train' is not understood: settings are written key=value"),
        (["dta=1", "limt=2"], "'dta': did you mean 'data'?; unknown setting 'limt'"),
    ],
)
def test_mistakes_are_named(argv, message):
    with pytest.raises(ConfigError) as caught:
        cli.parse(argv, Settings)
    assert message in str(caught.value)


def test_a_file_lies_below_the_command_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: from file\nlora:\n  rank: 4\nlimit: 9\n")
    settings = cli.parse([f"config={path}", "limit=1"], Settings)
    assert settings == Settings(data="from file", lora=Inner(4), limit=1)


@pytest.mark.parametrize("text", ["- a\n", "a: [", "unknown_key: 1\n"])
def test_a_bad_file_is_one_error(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        cli.parse([f"config={path}"], Settings)


def test_settings_survive_their_own_yaml(tmp_path):
    settings = Settings(True, 3e-5, "数据", None, ["a"], Inner(2))
    path = tmp_path / "run.yaml"
    path.write_text(cli.to_yaml(settings), encoding="utf-8")
    assert cli.parse([f"config={path}"], Settings) == settings


def test_help_names_every_key():
    text = cli.help_text(Settings)
    assert "data=x" in text
    assert "where the pairs are" in text
    assert len(text.splitlines()) == 6


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("raise ConfigError('wrong key')", 2, "error: wrong key\n"),
        ("raise KeyboardInterrupt", 130, ""),
        ("return 0", 0, ""),
    ],
)
def test_a_door_ends_with_one_line_and_a_code(body, code, stderr):
    script = (
        "from chatlm import cli\nfrom chatlm.errors import ConfigError\n"
        f"def main(argv):\n    {body}\ncli.run(main)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, stderr)


def test_a_defect_keeps_its_traceback():
    script = "from chatlm import cli\ncli.run(lambda argv: 1 // 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
