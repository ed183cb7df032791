"""Kill, flip bits, fill the disk, start twice: what others' trainings do under the same faults.

In: the trainers of `peer_trainers`. Out: their figures, one entry a peer. A run that was killed is
started again with the command that started it; its weights, losses and samples are compared with
an uninterrupted run of the same trainer. A restart that fails ends the run: nobody helps it.
Nothing is judged here, only counted; failures of others are no failures of ours.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.torture import fed, forks, peer_trainers
from benchmarks.torture.peer import Peer, telling
from benchmarks.torture.victim import PAIRS, ROOT, STEPS_PER_EPOCH, Result, Workbench
from tests import tiny_data
from tests.ranks import free_port

COUNTS = {"full": 40, "slice": 4}
SECONDS = 3 * 2.0
TITLE = "accelerate save_state and HF Trainer under the same faults"
LONGEST_CHAIN = 12
STOP, FLIPS_A_FILE, ALIVE_SECONDS = 22, 4, 5.0
SAVE_WAS_OVER = -1
TOGETHER_STEPS = 100


def run(count: int, bench: Workbench) -> Result:
    """Injects `count` kills into each peer, and the other faults in proportion."""
    pairs = bench.folder / "pairs.json"
    forks.forked(lambda: _write_pairs(bench, pairs))
    rows = {fed.digest(*pair): row for row, pair in enumerate(json.loads(pairs.read_text()))}
    figures: dict[str, Any] = {}
    faults = 0
    for name in peer_trainers.TRAINERS:
        peer = Peer(name, bench, pairs)
        peer.measure()
        found: dict[str, Any] = {
            "version": version(peer_trainers.PACKAGES.get(name, "accelerate")),
            "stopped_and_resumed": _plainly(peer),
            "kills": kills(peer, count, rows),
            "bit_flips": bit_flips(peer, FLIPS_A_FILE if count >= 40 else 1),
            "disk_full": disk_full(peer, max(2, count // 4)),
            "two_in_one_folder": together(peer, max(1, count // 8)),
        }
        if count >= 40:
            found["launcher_killed"] = launcher_killed(peer, 2)
        figures[name] = found
        faults += sum(one.get("faults", 0) for one in found.values() if isinstance(one, dict))
    return Result("PEERS", TITLE, faults, [], figures)


def _write_pairs(bench: Workbench, path: Path) -> None:
    from chatlm.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(bench.data / "tokenizer")
    ids = tokenizer.encode
    pairs = [(ids(one.prompt), ids(one.response)) for one in tiny_data.examples(PAIRS)]
    path.write_text(json.dumps(pairs))


def _plainly(peer: Peer) -> dict[str, Any]:
    """Ends a run in order after some steps, and goes on: the bits that need no fault to differ."""
    differences = {}
    for steps in (14, 20):
        folder = peer.new_run()
        peer.start(folder, steps).outcome()
        code = peer.start(folder).outcome().exit_code
        differences[f"after step {steps}"] = (
            "failed" if code else ", ".join(peer.difference(folder)) or "equal bits"
        )
    return differences


def kills(peer: Peer, count: int, rows: dict[str, int]) -> dict[str, Any]:
    """Kills as R1 does: three of five at random times, two of five inside saves."""
    inside = count * 2 // 5
    kinds = ["random"] * (count - inside) + ["save"] * inside
    peer.bench.random.shuffle(kinds)
    done: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    while kinds:
        folder = peer.new_run()
        for _ in range(LONGEST_CHAIN):
            kind = kinds[-1] if kinds else ""
            code, log = _attempt(peer, folder, kind)
            if code is None:
                done[kinds.pop()] += 1
                continue
            if code == SAVE_WAS_OVER:
                done["just after a save"] += 1
                continue
            ends["runs"] += 1
            if code:
                ends["restarts_failed"] += 1
                errors[_error(log)] += 1
                break
            difference = peer.difference(folder)
            ends["ended_with_other_weights"] += "weights" in difference
            ends["ended_with_other_losses"] += "losses" in difference
            wrong = fed.wrong_counts(peer.seen(folder, ".fed"), rows, STEPS_PER_EPOCH)
            ends["ended_with_samples_lost_or_repeated"] += bool(wrong)
            break
    return {"faults": sum(done.values()), **done, **ends, "errors": dict(errors)}


def _attempt(peer: Peer, folder: Path, kind: str) -> tuple[int | None, str]:
    """Returns the exit code of one start and its log; None if it was killed."""
    choose = peer.bench.random
    if kind == "save":
        owner, method = peer_trainers.saving(peer.name)
        number = choose.randint(1, 3)
        victim = peer.start(folder, told=lambda tell: telling(owner, method, number, tell))
        if victim.wait_for_operation(60):
            victim.wait(choose.uniform(0, peer.save_seconds))
            victim.kill()
            if victim.wait_for_operation(0):
                victim.outcome()
                return SAVE_WAS_OVER, ""
    else:
        victim = peer.start(folder)
        if not victim.wait(choose.uniform(0, peer.seconds) if kind else 60):
            victim.kill()
    outcome = victim.outcome()
    return (None if -9 in outcome.exit_codes else outcome.exit_code), outcome.log


def _error(log: str) -> str:
    """Returns the kind of error that ended a start."""
    found = re.findall(r"^(?:\w+\.)*(\w*(?:Error|Exception))\b", log, re.MULTILINE)
    return found[-1] if found else "no message"


def bit_flips(peer: Peer, flips: int) -> dict[str, Any]:
    """Flips one bit in the newest checkpoint of a run and goes on, file by file."""
    base = peer.new_run()
    peer.start(base, STOP).outcome()
    newest = peer_trainers.checkpoints(peer.name, base)[-1]
    found: dict[str, str] = {}
    counted: Counter[str] = Counter()
    for file in peer_trainers.files_of(newest):
        ends = []
        for _ in range(flips):
            folder = peer.new_run()
            shutil.copytree(base, folder)
            _flip(peer, folder / file.relative_to(base))
            outcome = peer.start(folder).outcome()
            same = not outcome.exit_code and "weights" not in peer.difference(folder)
            ends.append("reported" if outcome.exit_code else "same" if same else "other weights")
            shutil.rmtree(folder)
        counted.update(ends)
        found[file.name] = ", ".join(f"{one} {ends.count(one)}" for one in sorted(set(ends)))
    silent = counted["same"] + counted["other weights"]
    figures = {"reported": counted["reported"], "loaded_silently": silent}
    other = {"ended_with_other_weights": counted["other weights"]}
    return {"faults": sum(counted.values()), **figures, **other, "files": found}


def _flip(peer: Peer, path: Path) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[peer.bench.random.randrange(len(content))] ^= 1 << peer.bench.random.randrange(8)
    path.write_bytes(content)


@contextlib.contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[None]:
    """Mounts a disk of `size` bytes.

    Raises:
        PermissionError: this user must not mount.
    """
    folder.mkdir(parents=True)
    argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def disk_full(peer: Peer, count: int) -> dict[str, Any]:
    """Trains on disks that hold a third to three checkpoints, and again with space enough."""
    base = peer.new_run()
    peer.start(base).outcome()
    newest = peer_trainers.checkpoints(peer.name, base)[-1]
    size = sum(path.stat().st_size for path in peer_trainers.files_of(newest))
    found: Counter[str] = Counter()
    for _ in range(count):
        folder = peer.new_run()
        try:
            with tmpfs(folder, int(size * peer.bench.random.uniform(0.3, 3.0))):
                if not peer.start(folder).outcome().exit_code:
                    continue
                found["faults"] += 1
                remount = ["mount", "-o", "remount,size=64m", str(folder)]
                subprocess.run(remount, check=True)
                if peer.start(folder).outcome().exit_code:
                    found["restarts_failed"] += 1
                else:
                    found["restarts_ended"] += 1
                    found["ended_with_other_weights"] += "weights" in peer.difference(folder)
        except PermissionError as error:
            return {"skipped": str(error)}
    return dict(found)


def together(peer: Peer, count: int) -> dict[str, Any]:
    """Starts two trainings in one folder, up to half a second apart."""
    found: Counter[str] = Counter(faults=count, both_trained=0, second_refused=0)
    for _ in range(count):
        folder = peer.new_run()
        first = peer.start(folder, TOGETHER_STEPS)
        first.wait(peer.bench.random.uniform(0, 0.5))
        second = peer.start(folder, TOGETHER_STEPS)
        outcomes = [one.outcome() for one in (first, second)]
        # Whoever trains notes what it learns from; the first could finish before the second starts.
        both = all(fed.history([files]) for files in peer.bench.attempts(folder))
        found["both_trained"] += both
        # One that breaks off over a half-written checkpoint was not refused.
        refused = re.search(r"lock|in use|another (process|training|run)", outcomes[1].log)
        found["second_refused"] += bool(outcomes[1].exit_code and not both and refused)
        found["one_broke_off"] += any(one.exit_code for one in outcomes)
    return dict(found)


def launcher_killed(peer: Peer, count: int) -> dict[str, Any]:
    """Kills torchrun's agent and counts its workers that live, and go on writing, 5 s later."""
    found: Counter[str] = Counter(faults=count, workers=0, alive_after_5_s=0, still_saving=0)
    for _ in range(count):
        folder = peer.new_run()
        logs = peer.bench.folder / "logs" / folder.name
        logs.mkdir(parents=True)
        options = ["--nproc-per-node", "2", "--master-port", str(free_port())]
        module = ["-m", "benchmarks.torture.peer_trainers"]
        own = [peer.name, str(folder), str(peer.pairs), str(logs), "1000000"]
        argv = [sys.executable, "-m", "torch.distributed.run", *options, *module, *own]
        agent = subprocess.Popen(
            argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while not (saved := _newest(peer, folder)) and time.monotonic() < deadline:
            time.sleep(0.2)
        path = Path(f"/proc/{agent.pid}/task/{agent.pid}/children")
        workers = [int(pid) for pid in path.read_text().split()]
        agent.kill()
        agent.wait()
        time.sleep(ALIVE_SECONDS)
        alive = [pid for pid in workers if _lives(pid)]
        found["workers"] += len(workers)
        found["alive_after_5_s"] += len(alive)
        found["still_saving"] += _newest(peer, folder) > saved
        for pid in alive:
            os.kill(pid, 9)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
    return dict(found)


def _newest(peer: Peer, folder: Path) -> float:
    """Returns when the newest checkpoint was written, 0 without one."""
    times = [0.0]
    for checkpoint in peer_trainers.checkpoints(peer.name, folder):
        with contextlib.suppress(OSError):
            times += [path.stat().st_mtime for path in peer_trainers.files_of(checkpoint)]
    return max(times)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
