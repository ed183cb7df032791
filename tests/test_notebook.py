"""The notebook: stored without outputs, and able to run from its first cell to its last."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = [
    "data=facts",
    "model.d_model=16",
    "model.d_kv=8",
    "model.d_ff=32",
    "model.num_heads=2",
    "model.num_layers=1",
    "model.num_decoder_layers=1",
    "vocab_size=400",
    "max_steps=2",
    "log_every_steps=1",
    "eval_answers=0",
    "max_new_tokens=8",
    "device=cpu",
    "threads=1",
]
PLACES = ["广东", "四川", "湖北", "浙江", "陕西", "云南"]
CAPITALS = ["广州", "成都", "武汉", "杭州", "西安", "昆明"]
FACTS = """topic: geography
tables:
  - name: capitals
    kind: closed
    columns: [place, city]
    train:
      - "{place}的省会是哪里？"
      - "{place}的省会是哪座城市？"
      - "请问{place}的省会在哪里？"
      - "{place}的省会叫什么？"
      - "哪座城市是{place}的省会？"
      - "告诉我{place}的省会。"
    valid: ["你知道{place}的省会吗？"]
    test: ["{place}把省会设在哪里？"]
    answer: "{place}的省会是{city}。"
    rows:
"""


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "train.ipynb", as_version=4)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a handful of facts, whose kernel finds the code."""
    (tmp_path / "facts").mkdir()
    rows = (f'      - ["{a}", "{b}"]\n' for a, b in zip(PLACES, CAPITALS, strict=True))
    (tmp_path / "facts" / "capitals.yaml").write_text(FACTS + "".join(rows), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / ".jupyter"))
    return tmp_path


def test_the_notebook_is_stored_without_outputs(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_the_notebook_runs_to_its_end(notebook: nbformat.NotebookNode, workplace: Path) -> None:
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert parameters.source.endswith("= []")
    parameters.source = f"settings = {SETTINGS!r}"
    resources = {"metadata": {"path": str(workplace)}}
    NotebookClient(notebook, timeout=120, resources=resources).execute()

    (run,) = (workplace / "out").glob("train-*")
    assert (run / "step_000002" / "MANIFEST.json").is_file()
    printed = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in printed if "image/png" in output.get("data", {})]
    assert len(pictures) == 1
    answer = "".join(notebook.cells[-1].outputs[0].text)
    assert "tok/s" in answer
    evaluation = "".join(output.get("text", "") for output in printed)
    assert "6 questions, corpus BLEU-4" in evaluation
