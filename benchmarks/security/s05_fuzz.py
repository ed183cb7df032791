"""S5: files of a checkpoint, mutated: nothing crashes, hangs, or asks for memory by a file's claim.

Every case is a valid file with a change that follows from `seed` and its number, read in a forked
worker as the doors read it. A worker that dies, or stays in one case for too long, is replaced, and
the case is named. A case may raise nothing but a ChatLMError of one line.
"""

import faulthandler
import json
import mmap
import os
import random
import resource
import signal
import struct
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import Result
from benchmarks.security.bench import Bench
from benchmarks.security.fuzzed_files import TARGETS, Target, make
from chatlm.checkpoint.paths import MANIFEST
from chatlm.errors import ChatLMError

TITLE = "hostile files of a checkpoint"
COUNTS = {"full": 100_000, "slice": 1_000}
SECONDS = 0.005
MOST_SECONDS = 5.0
PATIENCE_SECONDS = 60.0
SLACK_BYTES = 8 << 20
"""What a library may take for itself, whatever a file says: arenas, caches, a stack."""
LONGEST_MESSAGE = 2_000
_SHOWN = 12
_KINDS = ("accepted", "refused", "crashed", "died")
_RECORD = struct.Struct("qdq4q")
"""What a worker tells its watcher: place, time, largest growth, counts of the kinds."""


@dataclass(frozen=True)
class Case:
    """One hostile file: its number, and what it is a variant of."""

    number: int
    target: Target


def run(count: int, bench: Bench) -> Result:
    """Runs the cases."""
    folder = make(bench.folder / "valid")
    valid = {path.name: path.read_bytes() for path in folder.iterdir()}
    cases = [
        Case(number, target)
        for target in TARGETS
        for number in range(max(1, round(target.share * count)))
    ]
    cases = [Case(number, case.target) for number, case in enumerate(cases)]
    result = Result("S5", TITLE, faults=len(cases))
    for number, lot in enumerate(_lots(cases, bench.jobs)):
        bench.fork(lambda number=number, lot=lot: _watch(lot, valid, bench, number))
    bench.wait()
    counts: Counter[str] = Counter()
    grown = 0
    for path in sorted(bench.folder.glob("notes-*")):
        notes = json.loads(path.read_text(encoding="utf-8"))
        result.failures += notes["failures"]
        grown = max(grown, notes["grown"])
        counts.update(notes["counts"])
    done = sum(counts.values())
    if done != len(cases):
        result.failures.append(f"{len(cases) - done} of {len(cases)} cases were not run")
    result.figures = {**counts, "largest_growth_kib": grown >> 10}
    return result


def _lots(cases: Sequence[Case], jobs: int) -> list[Sequence[Case]]:
    return [cases[start::jobs] for start in range(jobs)]


def _watch(cases: Sequence[Case], valid: dict[str, bytes], bench: Bench, number: int) -> int:
    """Runs cases in workers, one after the other, and replaces one that dies or hangs."""
    shared = mmap.mmap(-1, _RECORD.size)
    words, stacks = bench.folder / f"words-{number}", bench.folder / f"stacks-{number}"
    words.touch()
    failures, grown, at = list[str](), 0, 0
    total: Counter[str] = Counter()
    while at < len(cases):
        _RECORD.pack_into(shared, 0, at, time.monotonic(), 0, 0, 0, 0, 0)
        pid = os.fork()
        if not pid:
            job = _Job(cases, valid, bench.folder / f"job-{number}", bench.seed, shared)
            bench.leave(lambda start=at, job=job: _work(job, start, words, stacks))
        status = _ended(pid, shared)
        at, _, more, *counts = _RECORD.unpack_from(shared, 0)
        total.update(dict(zip(_KINDS, counts, strict=True)))
        grown = max(grown, more)
        if not status:
            break
        what = f"{cases[at].target.file}): the reader ended with {status}"
        stack = stacks.read_text().split() if stacks.exists() else []
        failures.append(f"case {cases[at].number} ({what} {' '.join(stack[:60])}")
        print(f"S5: {failures[-1]}", file=sys.stderr, flush=True)
        total["died"] += 1
        at += 1
    failures += words.read_text(encoding="utf-8", errors="replace").splitlines()
    notes = {"failures": failures, "grown": grown, "counts": dict(total)}
    (bench.folder / f"notes-{number}").write_text(json.dumps(notes), encoding="utf-8")
    return 0


@dataclass(frozen=True)
class _Job:
    """What one worker has to do, and where it says how far it is."""

    cases: Sequence[Case]
    valid: dict[str, bytes]
    run: Path
    seed: int
    shared: mmap.mmap
    there: dict[str, bytes] = field(default_factory=dict)

    def tell(self, at: int, grown: int, counts: Counter[str]) -> None:
        """Says which case is begun; in one piece, because the watcher reads at any time."""
        told = (counts[kind] for kind in _KINDS)
        self.shared[:] = _RECORD.pack(at, time.monotonic(), grown, *told)


def _ended(pid: int, shared: mmap.mmap) -> int:
    """Waits for a worker, kills it if one case takes too long; returns its exit code or signal."""
    before, used = -1, 0.0
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        record = shared[:]
        time.sleep(0.02)
        at, since, *_ = _RECORD.unpack(record)
        if shared[:] != record:
            continue
        if at != before:
            before, used = at, _cpu_seconds(pid)
        # The machine may be busy: an endless loop shows in the time of the processor.
        busy, waited = _cpu_seconds(pid) - used, time.monotonic() - since
        if busy > MOST_SECONDS or waited > PATIENCE_SECONDS:
            os.kill(pid, signal.SIGUSR1)  # says where it is
            time.sleep(0.5)
            os.kill(pid, signal.SIGKILL)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _work(job: _Job, start: int, words: Path, stacks: Path) -> int:
    """Runs cases from `start` on in this process."""
    faulthandler.register(signal.SIGUSR1, stacks.open("w"))
    # What a broken library says to nobody: the panics of the one in Rust.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    folder = job.run / "step_000005"
    folder.mkdir(parents=True, exist_ok=True)
    _warm(folder, job.valid)
    _limit_memory(2 * max(map(len, job.valid.values())) + SLACK_BYTES + (256 << 20))
    counts: Counter[str] = Counter()
    grown = 0
    for at in range(start, len(job.cases)):
        job.tell(at, grown, counts)
        kind, why, growth = _case(job.cases[at], folder, job)
        counts[kind] += 1
        grown = max(grown, growth)
        if why:
            with words.open("a", encoding="utf-8", errors="replace") as file:
                where = f"case {job.cases[at].number} ({job.cases[at].target.file})"
                file.write(f"{where}: {' '.join(why.split())}\n")
    job.tell(len(job.cases), grown, counts)
    return 0


def _case(case: Case, folder: Path, job: _Job) -> tuple[str, str, int]:
    """Returns what became of a case, what is wrong with that, and the memory it took in bytes.

    One that takes much is read again: what a library needs at first for itself it needs only once.
    """
    size = _lay_out(folder, case, job.valid, job.seed, job.there)
    growth = 0
    kind = why = ""
    for _ in range(2):
        before = _peak(reset=True)
        kind, why = _judge(case, folder)
        growth = _peak() - before
        if growth <= 2 * size + SLACK_BYTES:
            return kind, why, growth
    return kind, why or f"took {growth} bytes for a file of {size}", growth


def _warm(folder: Path, valid: dict[str, bytes]) -> None:
    """Reads valid files once: what libraries load at first use is no file's fault."""
    for target in TARGETS:
        for path in folder.iterdir():
            path.unlink()
        for name, content in valid.items():
            if name not in target.without:
                (folder / name).write_bytes(content)
        target.read(folder)
    for path in folder.iterdir():
        path.unlink()


def _lay_out(
    folder: Path, case: Case, valid: dict[str, bytes], seed: int, there: dict[str, bytes]
) -> int:
    """Puts the files of a case into a folder; returns the size of the hostile one.

    Args:
        folder: where to.
        case: which one.
        valid: the files that it is made of.
        seed: decides, with the case's number.
        there: what lies in the folder; is kept true.
    """
    rng = random.Random(f"{seed}-{case.number}")
    target = case.target
    hostile = target.mutate(valid[target.file], rng)
    wanted = {name: content for name, content in valid.items() if name not in target.without}
    wanted[target.file] = hostile
    for name in there.keys() - wanted.keys():
        (folder / name).unlink(missing_ok=True)
        del there[name]
    for name, content in wanted.items():
        if there.get(name) is not content:
            (folder / name).write_bytes(content)
            there[name] = content
    if MANIFEST not in wanted:  # one of the readers writes its own
        (folder / MANIFEST).unlink(missing_ok=True)
    return len(hostile)


def _judge(case: Case, folder: Path) -> tuple[str, str]:
    """Reads a case; returns "accepted" or "refused", and what is wrong with that."""
    try:
        case.target.read(folder)
    except ChatLMError as error:
        text = str(error)
        if "\n" in text or len(text) > LONGEST_MESSAGE:
            return "refused", f"a message of {len(text)} characters: {text[:80]!r}"
        return "refused", ""
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        return "crashed", f"{type(error).__name__} at {where}: {str(error)[:120]!r}"
    return "accepted", ""


def _limit_memory(more: int) -> None:
    """Lets this process have so many more bytes of addresses than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    now = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))


def _peak(*, reset: bool = False) -> int:
    """Returns the most memory that was resident since the last reset, in bytes."""
    if reset:
        with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123
            file.write("5")
    with open("/proc/self/status", "rb") as file:  # noqa: PTH123
        for line in file:
            if line.startswith(b"VmHWM:"):
                return int(line.split()[1]) << 10
    return 0
