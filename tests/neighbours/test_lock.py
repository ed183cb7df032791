"""One trainer a run folder, whatever the other one does and however it ends."""

import os
import time

import pytest

from chatlm.errors import ConfigError, StorageError
from chatlm.neighbours.lock import LOCK, Lock, refuse_if_held
from tests.neighbours.scripts import begin, end_of, line_of

HOLD = """
import os, sys, time
from pathlib import Path
from chatlm import cli
from chatlm.neighbours.lock import Lock
def main(argv):
    with Lock(Path(argv[0])):
        if "fork" in argv and not os.fork():
            time.sleep(3)
            os._exit(0)
        print("locked", flush=True)
        time.sleep(float(argv[1]))
    return 0
cli.run(main)
"""


def test_the_second_is_told_in_one_line_who_is_in(tmp_path):
    first = begin(HOLD, tmp_path / "run", 60)
    assert line_of(first) == "locked"
    code, errors, seconds = end_of(begin(HOLD, tmp_path / "run", 60))
    first.kill()
    first.communicate()
    assert code == 2
    assert seconds < 5
    assert errors.count("\n") == 1
    assert f"in use by another training (pid {first.pid} on {os.uname().nodename}, " in errors


def test_the_kernel_frees_it_when_the_holder_is_killed(tmp_path):
    first = begin(HOLD, tmp_path, 60)
    assert line_of(first) == "locked"
    first.kill()
    first.wait()
    with Lock(tmp_path):
        pass
    first.communicate()


def test_a_child_of_the_holder_does_not_keep_it(tmp_path):
    first = begin(HOLD, tmp_path, 60, "fork")
    assert line_of(first) == "locked"
    first.kill()
    first.wait()
    with Lock(tmp_path):
        pass
    first.communicate()


def test_the_same_process_cannot_take_it_twice_and_can_take_it_again(tmp_path):
    with Lock(tmp_path), pytest.raises(ConfigError, match=f"pid {os.getpid()} on"):
        Lock(tmp_path)
    with Lock(tmp_path):
        pass


def test_another_name_of_the_folder_is_the_same_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with Lock(tmp_path / "run"), pytest.raises(ConfigError, match="in use"):
        Lock(tmp_path / "link")


def test_a_dead_holders_name_is_not_told(tmp_path):
    Lock(tmp_path).release()
    text = (tmp_path / LOCK).read_text()
    holder = begin(HOLD, tmp_path, 60)
    assert line_of(holder) == "locked"
    assert (tmp_path / LOCK).read_text() != text
    # As if the holder had not yet written who it is: the file says who was there before it.
    (tmp_path / LOCK).write_text(text.replace('"started":"', '"started":"1'))
    started = time.monotonic()
    with pytest.raises(ConfigError, match="it has not said who it is"):
        Lock(tmp_path)
    assert time.monotonic() - started < 5
    holder.kill()
    holder.communicate()


def test_a_folder_made_for_nothing_is_removed_with_its_parents(tmp_path):
    with Lock(tmp_path / "out" / "run"):
        assert (tmp_path / "out" / "run" / LOCK).is_file()
    assert not (tmp_path / "out").exists()


def test_a_folder_that_was_there_or_holds_something_stays(tmp_path):
    with Lock(tmp_path / "made"):
        (tmp_path / "made" / "config.yaml").write_text("")
    assert (tmp_path / "made" / "config.yaml").exists()
    (tmp_path / "empty").mkdir()
    with Lock(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()


@pytest.mark.parametrize("what", ["deleted", "replaced", "moved"])
def test_a_folder_that_went_away_is_noticed(tmp_path, what):
    run = tmp_path / "run"
    lock = Lock(run)
    lock.check()
    run.rename(tmp_path / "elsewhere")
    if what == "deleted":
        (tmp_path / "elsewhere" / LOCK).unlink()
    if what == "replaced":
        Lock(run)
    with pytest.raises(StorageError, match="was deleted or replaced"):
        lock.check()
    lock.release()
    assert run.exists() == (what == "replaced")


def test_looking_takes_nothing_and_makes_nothing(tmp_path):
    refuse_if_held(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with Lock(tmp_path / "run") as lock:
        with pytest.raises(ConfigError, match=f"in use by another training .pid {os.getpid()} on"):
            refuse_if_held(tmp_path / "run")
        lock.check()
        (tmp_path / "run" / "config.yaml").write_text("")
    refuse_if_held(tmp_path / "run")
    with Lock(tmp_path / "run"):
        pass
