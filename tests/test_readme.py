"""Whatever README says can be typed and is there: commands parse, paths exist, tables are true.

No command is run here, except the Python example, which is given a model of random weights.
"""

import configparser
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from page_commands import ROOT, blocks, commands, filled_in, headings, is_variable, lines, read
from tiny_checkpoint import make_checkpoint

import cli_demo
import train
from chatlm import cli
from chatlm.config import PRESETS, TrainConfig
from chatlm.corpus.sources import SOURCES
from chatlm.errors import ConfigError
from chatlm.model.config import ModelConfig

READMES = ("README.md", "README.en.md")
PAGES = (*READMES, "CONTRIBUTING.md", "data/README.md")
SCRIPTS = tuple(f"runs/{path.name}" for path in sorted((ROOT / "runs").glob("*.sh")))
UTILS_SETTINGS = {
    ("raw_data_process", "clean"): "CleanSettings",
    ("raw_data_process", "build"): "BuildCommandSettings",
    ("raw_data_process", "stats"): "StatsSettings",
    ("raw_data_process", "download"): "DownloadSettings",
    ("raw_data_process", "verify"): "VerifySettings",
    ("raw_data_process", "explain"): "ExplainSettings",
    ("train_tokenizer", ""): "TrainTokenizerConfig",
    ("export_model", ""): "ExportConfig",
    ("cover_alpaca2jsonl", ""): "CoverConfig",
    ("tokenize_dataset_rows", ""): "TokenizeConfig",
    ("import_weights", ""): "ImportConfig",
    ("new_decoder", ""): "DecoderConfig",
}


# ---- what each program accepts ------------------------------------------------------------


def check_train(argv: list[str]) -> None:
    argv = [token for token in argv if not is_variable(token)]
    command, rest = (argv[0], argv[1:]) if argv[0] in train.COMMANDS else ("train", argv)
    if rest == ["--help"]:
        return
    if command != "train":
        cli.parse(rest, train.SCHEMAS[command])
        return
    given = cli.overrides(rest, TrainConfig, aliases=train.ALIASES)
    cli.build(TrainConfig, PRESETS.get(given.get("preset", ""), {}), given)


def check_chat(argv: list[str]) -> None:
    if argv[0] == "serve":
        from chatlm.server.config import ServeConfig

        cli.parse(argv[1:], ServeConfig)
        return
    if argv[0] == "compare":
        from chatlm.comparison.settings import CompareConfig

        cli.parse(argv[1:], CompareConfig)
        return
    settings, question = cli_demo.split_question(argv[1:])
    assert argv[0] in cli_demo.COMMANDS
    cli.parse(settings, cli_demo.ChatConfig)
    assert "=" not in question, f"is {question!r} a setting or a question?"


def check_module(name: str, argv: list[str]) -> None:
    package, _, tool = name.partition(".")
    if package in ("venv", "ruff", "pyright", "pytest"):
        if package == "pytest" and "-n" in argv:
            assert "pytest-xdist" in extras()["dev"]
        return
    assert package == "utils", f"what is python -m {name}?"
    module = importlib.import_module(name)
    command = argv.pop(0) if hasattr(module, "COMMANDS") else ""
    cli.parse(argv, getattr(module, UTILS_SETTINGS[tool, command]))


def check_python(argv: list[str]) -> None:
    if argv[0] == "-m":
        check_module(argv[1], argv[2:])
    else:
        DOORS[argv[0].removeprefix("./")](argv[1:])


def check_accelerate(argv: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    assert argv[0] == "launch"
    argv = [token for token in filled_in(argv) if not is_variable(token)]
    parsed = launch_command_parser().parse_args(argv[1:])
    if parsed.config_file:
        assert (ROOT / parsed.config_file).is_file()
    assert not parsed.cpu, "accelerate starts one process with --cpu, whatever it is told"
    DOORS[parsed.training_script.removeprefix("./")](parsed.training_script_args)


def check_pip(argv: list[str]) -> None:
    assert argv[0] == "install"
    if "-r" in argv:
        assert (ROOT / argv[argv.index("-r") + 1]).is_file()
    if "-e" in argv:
        place, _, extra = argv[argv.index("-e") + 1].partition("[")
        assert place == "."
        assert extra.removesuffix("]") in extras()


def check_conda(argv: list[str]) -> None:
    assert argv[0] == "install"
    assert (ROOT / argv[argv.index("--file") + 1]).is_file()


def check_hub(argv: list[str]) -> None:
    assert argv[0] == "download"
    assert argv[2] == "--local-dir"


def check_screen(argv: list[str]) -> None:
    if argv[0] == "-S":
        check(argv[2:])
    else:
        assert argv == ["-r", "chatlm"]


def check_tmux(argv: list[str]) -> None:
    if argv[0] == "new-session":
        check_line(argv[-1])
    else:
        assert argv == ["attach", "-t", "chatlm"]


def check_bash(argv: list[str]) -> None:
    assert (ROOT / argv[0]).is_file()
    if argv[0] == "runs/train_or_resume.sh":
        check_train(["train", f"out={argv[1]}", *argv[2:]])


def check_supervisor(argv: list[str]) -> None:
    assert argv[:2] == ["-n", "-c"]
    config = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    config.read(ROOT / argv[2], encoding="utf-8")
    check_line(config["program:chatlm"]["command"])


def check_make(argv: list[str]) -> None:
    for target in argv:
        assert f"\n{target}:\n" in read("Makefile")


def accept(argv: list[str]) -> None:
    """Takes what the shell and its tools check by themselves."""


DOORS: dict[str, Callable[[list[str]], None]] = {"train.py": check_train, "cli_demo.py": check_chat}
PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "python": check_python,
    "python3": check_python,
    "accelerate": check_accelerate,
    "pip": check_pip,
    "conda": check_conda,
    "hf": check_hub,
    "screen": check_screen,
    "tmux": check_tmux,
    "bash": check_bash,
    "supervisord": check_supervisor,
    "make": check_make,
    ".": accept,
    "mkdir": accept,
    "printf": accept,
}


def check(command: list[str]) -> None:
    assert command[0] in PROGRAMS, f"nothing here knows what {command[0]} accepts"
    PROGRAMS[command[0]](command[1:])


def check_line(line: str) -> None:
    for command in commands(line):
        check(command)


def extras() -> dict[str, list[str]]:
    found = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    return {key: [Requirement(line).name for line in rows] for key, rows in found.items()}


# ---- commands -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "line"), [(page, line) for page in READMES for line in lines(page)]
)
def test_every_command_of_readme_parses(page: str, line: str) -> None:
    check_line(line)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_give_settings_that_exist(script: str) -> None:
    subprocess.run(["bash", "-n", ROOT / script], check=True)
    known = [
        command
        for line in lines(script)
        for command in commands(line.removeprefix("exec "))
        if command and command[0] in ("python", "accelerate")
    ]
    assert known
    for command in known:
        check(command)


@pytest.mark.parametrize(
    "line",
    [
        "accelerate launch ./train.py train epohcs=3",
        "accelerate launch --num_procs 2 ./train.py train",
        "accelerate launch --config_file ./nowhere.yaml ./train.py train",
        "accelerate launch --cpu --num_processes 2 ./train.py train",
        "python train.py evaluate batch_size=1",
        "python cli_demo.py chat temprature=1",
        "python cli_demo.py compare modle=out/zh",
        "accelerate launch train.py finetune=True base=gpt2 lora.rnk=8",
        "accelerate launch train.py base=gpt2",
        "python -m utils.new_decoder hiden_size=64",
        "python -m utils.raw_data_process build raw=data/raw",
        "python -m utils.train_tokeniser",
        'pip install -e ".[develop]"',
        "tmux new-session 'accelerate launch ./train.py train out'",
        "make tset",
        "curl example",
    ],
)
def test_a_wrong_command_would_be_found(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((AssertionError, ConfigError, ModuleNotFoundError, SystemExit)):
        check_line(line)


def test_the_two_languages_print_the_same_commands_in_the_same_order() -> None:
    assert lines("README.en.md") == lines("README.md")
    python = [blocks(read(page), "python") for page in READMES]
    assert python[0] == python[1]


def test_quick_start_is_two_commands_that_are_complete_in_themselves() -> None:
    quick_start = lines("README.md")[:2]
    environments: set[str] = set()
    for line in quick_start:
        make, activate, install, *rest = commands(line)
        assert make[:3] == ["python3", "-m", "venv"]
        assert activate == [".", f"{make[3]}/bin/activate"]
        assert install[:2] == ["pip", "install"]
        assert rest
        environments.add(make[3])
    assert len(environments) == 2
    assert [command[1:] for command in commands(quick_start[0])][3:] == [
        ["launch", "./train.py", "train"],
        ["cli_demo.py", "chat"],
    ]


def test_continuous_integration_runs_the_test_command_as_printed() -> None:
    (pattern,) = re.findall(r"grep -E '(.*)' README\.md", read(".ci/run"))
    found = [line for line in read("README.md").splitlines() if re.search(pattern, line)]
    assert found == [lines("README.md")[1]]


def test_the_example_in_python_answers_as_the_chat_does(tmp_path: Path) -> None:
    from chatlm.chat.session import ChatSession
    from chatlm.chat.settings import ChatSettings
    from chatlm.inference.open import open_engine

    (example,) = blocks(read("README.md"), "python")
    folder = make_checkpoint(tmp_path / "out" / "train-001" / "step_000500")
    done = subprocess.run(
        [sys.executable, "-c", example],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    settings = ChatSettings(max_new_tokens=96)
    ours = "".join(ChatSession(open_engine(folder, "cpu"), settings).ask("你好"))
    assert done.stdout == f"{ours}\n"
    assert ours


# ---- paths and tables ---------------------------------------------------------------------


def file_map(page: str) -> list[str]:
    """Returns the paths of the file map, in order."""
    (block,) = blocks(read(page), "text")
    return [line.split()[0] for line in block.splitlines()]


@pytest.mark.parametrize("page", READMES)
def test_the_file_map_names_what_is_there(page: str) -> None:
    for path in file_map(page):
        found = ROOT / path
        assert found.is_dir() if path.endswith("/") else found.is_file(), path
    assert file_map(page)[:-3] == file_map("README.md")[:-3]


@pytest.mark.parametrize("page", READMES)
def test_the_file_map_leaves_nothing_out(page: str) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says what belongs to the project")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    top = {path.split("/")[0] for path in listed.stdout.split("\0") if path}
    assert top <= {path.split("/")[0] for path in file_map(page)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            found = (ROOT / page).parent / path if path else ROOT / page
            assert found.exists(), target
            assert not anchor or anchor in headings(found.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", READMES)
def test_paths_in_running_text_exist(page: str) -> None:
    for path in re.findall(r"`((?:runs|utils|chatlm|tests)/[\w./]+)`", read(page)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", READMES)
def test_the_presets_are_those_of_the_code(page: str) -> None:
    table: dict[str, list[str]] = {}
    for line in read(page).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in PRESETS:
            table[cells[0]] = cells[1:]
    expected: dict[str, list[str]] = {}
    for name, preset in PRESETS.items():
        shape = {k.removeprefix("model."): v for k, v in preset.items() if k.startswith("model.")}
        size = preset.get("vocab_size", TrainConfig.vocab_size)
        model = ModelConfig(vocab_size=size, **shape)
        expected[name] = [
            *map(str, (size, model.d_model, model.d_kv, model.d_ff, model.num_heads)),
            f"{model.num_layers}+{model.num_decoder_layers}",
            model.feed_forward_proj,
            f"{model.num_parameters() / 1e6:.1f}M",
        ]
    assert table == expected


@pytest.mark.parametrize("page", READMES)
def test_every_corpus_is_named(page: str) -> None:
    for source in SOURCES:
        assert re.search(rf"\b{source}\b", read(page)), source


@pytest.mark.parametrize("page", READMES)
def test_every_dependency_has_its_reason(page: str) -> None:
    required = [Requirement(line).name for line in read("requirements.txt").splitlines()]
    section = read(page).split("## 依赖" if page == "README.md" else "## Dependencies")[1]
    assert re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE) == required


def test_requirements_are_lines_that_pip_and_conda_both_read() -> None:
    for line in read("requirements.txt").splitlines():
        assert re.fullmatch(r"[a-z0-9_-]+>=[0-9.]+(,<[0-9.]+)?", line), line


@pytest.mark.parametrize("page", READMES)
def test_figures_of_the_second_road_have_their_place(page: str) -> None:
    start, end = (read(page).index(f"<!-- measured{mark} -->") for mark in ("", ": end"))
    rows = [line for line in read(page)[start:end].splitlines() if line.startswith("|")]
    assert len(rows) >= 3
    assert len({row.count("|") for row in rows}) == 1


def test_the_figures_still_to_come_are_the_same_in_both_languages() -> None:
    marks = [re.findall(r"<!-- figure: (\w+) -->", read(page)) for page in READMES]
    assert marks[0] == marks[1]
    assert len(set(marks[0])) == len(marks[0])
