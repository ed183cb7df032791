"""Which checkpoints stay."""

import pytest

from chatlm.checkpoint import retention
from chatlm.checkpoint.paths import saved_steps
from tests.checkpoint.tiny_snapshot import save


@pytest.fixture
def run(tmp_path):
    save(tmp_path, 1, 2, 3, 4, 5)
    return tmp_path


@pytest.mark.parametrize(
    ("keep", "best_step", "left"),
    [(2, 1, [1, 4, 5]), (1, 3, [3, 5]), (1, 5, [4, 5]), (3, 5, [3, 4, 5]), (9, 0, [1, 2, 3, 4, 5])],
)
def test_the_newest_and_the_best_stay_and_never_just_one(run, keep, best_step, left):
    retention.prune(run, keep, best_step)
    assert saved_steps(run) == left
    assert not list(run.glob(".old*"))


def test_damaged_ones_do_not_count(run):
    (run / "step_000005" / "state.json").write_text("")
    (run / "step_000004" / "MANIFEST.json").unlink()
    retention.prune(run, 2, 0)
    assert saved_steps(run) == [2, 3, 4, 5]


def test_what_dead_runs_left_is_swept_away(run):
    before = sorted(path.name for path in run.iterdir())
    (run / ".tmp-step_000010-4711").mkdir()
    (run / ".tmp-step_000010-4711" / "model.safetensors").write_bytes(b"half")
    (run / ".old-step_000001").mkdir()
    (run / ".tmp-best").write_text("step")
    (run / ".corrupt-step_000003").mkdir()
    retention.sweep(run)
    assert sorted(path.name for path in run.iterdir()) == [".corrupt-step_000003", *before]
