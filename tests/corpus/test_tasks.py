"""A task that is done is not done again; a task that changed, or whose file changed, is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chatlm.corpus.executors import LocalPool, executor_for
from chatlm.corpus.store import locked, replacing
from chatlm.corpus.tasks import Engine, HereAndNow, Task
from chatlm.errors import ConfigError, DataError

HERE = "tests.corpus.test_tasks"


def double(source: str, out: str, factor: int = 2) -> dict[str, int]:
    """Writes a number, multiplied."""
    number = int(Path(source).read_text()) * factor
    with replacing(Path(out)) as file:
        file.write(str(number).encode())
    return {"rows_in": 1, "number": number}


def fail(source: str, out: str) -> dict[str, int]:
    """Refuses one of its inputs."""
    if "3" in Path(source).name:
        raise DataError(f"{source}: is bad")
    return double(source, out)


def die(source: str, out: str) -> dict[str, int]:
    """Ends its process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def make(folder: Path, count: int, function: str = "double", **params: int) -> list[Task]:
    tasks = []
    for number in range(count):
        source, out = folder / f"in-{number}", str(folder / f"out-{number}")
        if not source.exists():
            source.write_text(str(number))
        tasks.append(
            Task(
                name=f"stage/{number}",
                function=f"{HERE}:{function}",
                params={"source": str(source), "out": out, **params},
                inputs=(str(source),),
                outputs=(out,),
                weight=number + 1,
            )
        )
    return tasks


def run(folder: Path, tasks: list[Task], executor=None) -> tuple[list[int], int]:
    """Returns the numbers and how many tasks had to run."""
    with Engine(executor, folder / "receipts") as engine:
        return [result["number"] for result in engine.run(tasks, "double")], engine.num_run


def test_a_task_is_done_once(tmp_path):
    tasks = make(tmp_path, 4)
    assert run(tmp_path, tasks) == ([0, 2, 4, 6], 4)
    assert run(tmp_path, tasks) == ([0, 2, 4, 6], 0)


def test_what_changed_is_done_again_and_nothing_else(tmp_path):
    run(tmp_path, make(tmp_path, 4))
    (tmp_path / "in-2").write_text("20")
    assert run(tmp_path, make(tmp_path, 4)) == ([0, 2, 40, 6], 1)
    assert run(tmp_path, make(tmp_path, 4, factor=3)) == ([0, 3, 60, 9], 4)


@pytest.mark.parametrize("damage", ["flip", "remove", "receipt"])
def test_an_output_that_is_not_what_was_written_is_made_again(tmp_path, damage):
    run(tmp_path, make(tmp_path, 3))
    if damage == "flip":
        (tmp_path / "out-1").write_text("7")
    elif damage == "remove":
        (tmp_path / "out-1").unlink()
    else:
        (tmp_path / "receipts" / "stage" / "1.json").write_text('{"key": ')
    assert run(tmp_path, make(tmp_path, 3)) == ([0, 2, 4], 1)
    assert (tmp_path / "out-1").read_text() == "2"


def test_an_engine_without_a_folder_remembers_nothing(tmp_path):
    engine = Engine()
    for _ in range(2):
        engine.run(make(tmp_path, 2), "double")
    assert engine.num_run == 4


def test_processes_give_what_one_process_gives(tmp_path):
    alone = run(tmp_path / "a", _in(tmp_path / "a", 7))
    pool = LocalPool(2)
    assert run(tmp_path / "b", _in(tmp_path / "b", 7), pool) == alone


def _in(folder: Path, count: int) -> list[Task]:
    folder.mkdir(exist_ok=True)
    return make(folder, count)


def test_an_error_of_one_task_keeps_the_receipts_of_the_others(tmp_path):
    with pytest.raises(DataError, match="in-3: is bad"):
        run(tmp_path, make(tmp_path, 5, "fail"))
    (tmp_path / "in-3").rename(tmp_path / "in-x")
    assert not (tmp_path / "out-3").exists()
    # Heavy tasks run first: number 4 was done before number 3 failed.
    assert (tmp_path / "receipts" / "stage" / "4.json").is_file()


def test_an_error_crosses_processes_as_it_is(tmp_path):
    with pytest.raises(DataError, match="in-3: is bad"):
        run(tmp_path, make(tmp_path, 5, "fail"), LocalPool(2))


def test_a_killed_worker_is_one_plain_error(tmp_path):
    with pytest.raises(DataError, match=r"a worker process was killed.*run the same command again"):
        run(tmp_path, make(tmp_path, 3, "die"), LocalPool(2))


def test_workers_end_when_the_process_that_started_them_is_killed(tmp_path):
    make(tmp_path, 2)
    script = f"""
import sys, time
from pathlib import Path
from chatlm.corpus.executors import LocalPool
from chatlm.corpus.tasks import Engine, Task
tasks = [Task(name=str(n), function="{HERE}:linger", params={{"out": r"{tmp_path}/pid-" + str(n)}})
         for n in range(2)]
if __name__ == "__main__":
    Engine(LocalPool(2)).run(tasks, "linger")
"""
    path = tmp_path / "parent.py"
    path.write_text(script)
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(path)], env={**os.environ, "PYTHONPATH": str(root)}, cwd=root
    )
    pids = [_wait_for_pid(tmp_path / f"pid-{number}") for number in range(2)]
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while any(_is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)


def linger(out: str) -> dict[str, int]:
    """Tells its process and waits to be ended."""
    with replacing(Path(out)) as file:
        file.write(str(os.getpid()).encode())
    time.sleep(60)
    return {}


def _wait_for_pid(path: Path) -> int:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, "the worker did not start"
        time.sleep(0.05)
    return int(path.read_text())


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_second_run_in_the_same_folder_is_refused_and_names_the_first(tmp_path):
    refused = pytest.raises(DataError, match=f"process {os.getpid()}")
    with locked(tmp_path), refused, locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("spark", 0, ""), "engine=spark: there are local and ray"),
        (("local", -1, ""), "workers=-1 must be 0"),
        (("local", 2, "auto"), "address=auto has no effect with engine=local"),
    ],
)
def test_settings_that_cannot_take_effect_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        executor_for(*settings)


def test_one_worker_needs_no_processes():
    assert isinstance(executor_for("local", 1, ""), HereAndNow)
