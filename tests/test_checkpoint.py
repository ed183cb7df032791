"""A checkpoint is whole or it is not a checkpoint."""

import pytest

from chatlm import checkpoint
from chatlm.checkpoint_paths import step_name, whole_steps
from chatlm.errors import CheckpointError


def save(run, step, content="weights"):
    with checkpoint.writing(run, step, main_process=True) as part:
        (part / "model.safetensors").write_text(content)
        (part / "deepspeed").mkdir()
        (part / "deepspeed" / "rank_0").write_text("moments")
    return run / step_name(step)


def test_what_was_written_is_whole(tmp_path):
    assert checkpoint.problem(save(tmp_path, 5)) is None
    assert whole_steps(tmp_path) == [5]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("file", ["model.safetensors", "deepspeed/rank_0", "MANIFEST.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_every_kind_of_damage_is_found_and_named(tmp_path, file, damage):
    path = save(tmp_path, 5) / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        flipped = bytes([content[0] ^ 1]) + content[1:]
        path.write_bytes(flipped if damage == "flip" else content[:-1])
    assert file in str(checkpoint.problem(tmp_path / "step_000005"))


def test_the_newest_whole_one_is_used_and_damaged_ones_are_set_aside(tmp_path, capfd):
    older, newer = save(tmp_path, 5), save(tmp_path, 10)
    (newer / "model.safetensors").write_text("w3ights")
    assert checkpoint.newest_whole(tmp_path) == older
    assert "model.safetensors is damaged" in capfd.readouterr().err
    assert whole_steps(tmp_path) == [5]
    assert (tmp_path / ".corrupt-step_000010").is_dir()


def test_none_whole_is_an_error_that_names_each(tmp_path):
    for step in (5, 10):
        (save(tmp_path, step) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError) as caught:
        checkpoint.newest_whole(tmp_path)
    assert "step_000010: model.safetensors is missing" in str(caught.value)
    assert "step_000005: model.safetensors is missing" in str(caught.value)


def test_a_failure_while_writing_leaves_the_older_ones_and_nothing_else(tmp_path):
    save(tmp_path, 5)

    def fail():
        with checkpoint.writing(tmp_path, 10, main_process=True) as part:
            (part / "model.safetensors").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="older checkpoints are whole"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["step_000005"]


def test_a_newer_format_is_refused_by_name(tmp_path):
    path = save(tmp_path, 5) / "MANIFEST.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    assert "newer than this ChatLM" in str(checkpoint.problem(tmp_path / "step_000005"))


def test_a_step_can_be_saved_again(tmp_path):
    save(tmp_path, 5, "first")
    assert (save(tmp_path, 5, "second") / "model.safetensors").read_text() == "second"
    assert checkpoint.problem(tmp_path / "step_000005") is None


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step)
    checkpoint.prune(tmp_path, keep=2, best_step=1)
    assert whole_steps(tmp_path) == [1, 4, 5]
