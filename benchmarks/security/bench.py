"""What a scenario of security gets: a folder, a random state, processes of its own.

In: a folder and a seed. Out: forked processes that are waited for, and canaries: files that exist
only if something was run, or written, that must not be.
"""

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NoReturn


@dataclass
class Bench:
    """One scenario's workplace. Every random choice comes from `random`, which follows `seed`."""

    folder: Path
    seed: int = 0
    jobs: int = 2
    random: Random = field(init=False)
    _children: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.random = Random(self.seed)

    def fork(self, work: Callable[[], int]) -> None:
        """Does something in a process of its own."""
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            self.leave(work)
        self._children.append(pid)

    def leave(self, work: Callable[[], int]) -> NoReturn:
        """Does something as the last act of a forked process."""
        code = 1
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> list[int]:
        """Returns the exit codes of all that were forked."""
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self._children]
        self._children.clear()
        return codes
