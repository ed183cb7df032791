"""R17: run folders that cannot be written, vanish, fill up, or have unusual names.

Where no run can be it is said within 5 s, in one line, with exit code 74 or 2, and nothing is left
there. What goes wrong later is said at the next line or save, with exit code 74; when the place is
whole again a restart comes to the bits of an uninterrupted run. Unusual names and symbolic links
are places like any other. A small file system in memory plays the quota.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.torture.disks import can_mount, fill, free, small_disk
from benchmarks.torture.outcome import Outcome
from benchmarks.torture.victim import Result, Workbench

COUNTS = {"full": 36, "slice": 6}
SECONDS = 2.5
TITLE = "run folders that cannot be used, vanish or have unusual names"
LONGEST_SECONDS = 5.0
NAMES = ("模型 一号", "x" * 250, "深" * 83, "a'b\"$;&", "out=1", ".hidden")
Trial = Callable[[Workbench, Path], list[str]]


def run(count: int, bench: Workbench) -> Result:
    """Goes through the trials until there have been `count` of them."""
    trials: list[tuple[str, Trial]] = [
        ("read-only", _read_only),
        ("a full disk", _full_from_the_start),
        ("a file", _file),
        ("below a file", _below_a_file),
        ("a dangling link", _dangling),
        ("a name that is too long", _too_long),
        ("deleted meanwhile", _deleted),
        ("replaced meanwhile", _replaced),
        ("read-only meanwhile", _read_only_meanwhile),
        ("a quota", _quota),
        ("missing parents", lambda bench, place: _trains(bench, place / "not" / "there")),
        ("a link", _link),
        *((f"named {name[:12]}", _named(name)) for name in NAMES),
    ]
    if reason := can_mount(bench.folder / "mount-probe"):
        return Result("R17", TITLE, skipped=reason)
    failures = []
    for number in range(count):
        title, trial = trials[number % len(trials)]
        place = bench.new_run("r17")
        place.mkdir(parents=True)
        failures += [f"{place.name} ({title}): {one}" for one in trial(bench, place)]
    return Result("R17", TITLE, count, failures, {"kinds": len(trials)})


# ---- before the first step ----------------------------------------------------------------------


def _refused(bench: Workbench, out: Path) -> list[str]:
    """Expects one line and no training."""
    before = sorted(_entries(out.parent))
    outcome = bench.start(out.with_name("refused"), resume=False, out=out).outcome()
    problems = _plain(outcome, (2, 74))
    if outcome.seconds > LONGEST_SECONDS:
        problems.append(f"it took {outcome.seconds:.1f} s")
    if sorted(_entries(out.parent)) != before:
        problems.append("something was left behind")
    return problems


def _entries(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        yield from (path.name for path in folder.iterdir())


def _plain(outcome: Outcome, codes: tuple[int, ...]) -> list[str]:
    problems = [] if outcome.exit_code in codes else [f"exit code {outcome.exit_code}"]
    errors = [line for line in outcome.log.splitlines() if line.startswith("error: ")]
    if len(errors) != 1 or "Traceback" in outcome.log:
        problems.append(f"not one plain sentence: {outcome.last_line()}")
    return problems


def _read_only(bench: Workbench, place: Path) -> list[str]:
    with small_disk(place, 64):
        (place / "run").mkdir()
        _mount_again(place, "ro")
        return _refused(bench, place / "run") + _refused(bench, place / "deeper" / "run")


def _full_from_the_start(bench: Workbench, place: Path) -> list[str]:
    with small_disk(place, 1):
        fill(place, 0)
        return _refused(bench, place / "run")


def _file(bench: Workbench, place: Path) -> list[str]:
    (place / "run").write_bytes(b"")
    return _refused(bench, place / "run")


def _below_a_file(bench: Workbench, place: Path) -> list[str]:
    (place / "file").write_bytes(b"")
    return _refused(bench, place / "file" / "run")


def _dangling(bench: Workbench, place: Path) -> list[str]:
    (place / "run").symlink_to("nowhere")
    return _refused(bench, place / "run")


def _too_long(bench: Workbench, place: Path) -> list[str]:
    return _refused(bench, place / ("x" * 256))


# ---- while it trains ----------------------------------------------------------------------------


def _after(bench: Workbench, run: Path, act: Callable[[], object], mend: Trial) -> list[str]:
    """Lets something happen after the first save, expects one line, mends it and goes on."""
    victim = bench.start(run, save_every_steps=2)
    while not any(run.glob("step_*/MANIFEST.json")) and not victim.wait(0.002):
        pass
    if victim.wait(0):
        return [f"too quick: {victim.outcome().last_line()}"]
    act()
    outcome = victim.outcome()
    if outcome.exit_code == 0:
        return []  # it had written its last line
    problems = _plain(outcome, (74,))
    problems += mend(bench, run)
    difference = bench.finish(run, save_every_steps=2).difference(
        bench.reference(save_every_steps=2)
    )
    return problems + ([difference] if difference else [])


def _nothing(_bench: Workbench, _run: Path) -> list[str]:
    return []


def _deleted(bench: Workbench, place: Path) -> list[str]:
    return _after(bench, place / "run", lambda: _delete(place / "run"), _nothing)


def _delete(run: Path) -> None:
    """Takes a folder away in one moment."""
    shutil.rmtree(run.rename(run.with_name("deleted")))


def _replaced(bench: Workbench, place: Path) -> list[str]:
    run, aside = place / "run", place / "aside"

    def replace() -> None:
        run.rename(aside)
        run.mkdir()

    def bring_back(_bench: Workbench, _run: Path) -> list[str]:
        strange = [path.name for path in run.iterdir() if path.name.startswith("step_")]
        shutil.rmtree(run)
        aside.rename(run)
        return ["a checkpoint went into a folder that was not locked"] if strange else []

    return _after(bench, run, replace, bring_back)


def _read_only_meanwhile(bench: Workbench, place: Path) -> list[str]:
    def close() -> None:
        # Open files keep a file system writable; between two of them there is a moment.
        while not _mount_again(place, "ro"):
            pass

    def open_again(_bench: Workbench, _run: Path) -> list[str]:
        return [] if _mount_again(place, "rw") else ["it cannot be made writable again"]

    with small_disk(place, 64):
        return _after(bench, place / "run", close, open_again)


def _quota(bench: Workbench, place: Path) -> list[str]:
    def free_it(_bench: Workbench, _run: Path) -> list[str]:
        free(place)
        return []

    with small_disk(place, 16):
        return _after(bench, place / "run", lambda: fill(place, 0), free_it)


# ---- unusual and fine ---------------------------------------------------------------------------


def _trains(bench: Workbench, run: Path) -> list[str]:
    difference = bench.start(run).outcome().difference(bench.reference())
    return [difference] if difference else []


def _link(bench: Workbench, place: Path) -> list[str]:
    (place / "elsewhere").mkdir()
    (place / "run").symlink_to("elsewhere")
    return _trains(bench, place / "run")


def _named(name: str) -> Trial:
    return lambda bench, place: _trains(bench, place / name)


def _mount_again(disk: Path, how: str) -> bool:
    argv = ["mount", "-o", f"remount,{how}", str(disk)]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0
