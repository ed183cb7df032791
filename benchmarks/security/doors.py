"""The doors of the project as an attacker meets them: run in a forked process, watched.

In: what is typed after a door's name. Out: the exit code, what was printed, and which objects were
unpickled. The door runs as it does for a user; only the start of Python is spared.
"""

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.security.bench import Bench

PATIENCE_SECONDS = 120
OF_A_USER = (2, 70, 74, 75)
"""Exit codes of a ChatLMError."""


@dataclass(frozen=True)
class Visit:
    """What became of one run of a door."""

    code: int
    printed: str

    @property
    def last_line(self) -> str:
        """The last line that it printed."""
        return next((line for line in reversed(self.printed.splitlines()) if line.strip()), "")

    def wrong(self, *names: str, refused: bool = True) -> list[str]:
        """Returns in what this is no clean refusal that names one of these files.

        Args:
            names: what the message may name.
            refused: the door has to refuse; else it may also work.
        """
        found = []
        if "Traceback" in self.printed:
            found.append(f"a traceback: {self.last_line[:150]}")
        if self.code == 0 and not refused:
            return found
        if self.code not in OF_A_USER:
            found.append(f"exit code {self.code}: {self.last_line[:150]}")
        elif not self.last_line.startswith("error: "):
            found.append(f"no line of an error: {self.last_line[:150]}")
        elif names and not any(name in self.last_line for name in names):
            found.append(f"names none of {', '.join(names)}: {self.last_line[:300]}")
        return found


def warm_up() -> None:
    """Imports what the doors import, and starts no thread."""
    from tests.ranks import warm_up as of_training

    of_training("train", "omegaconf")
    import cli_demo
    import utils.export_model
    import utils.train_tokenizer
    from chatlm import inference, tokenizer

    assert all((cli_demo, utils.export_model, utils.train_tokenizer, inference, tokenizer))
    assert threading.active_count() == 1


def visit(
    door: Callable[[Sequence[str]], int], argv: Sequence[str], place: Path, bench: Bench
) -> Visit:
    """Runs a door in a process of its own, in a folder of its own."""
    log = bench.folder / "printed"
    log.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        bench.leave(lambda: _inside(door, argv, place, log))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Visit(code, log.read_text(encoding="utf-8", errors="replace"))


def _inside(
    door: Callable[[Sequence[str]], int], argv: Sequence[str], place: Path, log: Path
) -> int:
    from chatlm import cli

    signal.alarm(PATIENCE_SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(place)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.argv = ["door", *argv]
    try:
        cli.run(door)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
