"""Locks of torch's compiled kernels, which DeepSpeed's processes wait for."""

import os
import signal
import subprocess
import sys

import pytest

from chatlm import launch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
HOLD = """
import sys, time
from torch.utils.file_baton import FileBaton
assert FileBaton(sys.argv[1]).try_acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    lock = tmp_path / "py311_cpu" / "some_kernel" / "lock"
    lock.parent.mkdir(parents=True)
    argv = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process, lock
        process.kill()


def test_a_lock_that_somebody_holds_stays(holder, tmp_path):
    launch.drop_abandoned_locks(tmp_path)
    assert holder[1].exists()


def test_the_lock_of_a_start_that_was_killed_is_removed_and_named(holder, tmp_path, capfd):
    process, lock = holder
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert lock.exists()
    launch.drop_abandoned_locks(tmp_path)
    assert not lock.exists()
    assert str(lock) in capfd.readouterr().err
