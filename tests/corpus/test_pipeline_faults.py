"""Killed anywhere, out of room, on any number of workers: the same files in the end.

The default counts take seconds; CHATLM_TORTURE=1 runs the full ones.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .whole_pipeline import fingerprint

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures" / "raw"
TORTURE = os.environ.get("CHATLM_TORTURE") == "1"
NUM_KILLS = 100 if TORTURE else 8
NUM_FULL = 30 if TORTURE else 3


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Some raw files of every source; one JSON Lines file of several pieces."""
    folder = tmp_path_factory.mktemp("raw")
    shutil.copytree(FIXTURES, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def expected(raw, tmp_path_factory) -> tuple[dict[str, str], int, int]:
    """The files of a run that nothing disturbed, its tasks and its writes."""
    data = tmp_path_factory.mktemp("data")
    ((answer,),) = run_and_kill(raw, {data: [0]})
    assert answer["status"] == 0
    return fingerprint(data), answer["tasks"], answer["writes"]


def run_and_kill(raw: Path, kills: dict[Path, list[int]]) -> list[list[dict[str, int]]]:
    """Runs a pipeline in each folder, once for each of its kills; returns what each run came to."""
    told = [word for data, own in kills.items() for word in (str(data), ",".join(map(str, own)))]
    done = subprocess.run(
        [sys.executable, "-m", "tests.corpus.whole_pipeline", str(raw), *told],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def command(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "utils.raw_data_process", *argv],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def clean_and_build(raw: Path, data: Path, *more: str, **environment: str) -> None:
    where = (f"clean={data / 'clean'}", *more)
    cleaned = command("clean", f"raw={raw}", *where, **environment)
    assert cleaned.returncode == 0, cleaned.stderr
    sizes = ("max_percent=10", "valid_rows=200", "test_rows=200")
    built = command("build", f"out={data / 'out'}", *where, *sizes, **environment)
    assert built.returncode == 0, built.stderr


def test_a_pipeline_killed_at_any_write_goes_on_to_the_same_files(raw, expected, tmp_path):
    files, num_tasks, num_writes = expected
    points = random.Random(0).sample(range(1, num_writes - 10), NUM_KILLS - 4)
    # The last writes put the parts in place of the earlier ones: killed there every time.
    points += range(num_writes - 9, num_writes - 1, 2)
    runs = {tmp_path / str(number): [point, 0] for number, point in enumerate(points)}
    for point, data, (killed, finished) in zip(points, runs, run_and_kill(raw, runs), strict=True):
        assert killed["status"] == 9, f"write {point} was not reached"
        assert finished["status"] == 0
        assert fingerprint(data) == files, f"killed at write {point} of {num_writes}"
        assert finished["tasks"] <= num_tasks


def test_a_pipeline_killed_again_and_again_still_ends_and_never_does_a_task_twice(
    raw, expected, tmp_path
):
    files, num_tasks, num_writes = expected
    kills = random.Random(1).choices(range(1, num_writes // 2), k=6)
    (answers,) = run_and_kill(raw, {tmp_path: [*kills, 0]})
    assert fingerprint(tmp_path) == files
    assert answers[-1]["tasks"] < num_tasks, "what the killed runs had finished was done again"


COMBINATIONS = [
    (workers, seed, zone, locale)
    for workers in (1, 2, 4)
    for seed in ("0", "4711")
    for zone in ("UTC", "Asia/Shanghai")
    for locale in ("C", "zh_CN.UTF-8")
]


@pytest.mark.parametrize("combination", COMBINATIONS if TORTURE else COMBINATIONS[3::8])
def test_workers_hash_seeds_time_zones_and_locales_change_nothing(
    raw, expected, tmp_path, combination
):
    workers, seed, zone, locale = combination
    environment = {"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": locale}
    clean_and_build(raw, tmp_path, f"workers={workers}", **environment)
    assert _without_settings(fingerprint(tmp_path)) == _without_settings(expected[0])


def _without_settings(files: dict[str, str]) -> dict[str, str]:
    return {path: sha256 for path, sha256 in files.items() if path != "out/manifest.json"}


def test_ray_gives_the_files_that_processes_give(raw, expected, tmp_path):
    pytest.importorskip("ray")
    clean_and_build(raw, tmp_path, "engine=ray", "workers=2")
    assert _without_settings(fingerprint(tmp_path)) == _without_settings(expected[0])


def test_one_changed_byte_concerns_one_shard(raw, tmp_path):
    own = tmp_path / "raw"
    shutil.copytree(raw, own)
    clean_and_build(own, tmp_path / "data")
    before = fingerprint(tmp_path / "data")
    path = own / "baike_qa2019" / "baike_qa_train.json"
    content = path.read_bytes()
    path.write_bytes(content.replace("。".encode(), "！".encode(), 1))
    clean_and_build(own, tmp_path / "data")
    after = fingerprint(tmp_path / "data")
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    sources = {name.split("/")[1] for name in changed if name.startswith(("clean/", "rejects/"))}
    assert sources == {"baike_qa2019"}
    manifest = json.loads((tmp_path / "data/clean/baike_qa2019/manifest.json").read_bytes())
    shards = [name for name in changed if name.endswith(".arrow")]
    assert len(shards) == 2, "the shard of before and the shard of after"
    assert len(manifest["shards"]) >= 1


def _mounted(folder: Path, kilobytes: int) -> bool:
    folder.mkdir(exist_ok=True)
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    size = f"size={kilobytes}k"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, check=False
    )
    return done.returncode == 0


def test_a_full_disk_is_one_plain_error_and_more_room_goes_on(raw, expected, tmp_path):
    disk = tmp_path / "disk"
    if not _mounted(disk, 16):
        pytest.skip("a file system of limited size cannot be mounted here")
    try:
        rounds = 0
        for kilobytes in range(16, 16 + 24 * NUM_FULL, 24):
            subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", disk], check=True)
            for argv in (
                ("clean", f"raw={raw}", f"clean={disk / 'clean'}", "workers=1"),
                ("build", f"clean={disk / 'clean'}", f"out={disk / 'out'}", "workers=1"),
            ):
                done = command(*argv)
                if done.returncode:
                    rounds += 1
                    assert done.returncode == 2, done.stderr
                    assert "Traceback" not in done.stderr
                    break
            visible = [path for path in disk.rglob("*") if path.suffix == ".tmp"]
            assert not visible
        assert rounds, "the disk was never full"
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        clean_and_build(raw, disk)
        assert _without_settings(fingerprint(disk)) == _without_settings(expected[0])
    finally:
        subprocess.run(["umount", disk], check=True)


def test_input_that_disappears_while_it_is_read_is_a_plain_error(raw, tmp_path):
    own = tmp_path / "raw"
    shutil.copytree(raw, own)
    (own / "belle" / "train_2M_CN.json").unlink()
    (own / "belle" / "train_2M_CN.json").symlink_to(tmp_path / "nowhere")
    done = command("clean", f"raw={own}", f"clean={tmp_path / 'clean'}", "sources=belle")
    assert "Traceback" not in done.stderr
