"""R9: the launcher is killed with SIGKILL, at any time from its first worker to its last.

Five seconds later none of its workers may be alive, whoever is their parent then, and a restart
must come to the bits of an uninterrupted run. Two of three launchers are real ones, torchrun and
`accelerate launch`, whose workers import everything anew; the third is a fork, which is quicker and
is all that the slice of few faults has.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.torture.victim import ROOT, SETTINGS, Result, Workbench
from tests import tiny_data

COUNTS = {"full": 60, "slice": 1}
SECONDS = 12.0
TITLE = "the launcher killed"
LONGEST_SECONDS = 5.0
FEWEST_REAL = 6
MARK = "CHATLM_TORTURE_LAUNCH"
LAUNCHERS = {
    "torchrun": "torch.distributed.run --nproc_per_node 2 --master_port",
    "accelerate": "accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port",
}
LONGEST_START = 60.0
_LIBC = ctypes.CDLL(None)
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


def run(count: int, bench: Workbench) -> Result:
    """Kills `count` launchers."""
    kinds = ["fork", *LAUNCHERS] if count >= FEWEST_REAL else ["fork"]
    failures: list[str] = []
    seconds: list[float] = []
    done = dict.fromkeys(kinds, 0)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        done[kind] += 1
        folder = bench.new_run(f"r09-{kind}")
        kill = _kill_forked if kind == "fork" else _kill_real
        left = kill(bench, folder, kind, seconds)
        problems = [f"{len(left)} workers are alive after 5 s"] if left else []
        again = bench.finish(folder, ranks=2, attempts=2)
        if difference := again.difference(bench.reference(ranks=2)):
            problems.append(difference)
        failures += [f"{folder.name}: {problem}" for problem in problems]
    slowest = round(max(seconds, default=0.0), 2)
    return Result("R9", TITLE, count, failures, {"launchers": done, "slowest_seconds": slowest})


def _kill_forked(bench: Workbench, folder: Path, _kind: str, seconds: list[float]) -> list[int]:
    whole = bench.reference(ranks=2)
    victim = bench.start(folder, ranks=2, launcher=True)
    victim.wait(bench.random.uniform(0, 0.9 * whole.seconds))
    victim.kill_launcher()
    began = time.monotonic()
    victim.wait(LONGEST_SECONDS)
    seconds.append(time.monotonic() - began)
    return victim.outcome(0).orphans


def _kill_real(bench: Workbench, folder: Path, kind: str, seconds: list[float]) -> list[int]:
    mark = f"{os.getpid()}-{folder.name}"
    words = tiny_data.argv(**SETTINGS | {"data": bench.data, "out": folder})
    port = str(bench.random.randint(20000, 30000))
    argv = [
        sys.executable,
        "-m",
        *LAUNCHERS[kind].split(),
        port,
        str(ROOT / "train.py"),
        "train",
        *words,
    ]
    # Workers that have not yet looked who their parent is tell a launcher from the first process of
    # the machine, but not from this one.
    _LIBC.prctl(_SUBREAPER, 0, 0, 0, 0)
    log = folder.with_suffix(".launcher.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        launcher = subprocess.Popen(
            argv,
            cwd=bench.folder,
            env=os.environ | {MARK: mark, "PYTHONPATH": str(ROOT)},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    _wait_for_workers(mark, launcher)
    if bench.random.random() < 0.5:  # while they import, or while they train
        _wait_for(folder / "metrics.jsonl", launcher)
    time.sleep(bench.random.uniform(0, 1.5))
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    began = time.monotonic()
    while (left := _marked(mark)) and time.monotonic() - began < LONGEST_SECONDS:
        time.sleep(0.02)
    seconds.append(time.monotonic() - began)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _LIBC.prctl(_SUBREAPER, 1, 0, 0, 0)
    return left


def _wait_for_workers(mark: str, launcher: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + LONGEST_START
    while len(_marked(mark)) < 3 and launcher.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


def _wait_for(path: Path, launcher: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + LONGEST_START
    while not path.exists() and launcher.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


def _marked(mark: str) -> list[int]:
    """Returns the processes that were started, by their environment, and still run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
