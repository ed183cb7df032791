"""Which checkpoints stay."""

import pytest

from chatlm.checkpoint import retention
from chatlm.checkpoint.paths import saved_steps
from chatlm.errors import StorageError
from chatlm.health import care
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


def sick(run):
    return sorted(path.name for path in run.glob(".sick-*"))


def test_of_those_set_aside_only_the_newest_stay(run):
    (run / ".sick-notes").mkdir()
    care.set_aside(run, 3)
    assert saved_steps(run) == [1, 2, 3]
    assert sick(run) == [".sick-notes", ".sick-step_000004", ".sick-step_000005"]
    marks = {}
    for again in range(1, 12):
        save(run, 4, 5)
        marks[again] = run / "step_000005" / "mark"
        marks[again].write_text(str(again))
        care.set_aside(run, 3)
    # The tenth and the eleventh: numbers are compared, not texts, and none is given out twice.
    names = [".sick-step_000005-10", ".sick-step_000005-11", ".sick-step_000005-9"]
    assert sick(run) == [".sick-notes", *names]
    assert [(run / name / "mark").read_text() for name in names] == ["10", "11", "9"]
    assert saved_steps(run) == [1, 2, 3]
    assert not list(run.glob(".old*"))


def test_what_cannot_be_set_aside_is_a_plain_line(run):
    with pytest.raises(StorageError, match=r"cannot write .*\.sick-step_000009"):
        retention.set_aside(run, 9)
