"""The house rules that a machine can hold: layers, torch-free zones, file sizes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# An import points from a later row to an earlier one, or stays within its own row.
LAYERS = [
    {
        "chatlm",
        "errors",
        "log",
        "cli",
        "config",
        "generation_config",
        "model.config",
        "sanitize",
        "untrusted",
        "checkpoint.paths",
    },
    {
        "corpus",
        "glm",
        "model",
        "neighbours",
        "tokenizer",
        "tokenizer_engines",
        "tokenizer_training",
    },
    {"generate", "optim"},
    {
        "adapters",
        "checkpoint",
        "dataset",
        "evaluate",
        "health",
        "inference",
        "launch",
        "plot",
        "progress",
        "run_folder",
        "subject",
    },
    {"agreement", "course", "engines", "lineage", "run_log", "saving", "validation"},
    {"trainer", "training", "evaluation_report", "chat", "comparison", "plan", "export"},
    {"terminal", "commands", "server"},
]
TORCH_FREE = [
    "chatlm",
    "chatlm.cli",
    "chatlm.config",
    "chatlm.tokenizer",
    "chatlm.chat.session",
    "chatlm.inference.open",
    "chatlm.inference.ct2_engine",
    "chatlm.terminal",
    "chatlm.server.run",
    "chatlm.corpus.clean_stage",
    "chatlm.corpus.build_stage",
    "train",
    "cli_demo",
    "utils.raw_data_process",
    "utils.train_tokenizer",
    "utils.cover_alpaca2jsonl",
    "utils.import_weights",
    "utils.tokenize_dataset_rows",
    "chatlm.adapters.forms",
    "chatlm.checkpoint.kinds",
    "chatlm.inference.language_codec",
    "chatlm.inference.language_limits",
    "chatlm.glm.pieces",
    "utils.export_model",
    "chatlm.comparison.door",
]
MAX_LINES = 400


def modules():
    return sorted((ROOT / "chatlm").rglob("*.py"))


def room_of(dotted):
    """Returns the room of a module: `chatlm.corpus.store` is in `corpus`."""
    inner = dotted.removeprefix("chatlm").removeprefix(".")
    if inner in ("model.config", "checkpoint.paths"):
        return inner
    return inner.split(".")[0] or "chatlm"


def layer_of(dotted):
    room = room_of(dotted)
    found = [index for index, layer in enumerate(LAYERS) if room in layer]
    assert found, f"{dotted} has no layer: give it a place in LAYERS"
    return found[0]


def dotted_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Yields every module that a file imports when it is loaded."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:
                if (ROOT / f"{node.module.replace('.', '/')}/{alias.name}.py").exists():
                    yield f"{node.module}.{alias.name}"


@pytest.mark.parametrize("path", modules(), ids=dotted_name)
def test_imports_point_downwards(path):
    here = dotted_name(path)
    for name in imports(path):
        if name == "chatlm":  # `from chatlm import log` names the module next
            continue
        if name.startswith("chatlm."):
            assert layer_of(name) <= layer_of(here), f"{here} imports {name} from above"
        assert not name.startswith("utils"), f"{here} imports the workbench"


@pytest.mark.parametrize("path", sorted((ROOT / "utils").glob("*.py")), ids=dotted_name)
def test_the_tools_of_the_workbench_do_not_import_each_other(path):
    assert not [name for name in imports(path) if name.startswith("utils")]


def test_text_rooms_never_import_torch():
    for path in (ROOT / "chatlm" / "corpus").rglob("*.py"):
        assert not [name for name in imports(path) if name.split(".")[0] == "torch"], path


def test_importing_costs_no_torch():
    script = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if {'torch', 'transformers'} & sys.modules.keys():\n"
        "        sys.exit(f'{name} imports torch')\n"
        "print(len(sys.argv) - 1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *TORCH_FREE], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.stderr) == (str(len(TORCH_FREE)), "")


@pytest.mark.parametrize(
    "path", [*modules(), *(ROOT / "utils").glob("*.py"), *ROOT.glob("*.py")], ids=dotted_name
)
def test_files_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
