"""R20: the order in which a save reaches the disk, as the kernel saw it.

A killed process leaves what it had handed to the kernel; a machine without power does not. So for
each save of real trainings: every file is synced after its last byte, then the folder, then the
folder gets its name, then the run folder is synced, then what is older may go; nothing is written
into the checkpoint afterwards.
"""

import os
import sys

from benchmarks.torture import strace
from benchmarks.torture.victim import ROOT, SETTINGS, Result, Workbench
from tests import tiny_data

COUNTS = {"full": 96, "slice": 2}
SECONDS = 1.0
TITLE = "the order of syncing, renaming and deleting"
SAVES = 24
"""Of one training: it saves after every step."""


def run(count: int, bench: Workbench) -> Result:
    """Looks at `count` saves or some more."""
    if why := strace.can_trace():
        return Result("R20", TITLE, skipped=why)
    failures: list[str] = []
    done = syncs = 0
    while done < count:
        saves, seen, wrong = _watched(bench, min(SAVES, count - done), background=done % 2 == 0)
        failures += wrong
        done += saves
        syncs += seen
        if not saves:
            break
    return Result("R20", TITLE, done, failures, {"fsync_calls": syncs})


def _watched(bench: Workbench, steps: int, *, background: bool) -> tuple[int, int, list[str]]:
    """Trains for some steps; returns saves and calls of fsync seen, and what was wrong."""
    folder, out = bench.new_run("r20"), bench.folder / "calls"
    settings = SETTINGS | {"data": bench.data, "out": folder, "background_saves": background}
    settings |= {"max_steps": steps, "save_every_steps": 1, "eval_every_steps": steps}
    argv = [sys.executable, str(ROOT / "train.py"), "train", *tiny_data.argv(**settings)]
    done = strace.traced(argv, out, cwd=bench.folder, env=os.environ | {"PYTHONPATH": str(ROOT)})
    if done.returncode:
        return 0, 0, [f"the training failed: {done.stderr[-300:]}"]
    found = strace.calls(out, folder)
    saves = strace.saves(found, folder)
    wrong = [
        f"{save.new}: {one}" for save in saves for one in strace.wrong_order(found, save, folder)
    ]
    if len(saves) != steps:
        wrong.append(f"{len(saves)} saves were seen, not {steps}")
    return len(saves), sum(call.name == "fsync" for call in found), wrong
