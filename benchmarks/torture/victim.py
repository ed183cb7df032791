"""Real trainings to be tortured: forked from a warm parent, killed at will, compared to the bit.

    from benchmarks.torture.victim import Result, Workbench
    with Workbench(folder, seed=7) as bench:          # makes tiny data once, in `folder`
        whole = bench.reference(ranks=2)              # an uninterrupted run; cached
        run = bench.new_run("kills")                  # a fresh name for a run folder
        victim = bench.start(run, ranks=2)            # forked: train.main, gloo, real files
        victim.wait(0.4)                              # sleeps until it ended, or 0.4 s
        victim.kill()                                 # SIGKILL to all ranks; kill(SIGTERM, rank=1)
        victim.wait(60)
        outcome = victim.outcome()                    # exit codes, logs, losses as hex, weights ...
        outcome = bench.finish(run, ranks=2)          # starts it again until it ends by itself
        assert not outcome.difference(whole)          # '' or one line

`start` resumes where the run has a checkpoint, as runs/train_or_resume.sh does (`resume=` decides
otherwise). Settings that differ from `SETTINGS` are keywords (`max_steps=12`, `model__d_ff=64`);
`reference` takes the same ones. `config=` names a launch configuration (DeepSpeed, FSDP2), `env=`
adds variables, `data=` another data folder (`bench.copy_of_data(name)` to spoil one).

Faults: `inject=` is a function of the rank that runs in the forked process before training;
`benchmarks.torture.faults` makes them (`die_at(run, n)` at the n-th file operation of a save,
`fail_at`, `record`, `together`), and any closure of yours may patch the process it runs in. For a
kill inside a save that goes on until it arrives:

    victim = bench.start(run, inject=lambda rank: ..., pipe=True)   # or bench.start(run, stop_at=5)
    victim.wait_for_operation(30); victim.wait(0.002); victim.kill()

`launcher=True` puts a process between, which starts the ranks and ends them as torchrun does when
one of them fails; `victim.kill_launcher()` kills only it. `victim.alive()` lists processes of the
training that still run, whoever is their parent: after `wait` those are orphans. The parent is a
"child subreaper", so an orphan's parent becomes this process and not process 1.

A scenario is a module `benchmarks/torture/rNN_name.py` with `COUNTS = {"full": 200, "slice": 20}`,
`SECONDS = 1.3` (CPU seconds a fault, for the estimate) and `def run(count: int, bench: Workbench)
-> Result`; `benchmarks.torture.run` finds it. A failure is one line: what was expected and what was
seen; the runner adds how to repeat it. No scenario raises for a training that misbehaves.

Every random choice must come from `bench.random`, so that `seed=` repeats a run. A workbench's
process must have no other threads and must not have trained: it forks.
"""

import ctypes
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.harness import Result
from benchmarks.torture import faults, fed, forks
from benchmarks.torture.outcome import Outcome
from benchmarks.torture.processes import LONGEST_SECONDS, Victim
from tests import tiny_data

__all__ = ["Outcome", "Result", "Victim", "Workbench"]
ROOT = Path(__file__).parents[2]
PAIRS = 150
STEPS_PER_EPOCH = 10
SETTINGS: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 2e-2,
    "max_steps": 24,
    "save_every_steps": 4,
    "eval_every_steps": 8,
    "eval_answers": 0,
    "keep_checkpoints": 2,
    "gradient_shares": 4,
    "model.dropout_rate": 0.1,
}
_REFERENCES: dict[tuple[Path, str], Outcome] = {}
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


class Workbench:
    """A folder with tiny data, and the trainings that run on it. A context manager."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed = folder.resolve(), seed
        self.random = random.Random(seed)
        self.data = self.folder / "data-of-sums"
        self._names: dict[str, int] = {}
        self._victims: list[Victim] = []
        self._environments: dict[tuple[str, int], dict[str, str]] = {}

    def __enter__(self) -> "Workbench":
        os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
        from tests.ranks import warm_up

        warm_up("train", "omegaconf")
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
        if not (self.data / "tokenizer").is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            # In a process of its own: what writes parquet starts threads.
            forks.forked(lambda: tiny_data.make(self.data, PAIRS))
        from chatlm import plot

        # Finds fonts once, not in every training.
        plot.save_loss_curve([{"step": 1, "loss": 1.0}], self.folder / "warm.png")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for victim in self._victims:
            if victim.alive():
                victim.end()

    # ---- trainings ----------------------------------------------------------------------------

    def new_run(self, name: str) -> Path:
        """Returns a run folder that does not exist yet, named after what it is for."""
        number = self._names[name] = self._names.get(name, 0) + 1
        run = self.folder / "runs" / f"{name}-{number:03d}"
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(self._logs(run), ignore_errors=True)
        return run

    def copy_of(self, run: Path, name: str) -> Path:
        """Returns a fresh copy of a run folder, to be damaged."""
        new = self.new_run(name)
        shutil.copytree(run, new, symlinks=True)
        return new

    def copy_of_data(self, name: str) -> Path:
        """Returns a fresh copy of the data folder, to be changed."""
        new = self.folder / f"data-{name}"
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(self.data, new)
        return new

    def start(
        self,
        run: Path,
        *,
        ranks: int = 1,
        resume: bool | None = None,
        inject: faults.Inject | None = None,
        stop_at: int = 0,
        config: str = "",
        launcher: bool = False,
        env: Mapping[str, str] | None = None,
        data: Path | None = None,
        observe: bool = True,
        **changes: object,
    ) -> Victim:
        """Starts a training; see the module's text.

        Args:
            run: its run folder; a path that does not exist starts a new run.
            ranks: processes.
            resume: whether to go on; None: if the run has a checkpoint.
            inject: what is done to each process before it trains.
            stop_at: rank 0 tells when it comes to this file operation of its saves.
            config: launch configuration; default runs/ddp.yaml for several ranks, none for one.
            launcher: start the ranks from a process between.
            env: variables for the training.
            data: another data folder.
            observe: write down what the model is given (`fed`).
            **changes: settings.
        """
        if resume is None:
            resume = any(run.glob("step_*/MANIFEST.json"))
        settings = SETTINGS | {"data": data or self.data, "out": run} | changes
        argv = ["train", *tiny_data.argv(**settings), *(["resume=True"] if resume else [])]

        def act(log: Path) -> int:
            if observe:
                fed.observe(log.with_suffix(".fed"))
            return train_by_door(argv)

        environment = self._environment(config, ranks) | dict(env or {})
        how: dict[str, Any] = {
            "ranks": ranks,
            "inject": inject,
            "launcher": launcher,
            "env": environment,
        }
        if not stop_at:
            return self.spawn(run, act, **how)
        return self.spawn(run, act, told=lambda tell: faults.tell_at(run, stop_at, tell), **how)

    def spawn(
        self,
        run: Path,
        act: Callable[[Path], int],
        *,
        env: Mapping[str, str],
        ranks: int = 1,
        inject: faults.Inject | None = None,
        told: Callable[[int], faults.Inject] | None = None,
        launcher: bool = False,
    ) -> Victim:
        """Starts processes of any kind that belong to a run.

        Args:
            run: the run folder.
            act: what each process does after the faults are injected: its log file in (its standard
                output goes there already), its exit code out.
            env: their environment, whole.
            ranks: processes.
            inject: what is done to each process first.
            told: makes another one of a file descriptor, whose byte `wait_for_operation` waits for.
            launcher: start the ranks from a process between.
        """
        assert forks.can_fork(), "a workbench's process must have one thread: it forks"
        files = self._log_files(run, ranks)
        reader, writer = os.pipe() if told else (-1, -1)
        injects = [one for one in (inject, told(writer) if told else None) if one]

        def be(rank: int) -> int:
            os.environ.clear()
            os.environ.update(env)
            if "WORLD_SIZE" in env:
                os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank)})
            os.chdir(self.folder)
            forks.print_into(files[rank], LONGEST_SECONDS - 10)
            faults.together(injects)(rank)
            return act(files[rank])

        sys.stdout.flush()
        sys.stderr.flush()
        group, pids, middle = (
            forks.fork_launcher(ranks, be) if launcher else (*forks.fork_ranks(ranks, be), 0)
        )
        if told:
            os.close(writer)
        victim = Victim(run, group, pids, middle, files, reader)
        self._victims = [one for one in self._victims if one.alive()] + [victim]
        return victim

    def finish(self, run: Path, *, attempts: int = 1, **how: Any) -> Outcome:
        """Starts a run (again) until it ends well, at most so often; returns the last outcome."""
        outcome = self.start(run, **how).outcome()
        for _ in range(attempts - 1):
            if outcome.exit_code == 0:
                break
            outcome = self.start(run, **how).outcome()
        return outcome

    def reference(self, *, ranks: int = 1, config: str = "", **changes: Any) -> Outcome:
        """Returns the outcome of a run that nothing happens to, from an earlier call if there was.

        Its `operations` are the file operations of all its saves, in order.

        Raises:
            RuntimeError: the undisturbed training fails.
        """
        key = repr((ranks, config, sorted(changes.items())))
        found = _REFERENCES.get((self.folder, key))
        if found is None:
            run = self.folder / "references" / f"reference-{fed.digest([], key.encode())}"
            how: dict[str, Any] = {"ranks": ranks, "config": config, **changes}
            if not any(self.folder.glob("data/cache/tokens-*")):
                self._undisturbed(run, how)  # what it prints and takes is not that of the others
            found = _REFERENCES[self.folder, key] = self._undisturbed(run, how)
        return found

    def _undisturbed(self, run: Path, how: Mapping[str, Any]) -> Outcome:
        for folder in (run, self._logs(run)):
            shutil.rmtree(folder, ignore_errors=True)
        log = self._logs(run) / "operations"
        log.parent.mkdir(parents=True)
        outcome = self.start(run, inject=faults.record(run, log), **how).outcome()
        if outcome.exit_code or outcome.hung:
            raise RuntimeError(f"the undisturbed training fails:\n{outcome.log[-3000:]}")
        outcome.operations = log.read_text().splitlines()
        return outcome

    # ---- what was seen --------------------------------------------------------------------------

    def attempts(self, run: Path) -> list[list[Path]]:
        """Returns the files of `fed` of each start of a run, in order."""
        numbers = sorted({path.stem.split("-")[0] for path in self._logs(run).glob("*.fed")})
        return [sorted(self._logs(run).glob(f"{number}-*.fed")) for number in numbers]

    def rows(self) -> dict[str, int]:
        """Returns digest -> row of the training pairs, as `fed.rows_of` does."""
        path = self.folder / "rows.json"

        def write() -> None:
            from chatlm.dataset import token_store

            # The first one that was made: scenarios that change the data make others.
            made = sorted(
                self.folder.glob("data/cache/tokens*"), key=lambda one: one.stat().st_ctime
            )
            stores = (token_store.open_store(one) for one in made)
            train = next(store for store in stores if len(store) == PAIRS)
            path.write_text(json.dumps(fed.rows_of(train)))

        if not path.exists():
            self.reference()
            forks.forked(write)
        return json.loads(path.read_text())

    def _logs(self, run: Path) -> Path:
        return self.folder / "logs" / run.name

    def _log_files(self, run: Path, ranks: int) -> list[Path]:
        folder = self._logs(run)
        folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(p.stem.split("-")[0]) for p in folder.glob("*.log")), default=0)
        return [folder / f"{number:04d}-{rank}.log" for rank in range(ranks)]

    def _environment(self, config: str, ranks: int) -> dict[str, str]:
        from tests.ranks import free_port, launched_env

        base = dict(os.environ)
        if ranks == 1 and not config:
            return base
        key = (config or str(ROOT / "runs" / "ddp.yaml"), ranks)
        if key not in self._environments:
            self._environments[key] = launched_env(*key)
        world = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        return base | self._environments[key] | world | address


def train_by_door(argv: Sequence[str]) -> int:
    """Is `python train.py ...`, from its first line to its exit code."""
    import train
    from chatlm import cli

    sys.argv = ["train.py", *argv]
    cli.run(train.main)
