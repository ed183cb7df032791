"""How the processes of a run come to the same decision.

In: what one process found, or each of them. Out: what all of them go by. Messages go between CPUs,
so that no GPU has to be waited for. Every method is collective: all processes call it alike.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import distributed

from chatlm.errors import ChatLMError

T = TypeVar("T")


class Agreement:
    """Speaks with the other processes of the run, if there are any."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.is_main = accelerator.is_main_process
        self._group: Any = None
        if accelerator.num_processes > 1:
            self._group = distributed.new_group(backend="gloo")

    def decide(self, make: Callable[[], T]) -> T:
        """Returns what `make` returned on the main process; the others do not call it.

        Raises:
            ChatLMError: what it raised there, on all processes.
        """
        if self._group is None:
            return make()
        decided: list[Any] = [None]
        if self.is_main:
            try:
                decided = [make()]
            except ChatLMError as error:
                decided = [error]
        distributed.broadcast_object_list(decided, src=0, group=self._group)
        if isinstance(decided[0], ChatLMError):
            raise decided[0]
        return decided[0]

    def highest(self, number: int) -> int:
        """Returns the highest of the numbers that the processes have."""
        if self._group is None:
            return number
        found = torch.tensor(number)
        distributed.all_reduce(found, distributed.ReduceOp.MAX, group=self._group)
        return int(found)

    def any_process(self, flag: bool) -> bool:
        """Tells whether the flag is set on any process."""
        return bool(self.highest(int(flag)))

    def close(self) -> None:
        """Ends the conversation."""
        if self._group is not None:
            distributed.destroy_process_group(self._group)
            self._group = None
