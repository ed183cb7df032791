"""What a machine offers a training: memory, disk, cores, GPUs.

In: the settings of a run, or the name of a card that is not here. Out: a `Machine`. It measures no
speed (`calibrate`) and allocates nothing.
"""

import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from chatlm.config import TrainConfig
from chatlm.plan.cards import Card


@dataclass(frozen=True)
class Machine:
    """Where a run would take place.

    Attributes:
        name: For people.
        is_cuda: Whether the model lies on a GPU.
        is_here: Whether this is the machine that we are on, so that it can be measured.
        num_devices: GPUs, or 1 for all CPU cores together.
        memory_bytes: Free memory of one device; on a CPU all processes share it.
        disk_bytes: Free space where the run would be written.
        threads: CPU threads a process.
        card: The makers' figures, for a GPU that is not here.
    """

    name: str
    is_cuda: bool
    is_here: bool
    num_devices: int
    memory_bytes: int
    disk_bytes: int
    threads: int = 1
    card: Card | None = None

    def memory_of_one_process(self, processes: int) -> int:
        """Returns the bytes that each of several processes can have."""
        return self.memory_bytes if self.is_cuda else self.memory_bytes // processes


def here(config: TrainConfig, processes: int, out: Path) -> Machine:
    """Returns this machine, as a run with these settings would use it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = config.threads or max(1, (cores or 1) // processes)
    disk = free_disk(out)
    if config.device != "cpu" and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        count = torch.cuda.device_count()
        name = f"{count} x {torch.cuda.get_device_name()}"
        return Machine(name, True, True, count, free, disk, threads)
    name = f"{_processor()}, {processes} x {threads} thread{'s' if threads > 1 else ''}"
    return Machine(name, False, True, 1, free_memory(), disk, threads)


def elsewhere(card: Card, processes: int, out: Path) -> Machine:
    """Returns a machine with that many such cards."""
    memory = int(card.memory_gib * 2**30)
    name = f"{processes} x {card.name}"
    return Machine(name, True, False, processes, memory, free_disk(out), card=card)


def free_disk(folder: Path) -> int:
    """Returns the free bytes of the file system that a folder is on, or would be made on."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def free_memory() -> int:
    """Returns the bytes of main memory that can be taken now without swapping."""
    known = _kernel_figures(Path("/proc/meminfo"))
    if "MemAvailable" not in known:  # not Linux
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 0.8)
    return min(known["MemAvailable"], _free_in_container())


def _kernel_figures(path: Path) -> Mapping[str, int]:
    """Returns the `name: number kB` lines of a file of the kernel, in bytes."""
    if not path.is_file():
        return {}
    rows = (line.split(":", 1) for line in path.read_text().splitlines() if "kB" in line)
    return {name: int(value.split()[0]) * 1024 for name, value in rows}


def _free_in_container() -> int:
    """Returns what the limit of a container leaves, or a number too large to matter."""
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if not limit.is_file() or not used.is_file():
        return 2**62
    text = limit.read_text().strip()
    return 2**62 if text == "max" else max(0, int(text) - int(used.read_text()))


def resident_memory() -> int:
    """Returns the bytes of main memory that this process has now."""
    return _kernel_figures(Path("/proc/self/status")).get("VmRSS") or peak_memory()


def peak_memory() -> int:
    """Returns the most bytes of main memory that this process has had."""
    known = _kernel_figures(Path("/proc/self/status"))
    if "VmHWM" in known:
        return known["VmHWM"]
    import resource

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Makes `peak_memory` count from now, where the kernel can."""
    path = Path("/proc/self/clear_refs")
    if path.exists():
        path.write_text("5")


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
