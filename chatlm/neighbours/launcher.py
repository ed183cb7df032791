"""Whether a launcher started this process, and whether it still lives.

In: the environment and the parent process. Out: `Launcher`. `accelerate launch`, `torchrun` and
DeepSpeed's launcher stay while their workers run, so a worker without one has lost it. A process
that a person started (`nohup python train.py &`) has no launcher, and outlives its shell.
"""

import os
from pathlib import Path

_ENVIRONMENT = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION", "CROSS_RANK")
"""What torchrun, `accelerate launch` and DeepSpeed tell their workers, and nobody else does."""

_PROGRAMS = ("python", "pt_", "torchrun", "accelerate", "deepspeed")
_FIRST = 1
_REAPERS = ("systemd", "init", "tini", "dumb-init", "docker-init", "catatonit")
"""Programs that take in the children of processes that have ended, and start no workers."""


class Launcher:
    """The launcher of this process, if it has one.

    Attributes:
        pid: None where there is no launcher.
        waits_for_workers: Whether it stays when it is asked to end, until its workers have ended.
    """

    def __init__(self) -> None:
        self.pid = os.getppid() if any(name in os.environ for name in _ENVIRONMENT) else None
        self._began_as_orphan = self.pid is not None and _takes_in_orphans(self.pid)
        self.waits_for_workers = "TORCHELASTIC_RUN_ID" in os.environ

    def is_dead(self) -> bool:
        """Says whether there was a launcher and is none any more."""
        if self.pid is None:
            return False
        return os.getppid() != self.pid or self._began_as_orphan


def _takes_in_orphans(pid: int) -> bool:
    """Says whether a parent is not who started this process, but who took it in.

    The first process of a container may be a launcher, that of a machine is none.
    """
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return False
    return name in _REAPERS or (pid == _FIRST and not name.startswith(_PROGRAMS))
