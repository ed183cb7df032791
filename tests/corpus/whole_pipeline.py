"""The whole pipeline on small raw files, for tests that stop it where they like.

Run as a program it forks children from one warm parent, which saves seconds a run, and kills each
child for good at a chosen write: `python -m tests.corpus.whole_pipeline RAW DATA KILLS ...`, where
KILLS are numbers of writes, comma between, and more pairs of DATA and KILLS may follow. Prints one
JSON line for each DATA, a list of what its runs came to.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chatlm.corpus import build_stage, clean_stage
from chatlm.corpus.build_stage import BuildSettings
from chatlm.corpus.sources import SOURCES, files_of
from chatlm.corpus.split import SplitSizes
from chatlm.corpus.tasks import Engine, Executor
from utils.raw_data_process import POLICY

SETTINGS = BuildSettings(sizes=SplitSizes(200, 200, 10))


def run(raw: Path, data: Path, executor: Executor | None = None) -> int:
    """Cleans and builds; returns how many tasks with outputs had to run."""
    engine = Engine(executor, data / "receipts")
    names = []
    for name, recipe in POLICY.items():
        if files := files_of(SOURCES[name], raw):
            clean_stage.clean(SOURCES[name], files, recipe, data / "clean", engine)
            names.append(name)
    build_stage.build(data / "clean", names, data / "out", SETTINGS, engine)
    return engine.num_run


def fingerprint(data: Path) -> dict[str, str]:
    """Returns the hash of every file that a user keeps, manifests included, by its path."""
    kept = [*data.glob("clean/*/*"), *data.glob("rejects/*/*"), *data.glob("out/*")]
    return {
        str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(kept)
        if path.is_file() and path.name != ".lock"
    }


def kill_at(number: int) -> Callable[[], int]:
    """Makes this process kill itself at the write of that number; returns the counter."""
    done = 0

    def counted(function: Any) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            nonlocal done
            done += 1
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **keywords)

        return call

    os.fsync = counted(os.fsync)
    os.link = counted(os.link)
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]
    return lambda: done


def child(raw: Path, data: Path, kill: int) -> dict[str, Any]:
    """Runs the pipeline in a forked child that dies at write `kill`; 0 lets it end."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        writes = kill_at(kill)
        answer = {"tasks": run(raw, data), "writes": writes()}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        answer = file.read()
    _, status = os.waitpid(process, 0)
    return {"status": status, **(json.loads(answer) if answer else {})}


def main(argv: list[str]) -> None:
    """Runs once for each number of each pair of `argv[1:]`."""
    raw = Path(argv[0])
    with TemporaryDirectory() as folder:
        run(raw, Path(folder))  # Now all loops are loaded, which children inherit.
    for data, kills in zip(argv[1::2], argv[2::2], strict=True):
        found = [child(raw, Path(data), int(kill)) for kill in kills.split(",")]
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
