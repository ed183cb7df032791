"""The comparison of exported models runs, and says what it should of a tiny one."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_export import QUESTIONS, make_exported, make_lively

from benchmarks import fidelity
from chatlm.errors import ConfigError


def test_what_is_exact_is_told_from_what_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_lively(tmp_path / "model")
    exact = make_exported(model, tmp_path / "exact")
    coarse = make_exported(model, tmp_path / "coarse", "int8")
    rows = [{"prompt": text, "response": "好", "source": "x"} for text in QUESTIONS * 2]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    argv = [
        f"model={model}",
        f"exported={exact},{coarse}",
        f"questions={tmp_path / 'pairs.parquet'}",
        f"reference={tmp_path / 'kept.json'}",
        "max_new_tokens=20",
    ]
    assert fidelity.main(argv) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["exact"][str(exact)]["identical"] == 1.0
    assert found["exact"][str(coarse)]["identical"] < 1.0
    assert len(found["exact"][str(coarse)]["gaps"]) > 0
    for folder in (exact, coarse):
        together = found["together"][str(folder)]
        assert together["identical"] == 1.0
        assert together["tokens_per_second"].keys() == {"1", "2", "4", "8", "16", "32"}
    kept = json.loads((tmp_path / "kept.json").read_text())
    kept["answers"][0] = [3]
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    assert fidelity.main([*argv, "streams=False"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["exact"][str(exact)]["identical"] < 1.0  # what was kept was used


def test_an_empty_comparison_is_refused() -> None:
    with pytest.raises(ConfigError, match="exported= is missing"):
        fidelity.main([])
