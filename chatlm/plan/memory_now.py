"""How much memory this process has taken since a moment.

In: a device. Out: a `Gauge`. It knows nothing of models.
"""

import ctypes
from collections.abc import Callable

import torch

from chatlm.plan import machine

WARM_SIZE = 1024


def libraries() -> int:
    """Returns the resident bytes of this process with its libraries ready for work.

    Matrix libraries load code and take buffers when they are first used, so they are used first.
    """
    left = torch.randn(WARM_SIZE, WARM_SIZE)
    product = left @ left
    del left, product
    trim()
    return machine.resident_memory()


def trim() -> None:
    """Gives freed memory back to the system, where the C library can."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


class Gauge:
    """Memory from the moment that it is made: resident (CPU) or allocated (CUDA).

    Attributes:
        before: Bytes at that moment.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        else:
            self.before = libraries()
            machine.forget_peak()

    def finished(self, clock: Callable[[], float]) -> float:
        """Returns the time when the device has nothing left to do."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return clock()

    def peak(self) -> int:
        """Returns the most bytes since the gauge was made."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return machine.peak_memory()
