"""R5: the disk fills up, at any page of a save, of the figures, of the log, or before the start.

The run folder lies on a small disk in memory, which is filled up while the training is at a chosen
place, so that it is the kernel that says no. The training must end with the one exit code for it
and one line that names a path and the bytes that were needed; every checkpoint must be whole and
nothing half written may be left. When there is room again the run must end with the bits of one
that nothing happened to. A training whose disk has no room for two checkpoints must not start.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.torture import disks, faults, whole
from benchmarks.torture.victim import SETTINGS, Outcome, Result, Workbench

COUNTS = {"full": 86, "slice": 3}
SECONDS = 2.6
TITLE = "the disk is full: at a page of a save, a line of figures or of the log, or at the start"
STORAGE = 74
MEGABYTES = 24
STEP = int(SETTINGS["max_steps"]) // 2
KINDS = ("save", "save", "save", "save", "save in the foreground", "metrics", "log", "start")
"""How the cases are shared out."""
LINE = 90
"""About the length of a line of the log."""


def run(count: int, bench: Workbench) -> Result:
    """Fills the disk `count` times."""
    if why := disks.can_mount(bench.folder / "disk"):
        return Result("R5", TITLE, skipped=why)
    reference = bench.reference()
    pages = disks.pages_of(reference.run / f"step_{reference.steps[-1]:06d}")
    numbers: dict[str, int] = {}
    failures = []
    for case in range(count):
        kind = KINDS[case % len(KINDS)]
        place = numbers[kind] = numbers.get(kind, -1) + 1
        share = place / max(1, len([i for i in range(count) if KINDS[i % len(KINDS)] == kind]))
        with disks.small_disk(bench.folder / f"disk-{case:03d}", MEGABYTES) as disk:
            found = filled(bench, disk, kind, share, pages, reference)
        failures += [f"{kind}, {share:.0%} of the way: {one}" for one in found]
    figures: dict[str, object] = {"pages_of_a_checkpoint": pages}
    return Result("R5", TITLE, count, failures, figures | {k: n + 1 for k, n in numbers.items()})


def filled(
    bench: Workbench, disk: Path, kind: str, share: float, pages: int, reference: Outcome
) -> list[str]:
    """Fills the disk once, and goes on when it is free again; returns what was wrong."""
    folder = disk / bench.new_run("r05").name
    inject: faults.Inject | None = None
    if kind == "metrics":
        line = 1 + int(share * int(SETTINGS["max_steps"]))
        inject = _at(folder, "metrics.jsonl", line, lambda: disks.fill(disk, 0))
    elif kind == "log":
        inject = _log_on(disk, int(share * 20 * LINE))
    elif kind == "start":
        disks.fill(disk, int(2 * share * pages))
    else:
        inject = _at(
            folder, f".tmp-step_{STEP:06d}", 1, lambda: disks.fill(disk, int(share * pages))
        )
    background = kind != "save in the foreground"
    outcome = bench.start(folder, inject=inject, background_saves=background).outcome()
    wrong = _wrong_when_full(outcome, kind, folder)
    disks.free(disk)
    return wrong + whole.wrong_at_the_end(folder, bench.finish(folder), reference)


def _at(folder: Path, start: str, number: int, act: Callable[[], None]) -> faults.Inject:
    """Acts before the n-th file operation whose path in the run folder begins so."""

    def each(count: int, _name: str, _path: str) -> None:
        if count == number:
            act()

    return lambda _: faults.watch(folder, each, lambda path: path.startswith(start))


def _log_on(disk: Path, room: int) -> faults.Inject:
    """Sends the log to a file on the disk, which has room for so many bytes of it."""

    def inject(_: int) -> None:
        path = disk / "log"
        path.write_bytes(b"\n" * (-room % disks.PAGE or disks.PAGE))
        disks.fill(disk, room // disks.PAGE)
        stream = path.open("a", encoding="utf-8", buffering=1)
        os.dup2(stream.fileno(), 2)
        sys.stderr = stream

    return inject


def _wrong_when_full(outcome: Outcome, kind: str, folder: Path) -> list[str]:
    wrong = []
    if outcome.exit_code != STORAGE:
        wrong.append(f"exit code {outcome.exit_code}, not {STORAGE}: {outcome.last_line()}")
    told = outcome.last_line()
    # Where there is no room for a folder, nothing is known of what goes into it.
    bytes_needed = re.search(r"\d bytes", told) or not folder.exists()
    if kind != "log" and not (str(folder) in told and bytes_needed):
        wrong.append(f"its last line names no path or no bytes: {told}")
    if "Traceback" in outcome.log:
        wrong.append(f"a traceback: {told}")
    if kind == "start" and (folder / "metrics.jsonl").exists():
        wrong.append("it began to train")
    return wrong + (whole.damaged(folder) + whole.leftovers(folder) if folder.exists() else [])
