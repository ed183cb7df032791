"""Run folders that cannot be written, lines that were cut, and two trainings that want the same."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from chatlm import run_folder
from chatlm.config import TrainConfig
from chatlm.errors import CheckpointError, ConfigError, StorageError
from chatlm.neighbours.lock import LOCK
from tests.neighbours.scripts import ROOT, begin, end_of, line_of
from tests.neighbours.tmpfs import make_read_only, mounted

PAGE = 4096


def claim(**settings):
    return run_folder.claim(TrainConfig(**settings))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- lines -------------------------------------------------------------------------------------


def test_a_line_that_a_kill_cut_is_not_glued_to_the_next(tmp_path):
    for step in (1, 2):
        run_folder.append(tmp_path, "metrics.jsonl", {"step": step, "text": "你好"})
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    half = whole.index(b"\n") + 1
    for length in range(half, len(whole)):
        path.write_bytes(whole[:length])
        run_folder.append(tmp_path, "metrics.jsonl", {"step": 3})
        assert path.read_bytes() == whole[:half] + b'{"step":3}\n'


def test_a_long_cut_line_is_taken_out_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step":1}\n' + b"x" * 200_000)
    run_folder.append(tmp_path, "metrics.jsonl", {"step": 2})
    assert path.read_bytes() == b'{"step":1}\n{"step":2}\n'
    path.write_bytes(b"x" * 200_000)
    run_folder.append(tmp_path, "metrics.jsonl", {"step": 2})
    assert path.read_bytes() == b'{"step":2}\n'


def test_a_full_disk_is_one_line_and_leaves_whole_lines(tmp_path):
    with mounted(tmp_path / "disk", 16 * PAGE) as disk:
        record = {"step": 10, "text": "x" * 990}
        length = len(json.dumps(record, separators=(",", ":"))) + 1
        with pytest.raises(StorageError) as caught:
            _append_for_ever(disk, record)
        lines = (disk / "metrics.jsonl").read_bytes()
        assert len(lines) == 16 * PAGE // length * length
        assert all(json.loads(line) == record for line in lines.splitlines())
        where = f"cannot write {length} bytes to {disk / 'metrics.jsonl'} (No space left on device)"
        assert where in str(caught.value)
        assert "\n" not in str(caught.value)


def _append_for_ever(folder, record):
    while True:
        run_folder.append(folder, "metrics.jsonl", record)


def test_a_damaged_line_costs_only_itself(tmp_path, capfd):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step":1}\n\0\0\0\n{"step":2}\n{"st')
    assert run_folder.metrics(tmp_path) == [{"step": 1}, {"step": 2}]
    assert "line 2 is damaged" in capfd.readouterr().err


def test_rewinding_drops_figures_and_samples_after_the_step(tmp_path):
    for file in ("metrics.jsonl", "samples.jsonl", "ledger.jsonl"):
        for step in (2, 4, 4, 6):
            run_folder.append(tmp_path, file, {"step": step})
    run_folder.rewind(tmp_path, 4)
    for file, kept in (("metrics", 3), ("samples", 3), ("ledger", 4)):
        assert (tmp_path / f"{file}.jsonl").read_text().count("\n") == kept
    assert not list(tmp_path.glob(".tmp-*"))


# ---- which folder ------------------------------------------------------------------------------


def test_two_trainings_without_a_name_get_two_numbers(here):
    with claim() as one, claim() as two:
        assert [one.run.name, two.run.name] == ["train-001", "train-002"]
    assert not (here / "out").exists()


def test_starting_at_the_same_moment_they_never_share_one(here):
    script = """
import sys, time
from chatlm import run_folder
from chatlm.config import TrainConfig
print("ready", flush=True)
sys.stdin.readline()
with run_folder.claim(TrainConfig()) as lock:
    print(lock.run.name, flush=True)
    time.sleep(0.5)
"""
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=here,
            env={"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    assert [line_of(one) for one in starters] == ["ready"] * 6
    for one in starters:
        assert one.stdin
        one.stdin.write("\n")
        one.stdin.flush()
    names = [line_of(one) for one in starters]
    for one in starters:
        one.communicate()
    assert sorted(names) == [f"train-{number:03d}" for number in range(1, 7)]


def test_what_a_killed_training_left_half_written_is_swept(here):
    run = here / "run"
    (run / ".tmp-12-3456").mkdir(parents=True)
    (run / ".tmp-12-3456" / "model.safetensors").write_bytes(b"half")
    (run / ".tmp-metrics.jsonl").write_bytes(b"half")
    (run / "notes.txt").write_bytes(b"mine")
    with claim(out=str(run)):
        assert {path.name for path in run.iterdir()} == {LOCK, "notes.txt"}


def test_a_run_that_died_before_its_first_checkpoint_can_start_anew(here):
    config = TrainConfig(out="run")
    with run_folder.claim(config) as lock:
        run_folder.create(lock.run, config)
        run_folder.append(lock.run, "metrics.jsonl", {"step": 1})
    with run_folder.claim(config) as lock:
        run_folder.create(lock.run, config)
        assert run_folder.metrics(lock.run) == []


@pytest.mark.parametrize("trace", ["step_000004", ".corrupt-step_000004"])
def test_a_run_that_has_saved_is_not_started_anew(here, trace):
    (here / "run" / trace).mkdir(parents=True)
    with pytest.raises(ConfigError, match="already holds a run"):
        claim(out="run")


# ---- folders that cannot be written --------------------------------------------------------


def refused(out, kind=StorageError):
    with pytest.raises(kind) as caught:
        claim(out=str(out))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_places_where_no_run_can_be(here):
    (here / "file").write_bytes(b"")
    (here / "dangling").symlink_to("nowhere")
    (here / "round").symlink_to("round")
    for out in ("file", "file/run", "dangling", "round", "x" * 256):
        assert "name another out=" in refused(out)
    assert {path.name for path in here.iterdir()} == {"file", "dangling", "round"}


def test_a_read_only_file_system(here):
    with mounted(here / "disk", 16 * PAGE) as disk:
        (disk / "run").mkdir()
        make_read_only(disk)
        assert "Read-only file system" in refused(disk / "run")
        assert "Read-only file system" in refused(disk / "other" / "run")


def test_a_disk_without_a_byte_left(here):
    with mounted(here / "disk", PAGE) as disk:
        (disk / "full").write_bytes(b"x" * PAGE)
        assert "No space left" in refused(disk / "deep" / "run")
        assert [path.name for path in disk.iterdir()] == ["full"]


def test_a_folder_that_vanishes_is_one_line(here):
    with claim(out="run") as lock:
        (lock.run / LOCK).unlink()
        lock.run.rmdir()
        with pytest.raises(StorageError, match=r"cannot write 11 bytes to run/metrics\.jsonl"):
            run_folder.append(lock.run, "metrics.jsonl", {"step": 1})
        with pytest.raises(StorageError, match="deleted or replaced"):
            lock.check()


@pytest.mark.parametrize(
    "name", ["模型 一号", "x" * 250, "深" * 83, "a\tb'\"$;", "-x", "deep/er/run"]
)
def test_names_that_are_unusual_and_fine(here, name):
    with claim(out=name) as lock:
        run_folder.create(lock.run, TrainConfig())
        run_folder.append(lock.run, "metrics.jsonl", {"step": 1})
        run_folder.rewind(lock.run, 1)
        assert run_folder.metrics(here / name) == [{"step": 1}]


def test_a_folder_without_permission_is_refused_within_seconds():
    script = """
import os, sys
from pathlib import Path
from chatlm import cli, run_folder
from chatlm.config import TrainConfig
def main(argv):
    if os.getuid() == 0:
        os.setuid(65534)  # root may write anywhere
    with run_folder.claim(TrainConfig(out=argv[0])):
        return 0
cli.run(main)
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        code, errors, seconds = end_of(begin(script, f"{folder}/run"))
    assert code == 74
    assert "Permission denied" in errors
    assert errors.count("\n") == 1
    assert seconds < 5


def test_when_all_checkpoints_are_set_aside_it_says_so(here):
    (here / "run" / ".corrupt-step_000004").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="found damaged and set aside"):
        claim(out="run", resume=True)
