"""Trains with several processes, as launchers start them, at the price of one start of Python.

A script: `python -m tests.ranks jobs.json folder`. Each job is a training by the door, with the
environment that accelerate makes of a launch configuration. Its processes are forks of this one,
which has imported everything and touched nothing. What each was given to learn from and how often
it spoke with the others is written down, in `folder/<job>/<rank>.json`, what it printed beside it.
"""

import contextlib
import faulthandler
import io
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LONGEST_SECONDS = 300


@dataclass(frozen=True)
class Job:
    """One training: the launch configuration (none: one plain process) and what the door is told.

    `forget` names files that are deleted first: without its manifest a checkpoint is none.
    """

    name: str
    argv: Sequence[str]
    config: str = ""
    num_processes: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    forget: Sequence[str] = ()


@dataclass
class Seen:
    """What one process did: the labels of each pair, by optimizer step, and its collectives."""

    code: int = -1
    pairs: list[list[list[int]]] = field(default_factory=lambda: [[]])
    collectives: dict[str, int] = field(default_factory=dict)


def launched_env(config: str, num_processes: int) -> dict[str, str]:
    """Returns the environment that `accelerate launch --config_file` gives its processes."""
    from accelerate.commands import launch
    from accelerate.utils import launch as environments

    argv = ["--config_file", config, "--num_processes", str(num_processes), "train.py"]
    parsed = launch.launch_command_parser().parse_args(argv)
    args, settings, _ = launch._validate_launch_command(parsed)
    if args.use_deepspeed:
        fields: Any = settings
        args.deepspeed_fields_from_accelerate_config = ",".join(fields.deepspeed_config)
        return environments.prepare_deepspeed_cmd_env(args)[1]
    return environments.prepare_multi_gpu_env(args)


def free_port() -> int:
    """Returns a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def watching() -> Iterator[Seen]:
    """Notes what every T5 in training is given, and counts collectives by their name."""
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from chatlm.model.t5 import IGNORE_INDEX, T5

    seen = Seen()

    def note(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(module, T5) and module.training:
            _, labels, _, offsets = (tensor.tolist() for tensor in arguments)
            pairs = [labels[start:end] for start, end in pairwise(offsets)]
            seen.pairs[-1] += [pair for pair in pairs if pair and pair[0] != IGNORE_INDEX]

    hooks = [
        register_module_forward_pre_hook(note),
        register_optimizer_step_post_hook(lambda *_: seen.pairs.append([])),
    ]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        yield seen
    for hook in hooks:
        hook.remove()
    # The events as they were recorded: `profile.events()` takes half a minute to put them in order.
    recorded: Any = profile.profiler
    names = (event.name() for event in recorded.kineto_results.events())
    for name in names:
        if name.startswith("c10d::"):
            seen.collectives[name] = seen.collectives.get(name, 0) + 1


def _train(job: Job, env: Mapping[str, str], folder: Path, rank: int) -> None:
    """Is one process of a job, from its first line to its exit code."""
    os.environ.clear()
    os.environ.update(env)
    if job.config:
        os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank)})
    os.environ.update(job.env)
    log = (folder / f"{rank}.log").open("w", encoding="utf-8")
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    faulthandler.dump_traceback_later(LONGEST_SECONDS - 10, file=log)
    import train
    from chatlm import cli

    sys.argv = ["train.py", *job.argv]
    with watching() as seen:
        try:
            cli.run(train.main)
        except SystemExit as end:
            seen.code = int(end.code or 0)
        except Exception:
            traceback.print_exc()
    (folder / f"{rank}.json").write_text(json.dumps(vars(seen)))


def run(job: Job, folder: Path) -> None:
    """Runs one job; its processes have ended, or were ended, when this returns."""
    folder.mkdir(parents=True)
    for path in job.forget:
        Path(path).unlink(missing_ok=True)
    base = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    env: dict[str, str] = base
    if job.config:
        env = base | launched_env(job.config, job.num_processes)
        env |= {"WORLD_SIZE": str(job.num_processes), "LOCAL_WORLD_SIZE": str(job.num_processes)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    children = []
    for rank in range(job.num_processes):
        child = os.fork()
        if not child:
            try:
                _train(job, env, folder, rank)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)
        children.append(child)
    _wait(children)


def _wait(children: Sequence[int]) -> None:
    """Waits for the processes; when one takes too long, all are killed."""
    waiting, started = set(children), time.monotonic()
    while waiting:
        for child in list(waiting):
            if os.waitpid(child, os.WNOHANG)[0]:
                waiting.discard(child)
        if time.monotonic() - started > LONGEST_SECONDS:
            for child in waiting:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.02)


def warm_up(*more: str) -> None:
    """Imports all that a training imports, and holds torch to one thread: forks are safe then."""
    import importlib

    import torch

    heavy = "chatlm.training torch._dynamo matplotlib.pyplot sacrebleu.metrics.bleu"
    with contextlib.redirect_stdout(io.StringIO()):
        for module in (*heavy.split(), *more):
            importlib.import_module(module)
    torch.set_num_threads(1)


def main(jobs: str, folder: str) -> None:
    """Runs all jobs, one after the other."""
    warm_up("deepspeed")
    for job in json.loads(Path(jobs).read_text()):
        started = time.monotonic()
        run(Job(**job), Path(folder) / job["name"])
        print(f"{job['name']}: {time.monotonic() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
