"""Ranks of which one meets its end: `python -m tests.neighbours.ranks '[{...}, ...]'`.

All trials run side by side, as forks of one process that has imported everything. What each rank
printed, how it ended and how long after the fault comes back as JSON, in the order of the trials.
"""

import importlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

LONGEST_SECONDS = 60


@dataclass(frozen=True)
class Trial:
    """What happens to which of how many ranks, and where all of them are then.

    `fault` is a signal's name, or an exit code with which the rank ends by itself. `where` is
    `compute`, `collective`, `wait` (rank 0 is busy and the others wait for it), `start`, or `end`
    (the others are done, this one not quite).
    """

    fault: str
    rank: int
    where: str = "collective"
    ranks: int = 2
    hang_seconds: float = 8.0
    step_seconds: float = 1800.0


@dataclass
class Ended:
    """How the ranks of a trial ended: exit codes, seconds after the fault, what they printed."""

    codes: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)


def _be(trial: Trial, rank: int, port: int, printed: Path) -> None:
    """Is one rank."""
    import torch
    from accelerate import PartialState

    from chatlm import cli
    from chatlm.errors import ConfigError
    from chatlm.neighbours.watchdog import Watchdog

    descriptor = os.open(printed, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(trial.ranks),
        "LOCAL_WORLD_SIZE": str(trial.ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }

    def main(_argv: object) -> int:
        state = PartialState(cpu=True)
        limits = {"hang_seconds": trial.hang_seconds, "step_seconds": trial.step_seconds}
        with Watchdog(state, **limits) as watchdog:
            if trial.where == "start":
                printed.with_suffix(".ready").touch()
                if rank == trial.rank:
                    raise ConfigError("no such thing")
            with watchdog.step():
                torch.distributed.barrier()
            printed.with_suffix(".ready").touch()
            while not printed.with_name("go").exists():
                time.sleep(0.01)
            if rank == trial.rank and trial.fault == "2":
                raise ConfigError("no such thing")
            if rank == trial.rank and trial.fault == "0":
                return 0
            if trial.where == "end":
                if rank == trial.rank:
                    time.sleep(LONGEST_SECONDS)
                return 0
            busy = trial.where == "compute" or (trial.where == "wait" and rank == 0)
            with watchdog.step():
                while busy:
                    time.sleep(0.1)
                while True:
                    torch.distributed.all_reduce(torch.ones(1))
        return 0

    cli.run(main)


def start(trial: Trial, folder: Path) -> Ended:
    """Starts the ranks of a trial."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ended = Ended([0] * trial.ranks, [0.0] * trial.ranks, [""] * trial.ranks)
    for rank in range(trial.ranks):
        pid = os.fork()
        if not pid:
            try:
                _be(trial, rank, port, folder / f"{rank}.log")
            except SystemExit as end:
                os._exit(int(end.code or 0))
            finally:
                os._exit(1)
        ended.pids.append(pid)
    return ended


def strike(trial: Trial, ended: Ended, folder: Path) -> None:
    """Waits until the ranks are where they are to be, and injects the fault."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while len(list(folder.glob("*.ready"))) < trial.ranks and time.monotonic() < deadline:
        time.sleep(0.02)
    (folder / "go").touch()
    if trial.fault.startswith("SIG"):
        time.sleep(0.2)
        os.kill(ended.pids[trial.rank], signal.Signals[trial.fault])


def collect(trials: list[Trial], endings: list[Ended], folders: list[Path]) -> None:
    """Waits for all ranks and kills those that do not come to an end."""
    began = time.monotonic()
    left = {pid: (ended, rank) for ended in endings for rank, pid in enumerate(ended.pids)}
    while left and time.monotonic() - began < LONGEST_SECONDS:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            time.sleep(0.02)
            continue
        ended, rank = left.pop(pid)
        ended.codes[rank] = os.waitstatus_to_exitcode(status)
        ended.seconds[rank] = time.monotonic() - began
    for pid, (ended, rank) in left.items():
        os.kill(pid, signal.SIGKILL)
        ended.codes[rank] = -999
    for trial, ended, folder in zip(trials, endings, folders, strict=True):
        for rank in range(trial.ranks):
            ended.printed[rank] = (folder / f"{rank}.log").read_text()


def main(text: str) -> None:
    """Runs all trials."""
    import torch

    importlib.import_module("chatlm.neighbours.watchdog")
    torch.set_num_threads(1)
    trials = [Trial(**one) for one in json.loads(text)]
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root) / str(number) for number in range(len(trials))]
        endings = [start(*pair) for pair in zip(trials, folders, strict=True)]
        for three in zip(trials, endings, folders, strict=True):
            strike(*three)
        collect(trials, endings, folders)
    print(json.dumps([asdict(ended) for ended in endings]))


if __name__ == "__main__":
    main(sys.argv[1])
