"""A checkpoint survives a loss of power: what reaches the disk in which order, told by strace."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.torture import strace

ROOT = Path(__file__).parents[2]
SCRIPT = "import sys; from pathlib import Path; from tests.checkpoint.tiny_snapshot import save\n"
SCRIPT += "save(Path(sys.argv[1]), 1, 2, 3, 4, keep=2)"


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    if why := strace.can_trace():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("traced")
    run = folder / "run"
    argv = [sys.executable, "-c", SCRIPT, str(run)]
    done = strace.traced(argv, folder / "calls", cwd=ROOT, env=os.environ)
    assert done.returncode == 0, done.stderr
    return strace.calls(folder / "calls", run), run


def test_files_then_the_folder_then_its_name_then_the_run_folder(traced):
    found, run = traced
    saves = strace.saves(found, run)
    assert [Path(save.new).name for save in saves] == [f"step_{i:06d}" for i in (1, 2, 3, 4)]
    for save in saves:
        assert strace.wrong_order(found, save, run) == []


def test_any_other_order_is_noticed(traced):
    found, run = traced
    save = strace.saves(found, run)[2]
    of_this = [c for c in found if c.path.startswith(save.path)]
    syncs = [call for call in of_this if call.name == "fsync" and call.at < save.at]
    parent = next(c for c in found if c.at > save.at and c.path == str(run))
    for missing in (*syncs[-11:], parent):
        assert strace.wrong_order([c for c in found if c != missing], save, run), missing
    late = replace(next(call for call in of_this if call.name == "write"), at=save.at + 1)
    assert strace.wrong_order([*found, late], save, run)
