"""A rank that dies, hangs or leaves takes the others with it, wherever they are."""

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from tests.neighbours.ranks import Ended, Trial
from tests.neighbours.scripts import ROOT

SIGKILL = 9
HOST = os.uname().nodename
PLACES = ("compute", "collective", "wait", "end")
DEATHS = [Trial("SIGKILL", rank, where) for rank in (0, 1) for where in PLACES]
DEATHS += [Trial("SIGKILL", rank, ranks=4) for rank in (0, 2)]
STOPS = [Trial("SIGSTOP", rank, where) for rank in (0, 1) for where in PLACES]
STOPS += [Trial("SIGSTOP", rank, ranks=4) for rank in (0, 2)]
LEAVING = [
    Trial("2", rank, where) for rank in (0, 1) for where in ("compute", "collective", "start")
]
NEVER_ENDING = Trial("SIGCONT", 0, "wait", step_seconds=2.0)
ALL = [*DEATHS, *STOPS, *LEAVING, NEVER_ENDING]


@pytest.fixture(scope="module")
def endings():
    argv = [sys.executable, "-m", "tests.neighbours.ranks"]
    text = json.dumps([asdict(trial) for trial in ALL])
    done = subprocess.run(
        [*argv, text],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {trial: Ended(**one) for trial, one in zip(ALL, json.loads(done.stdout), strict=True)}


def name(trial):
    return f"{trial.fault}-{trial.rank}-of-{trial.ranks}-{trial.where}"


def others(trial):
    return [rank for rank in range(trial.ranks) if rank != trial.rank]


@pytest.mark.parametrize("trial", DEATHS, ids=name)
def test_a_death_ends_the_others_within_ten_seconds(endings, trial):
    ended = endings[trial]
    assert ended.codes[trial.rank] == -SIGKILL
    for rank in others(trial):
        assert ended.codes[rank] == 75, ended.printed[rank]
        assert ended.seconds[rank] < 10
        assert ended.printed[rank] == (
            f"error: rank {trial.rank} (pid {ended.pids[trial.rank]} on {HOST}) died; rank {rank} "
            "ends too: start again with resume=True\n"
        )


@pytest.mark.parametrize("trial", STOPS, ids=name)
def test_a_rank_that_is_stopped_ends_with_the_others_in_the_time_that_is_set(endings, trial):
    ended = endings[trial]
    assert ended.codes[trial.rank] == -SIGKILL, "a stopped rank would keep the run folder"
    name = f"error: rank {trial.rank} (pid {ended.pids[trial.rank]} on {HOST})"
    for rank in others(trial):
        assert ended.codes[rank] == 75, ended.printed[rank]
        # One finds that it hangs and kills it; another may see no more than its death.
        assert ended.printed[rank].startswith((f"{name} hangs", f"{name} died"))
    assert any(f"{name} hangs" in printed for printed in ended.printed)
    assert max(ended.seconds) < trial.hang_seconds + 1


@pytest.mark.parametrize("trial", LEAVING, ids=name)
def test_a_rank_that_leaves_with_an_error_gives_the_others_its_exit_code(endings, trial):
    ended = endings[trial]
    assert ended.codes == [2, 2]
    assert ended.printed[trial.rank] == "error: no such thing\n"
    (other,) = others(trial)
    assert f"rank {trial.rank} (pid {ended.pids[trial.rank]} on {HOST})" in ended.printed[other]
    assert "ended with exit code 2" in ended.printed[other]
    assert max(ended.seconds) < 10


def test_a_step_that_never_ends_is_ended(endings):
    ended = endings[NEVER_ENDING]
    assert ended.codes == [75, 75]
    assert "has been in one step for 2 s" in ended.printed[0] + ended.printed[1]
    assert "File" in ended.printed[0] + ended.printed[1], "where it waits"


def test_no_rank_prints_a_traceback(endings):
    assert not [one for ended in endings.values() for one in ended.printed if "Traceback" in one]
