"""What a user types, or does not type, leads to one checkpoint folder or to the command to run."""

import os
from pathlib import Path

import pytest

from chatlm.checkpoint.paths import resolve_model
from chatlm.errors import CheckpointError


def checkpoint(folder: Path, *, is_whole: bool = True, finished_at: int = 0) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", *(["MANIFEST.json"] if is_whole else [])):
        (folder / name).write_text("{}")
        os.utime(folder / name, (finished_at, finished_at))
    return folder


def test_a_checkpoint_is_itself(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "exported", is_whole=False)
    assert resolve_model(folder) == folder
    assert resolve_model(str(folder)) == folder


def test_a_sharded_checkpoint_is_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert resolve_model(tmp_path) == tmp_path


def test_a_run_gives_its_newest_whole_checkpoint(tmp_path: Path) -> None:
    for step in (500, 1000, 20000):
        checkpoint(tmp_path / f"step_{step:06d}")
    checkpoint(tmp_path / "step_030000", is_whole=False)
    checkpoint(tmp_path / ".corrupt-step_040000")
    checkpoint(tmp_path / "step_copy")
    assert resolve_model(tmp_path) == tmp_path / "step_020000"


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ("step_000500\n", "step_000500"),
        ("step_009999", "step_001000"),
        ("../../etc", "step_001000"),
        ("", "step_001000"),
    ],
)
def test_a_run_gives_its_best_checkpoint_if_it_names_one(tmp_path, best, expected) -> None:
    checkpoint(tmp_path / "step_000500")
    checkpoint(tmp_path / "step_001000")
    (tmp_path / "best").write_text(best)
    assert resolve_model(tmp_path) == tmp_path / expected


def test_nothing_typed_means_the_run_that_finished_last(tmp_path: Path) -> None:
    checkpoint(tmp_path / "train-001" / "step_000500", finished_at=300)
    checkpoint(tmp_path / "finetune-001" / "step_000100", finished_at=400)
    checkpoint(tmp_path / "train-002" / "step_000500", finished_at=200)
    (tmp_path / "train-003").mkdir()
    assert resolve_model(None, tmp_path) == tmp_path / "finetune-001" / "step_000100"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (None, "no trained model under .*/out/: train one with: python train.py train"),
        ("typo", "typo does not exist; runs here: none; train one with"),
        ("empty", r"empty is neither a checkpoint .* nor a run .*; train one with"),
    ],
)
def test_nothing_to_open_names_the_command(tmp_path, path, message) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=message):
        resolve_model(path and tmp_path / path, tmp_path / "out")


def test_a_typo_lists_the_runs_there_are(tmp_path: Path) -> None:
    checkpoint(tmp_path / "out" / "train-001" / "step_000500")
    with pytest.raises(CheckpointError, match=r"runs here: .*out/train-001"):
        resolve_model(tmp_path / "out" / "train-01", tmp_path / "out")
