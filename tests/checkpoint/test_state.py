"""The progress of a run comes back as it was, and that of format 1 too."""

import json

import pytest

from chatlm.checkpoint import state
from chatlm.errors import CheckpointError
from tests.checkpoint import tiny_snapshot


@pytest.mark.parametrize("loss", [float("inf"), 0.1 + 0.2, 1e-310])
def test_it_comes_back(tmp_path, loss):
    full = tiny_snapshot.state(
        7,
        best_loss=loss,
        skipped_steps=[3, 5],
        window={"loss_sum": (0.1).hex(), "steps": 3},
        losses=[(2.5).hex()],
        environment={"torch": "2.13", "num_shares": 4},
        ledger="ab" * 32,
    )
    state.write_state(tmp_path, full)
    assert state.read_state(tmp_path) == full
    assert "Infinity" not in (tmp_path / "state.json").read_text()


def test_format_1_is_read(tmp_path):
    old = {
        "step": 8,
        "samples": 128,
        "best_step": 4,
        "best_loss": 2.5,
        "data": "d",
        "tokenizer": "t",
        "num_processes": 1,
        "run_seconds": 0.5,
        "engine": "",
    }
    (tmp_path / "state.json").write_text(json.dumps(old))
    read = state.read_state(tmp_path)
    assert (read.step, read.best_loss, read.skipped_steps, read.ledger) == (8, 2.5, [], "")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"step": 8', '{"step": 8, "later": 1}'])
def test_another_shape_is_refused(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match="missing or unreadable"):
        state.read_state(tmp_path)
