"""A save leaves a whole checkpoint or nothing, in the foreground and beside the training."""

import errno
import os
import resource
import threading
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from chatlm.checkpoint import state, verify
from chatlm.checkpoint.moments import read_moments
from chatlm.checkpoint.paths import resolve_model, saved_steps
from chatlm.checkpoint.saver import Saver
from chatlm.checkpoint.weights import load_model
from chatlm.errors import CheckpointError, SickRunError, StorageError
from chatlm.health import finite
from chatlm.model import hf
from chatlm.tokenizer import Tokenizer
from tests.checkpoint.tiny_snapshot import save, snapshot


def test_everything_comes_back_bit_by_bit(tmp_path):
    saved, folder = snapshot(5), save(tmp_path, 5)
    assert verify.problem(folder) is None
    assert state.read_state(folder) == saved.state
    assert isinstance(saved.layout, hf.T5Layout)
    assert hf.load_config(folder) == saved.layout.config
    loaded = dict(hf.load_pretrained(folder).named_parameters())
    assert loaded.keys() == saved.weights.keys()
    assert all(torch.equal(loaded[name], saved.weights[name]) for name in loaded)
    moments = read_moments(folder)
    assert moments.keys() == saved.moments.keys()
    assert all(torch.equal(moments[name], saved.moments[name]) for name in moments)
    assert Tokenizer.load(folder).fingerprint == saved.tokenizer.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "step_000005"]


def test_hugging_face_opens_it(tmp_path):
    folder, saved = save(tmp_path, 5), snapshot(5)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert torch.equal(model.shared.weight, saved.weights["embedding.weight"])


def test_the_same_snapshot_gives_the_same_bytes_in_background_and_foreground(tmp_path):
    fore, back = save(tmp_path / "a", 5), tmp_path / "b"
    back.mkdir()
    saver = Saver(back, keep=2, background=True)
    saver.save(lambda: snapshot(5), 0)
    saver.close()
    files = sorted(path.name for path in fore.iterdir())
    assert files == sorted(path.name for path in (back / fore.name).iterdir())
    for file in files:
        assert (fore / file).read_bytes() == (back / fore.name / file).read_bytes(), file


class Blocked:
    """Holds every fsync of a file of checkpoints back until it is let go."""

    def __init__(self, patch):
        self.reached, self.go = threading.Event(), threading.Event()
        real = os.fsync

        def held(number):
            self.reached.set()
            assert self.go.wait(20)
            real(number)

        patch.setattr(os, "fsync", held)


def test_the_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    blocked = Blocked(monkeypatch)
    saver = Saver(tmp_path, keep=2, background=True)
    saver.save(lambda: snapshot(5), 0)  # returns although nothing can reach the disk
    assert blocked.reached.wait(20)
    assert saved_steps(tmp_path) == []
    blocked.go.set()
    saver.wait()
    assert saved_steps(tmp_path) == [5]


def test_what_the_next_update_changes_is_not_in_the_checkpoint(tmp_path):
    live = {name: one.clone() for name, one in snapshot(5).weights.items()}
    go = threading.Event()

    def take():
        assert go.wait(20)
        return replace(snapshot(5), weights={name: one.clone() for name, one in live.items()})

    saver = Saver(tmp_path, keep=2, background=True)
    saver.save(take, 0)
    update = threading.Thread(
        target=lambda: (saver.wait_until_taken(), [one.zero_() for one in live.values()])
    )
    update.start()
    update.join(0.05)
    assert update.is_alive()  # nothing has been copied yet
    go.set()
    update.join()
    assert not any(one.any() for one in live.values())
    saver.close()
    loaded = dict(load_model(tmp_path / "step_000005").named_parameters())
    assert all(torch.equal(loaded[name], one) for name, one in snapshot(5).weights.items())


def test_a_snapshot_that_fails_holds_nothing_up(tmp_path):
    def take():
        raise SickRunError("no snapshot")

    saver = Saver(tmp_path, keep=2, background=True)
    saver.wait_until_taken()
    saver.save(take, 0)
    saver.wait_until_taken()
    with pytest.raises(SickRunError, match="no snapshot"):
        saver.wait()


def test_memory_is_used_again_in_the_background_only_and_never_while_it_is_read(
    tmp_path, monkeypatch
):
    saver = Saver(tmp_path, keep=2, background=True)
    saver.memory()["one"] = torch.zeros(3)
    assert "one" in saver.memory()
    blocked = Blocked(monkeypatch)
    saver.save(lambda: snapshot(5), 0)
    with pytest.raises(AssertionError, match="wait"):
        saver.memory()
    blocked.go.set()
    saver.close()
    assert saver.memory() == {}
    fore = Saver(tmp_path, keep=2, background=False)
    fore.memory()["one"] = torch.zeros(3)
    assert fore.memory() == {}


def fail_at(patch, number, code):
    """Makes the n-th fsync of this process fail."""
    real, count = os.fsync, 0

    def failing(descriptor):
        nonlocal count
        count += 1
        if count == number:
            raise OSError(code, os.strerror(code))
        real(descriptor)

    patch.setattr(os, "fsync", failing)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("number", [1, 5, 9])
def test_a_failing_disk_is_one_line_and_leaves_the_older_ones(tmp_path, monkeypatch, code, number):
    older = save(tmp_path, 5)
    saver = Saver(tmp_path, keep=2, background=False)
    with monkeypatch.context() as patch:
        fail_at(patch, number, code)
        with pytest.raises(StorageError) as caught:
            saver.save(lambda: snapshot(10), 0)
    line = str(caught.value)
    assert str(tmp_path / "step_000010") in line
    assert os.strerror(code) in line
    assert f"needs {snapshot(10).nbytes} bytes" in line
    assert caught.value.exit_code == 74
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "step_000005"]
    assert verify.problem(older) is None


@pytest.mark.parametrize("most", [100, 5000, 15_000])
def test_the_kernel_s_own_refusal_is_one_line_too(tmp_path, most):
    save(tmp_path, 5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    saver = Saver(tmp_path, keep=2, background=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        saver.save(lambda: snapshot(10), 0)
        with pytest.raises(StorageError, match="File too large"):
            saver.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "step_000005"]


def test_a_failure_beside_the_training_is_raised_by_the_next_call(tmp_path, monkeypatch):
    saver = Saver(tmp_path, keep=2, background=True)
    with monkeypatch.context() as patch:
        fail_at(patch, 3, errno.ENOSPC)
        saver.save(lambda: snapshot(5), 0)
        with pytest.raises(StorageError, match="No space left"):
            saver.wait()
    saver.save(lambda: snapshot(10), 0)  # told once; the saver goes on
    saver.close()
    assert saved_steps(tmp_path) == [10]


def test_a_run_folder_that_vanished_is_not_made_anew(tmp_path):
    run = tmp_path / "run"
    save(run, 5)
    saver = Saver(run, keep=2, background=False)
    run.rename(tmp_path / "moved")
    with pytest.raises(StorageError, match="bring the folder back"):
        saver.save(lambda: snapshot(10), 0)
    assert not run.exists()


def test_a_step_can_be_saved_again(tmp_path):
    folder = save(tmp_path, 5)
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert verify.problem(save(tmp_path, 5)) is None
    assert saved_steps(tmp_path) == [5]


def test_the_best_is_the_one_with_the_lowest_loss_if_it_was_saved(tmp_path):
    save(tmp_path, 5, 10, best_step=5)
    assert resolve_model(tmp_path).name == "step_000005"
    save(tmp_path, 15, best_step=12)
    assert resolve_model(tmp_path).name == "step_000015"


def test_where_none_is_good_none_is_opened_unless_it_is_named(tmp_path):
    folder = save(tmp_path / "run", 5, 10, best_step=None)
    for name in (tmp_path / "run", None):
        with pytest.raises(CheckpointError, match=f"within max_forgetting=.*{folder}"):
            resolve_model(name, tmp_path)
    assert resolve_model(folder) == folder
    save(tmp_path / "run", 15, best_step=5)
    assert resolve_model(None, tmp_path).name == "step_000005"


@pytest.mark.parametrize("background", [False, True])
def test_what_must_not_be_written_is_not(tmp_path, background):
    def check(one):
        finite.check(one.state.step, one.weights, one.moments)

    saver = Saver(tmp_path, keep=2, background=background, check=check)
    saver.save(lambda: snapshot(5), 0)
    sick = snapshot(10)
    sick.moments["embedding.weight|exp_avg"][3, 1] = float("nan")

    def save():
        saver.save(lambda: sick, 0)
        saver.wait()

    with pytest.raises(SickRunError, match=r"embedding\.weight\|exp_avg"):
        save()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "step_000005"]
