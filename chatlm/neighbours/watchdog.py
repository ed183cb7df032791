"""Notices ranks of this training that died or hang, and ends this one.

    with Watchdog(accelerator, hang_seconds=60) as watchdog:     # right after launch(); collective
        ...                                                      # data, model, loop, evaluation
        with watchdog.step():
            ...                                                  # one optimizer step

In: the ranks of a launch. Out: an end with exit code 75 and one line that names the rank, its pid
and its host, no matter what the main thread waits for. A rank that ends by an error or a signal of
its own says so, and the others end with its exit code.

Each rank has a thread and a connection to rank 0, over which both send a sign of life every second.
A process that dies has its connections closed by its system: that is seen at once. One that is
stopped, or whose machine lost its power, falls silent: that takes `hang_seconds`. A thread goes on
while the main thread evaluates, prepares data or takes a long step, so none of these is silence. A
main thread that waits for ever in a step, while its process is well, is found by `step`, which
knows how long steps take. One process alone has no watchdog. It saves nothing: what was saved last
is what a restart goes on from.
"""

import faulthandler
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch.distributed
from accelerate import Accelerator, PartialState

from chatlm.errors import ChatLMError, NeighbourError, brief
from chatlm.neighbours import links
from chatlm.neighbours.links import Client, Hub, Members, Offer, Verdict
from chatlm.neighbours.processes import Process, this_process
from chatlm.neighbours.signals import end_now

HANG_SECONDS = 60.0
STEP_FLOOR_SECONDS = 1800.0
STEP_FACTOR = 50
"""A step may take half an hour, or fifty times as long as the longest one, whichever is longer."""
_BROKEN_COLLECTIVE_SECONDS = 2.0
"""How soon after a collective broke it is known whose end broke it."""
_PAUSE_SECONDS = 0.02
_OWN_END_SECONDS = 3.0
"""How long the main thread may take to come to an end of its own, when another rank has ended."""


class Watchdog:
    """Watches over the ranks of one training; a context manager, entered by all of them.

    Args:
        accelerator: knows the ranks; its process group has been made.
        hang_seconds: a rank that is stopped has been found, and the others have ended, after this.
        step_seconds: the least time after which a step counts as one that never ends.
    """

    def __init__(
        self,
        accelerator: Accelerator | PartialState,
        *,
        hang_seconds: float = HANG_SECONDS,
        step_seconds: float = STEP_FLOOR_SECONDS,
    ) -> None:
        self._rank, self._count = accelerator.process_index, accelerator.num_processes
        self._hang_seconds, self._step_seconds = hang_seconds, step_seconds
        self._longest_step = 0.0
        self._step_began: float | None = None
        self._link: Hub | Client | None = None
        self._stopping, self._broken = threading.Event(), threading.Event()
        self._told_to_end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begins to watch. Collective.

        Raises:
            NeighbourError: rank 0 cannot be reached, or a rank is gone already.
        """
        if self._count == 1:
            return
        server = links.serve(self._count) if self._rank == 0 else None
        told: Any = [None] * self._count
        try:
            torch.distributed.all_gather_object(told, (this_process(), server and server.offer))
        except RuntimeError as error:
            raise NeighbourError(
                f"another rank ended before the training began ({brief(error)}): start again"
            ) from error
        everyone: list[tuple[Process, Offer]] = told
        members = Members(self._rank, [process for process, _ in everyone], self._hang_seconds)
        if server:
            self._link = hub = Hub(members, server)
            hub.gather()
        else:
            self._link = Client(members, everyone[0][1])
        self._thread.start()

    def stop(self, code: int = 0) -> None:
        """Ends watching; the others learn with which exit code this rank goes."""
        if self._link is not None and not self._stopping.is_set():
            if code == 0:
                self._leave_together(self._link)
                self._stopping.set()
            else:
                self._stopping.set()  # before the others end, too, which would end this one
                self._link.leave(code)
            self._thread.join()
            self._link.close()

    def _leave_together(self, link: Hub | Client) -> None:
        """Leaves when all others are about to: one that hangs at the very end is noticed too.

        Rank 0 leaves last; until then it is told that others leave, and they hear its beats.
        """
        if isinstance(link, Client):
            link.leave(0)
        while not link.is_last and not self._told_to_end.wait(_PAUSE_SECONDS):
            pass
        if isinstance(link, Hub):
            link.leave(0)

    def __enter__(self) -> "Watchdog":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, RuntimeError) and self._link is not None:
            # What a collective raises when another rank is gone; the thread ends this process.
            self._broken.set()
            time.sleep(_BROKEN_COLLECTIVE_SECONDS)
        self.stop(_exit_code(error))

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measures one step, and limits it by those before it."""
        began = self._step_began = time.monotonic()
        try:
            yield
        finally:
            self._step_began = None
        self._longest_step = max(self._longest_step, time.monotonic() - began)

    # ---- the thread -------------------------------------------------------------------------

    def _watch(self) -> None:
        assert self._link is not None
        while not self._stopping.is_set():
            slept, verdict = self._link.turn()
            if slept and self._step_began is not None:
                self._step_began = time.monotonic()
            if verdict is not None:
                self._end(verdict)
                return
            self._check_step()

    def _end(self, verdict: Verdict) -> None:
        """Ends this process, or lets it come to the end that it is about to reach by itself."""
        assert self._link is not None
        if self._stopping.is_set():
            return  # this process has an error of its own to tell
        given_up = time.monotonic()
        if verdict.code is not None:
            given_up += _OWN_END_SECONDS
            self._told_to_end.set()
        while not self._broken.is_set() and time.monotonic() < given_up:
            if self._stopping.wait(0.1):
                return
        if verdict.hangs:
            verdict.process.kill()  # it would wake up one day, and hold the run folder until then
        self._link.pass_on(verdict)
        code = verdict.code or NeighbourError.exit_code
        advice = ": start again with resume=True" if code == NeighbourError.exit_code else ""
        end_now(code, f"{verdict}; rank {self._rank} ends too{advice}")

    def _check_step(self) -> None:
        began, longest = self._step_began, self._longest_step
        limit = max(self._step_seconds, STEP_FACTOR * longest)
        if began is None or not longest or time.monotonic() - began < limit:
            return
        assert self._link is not None
        faulthandler.dump_traceback(2)
        self._link.leave(NeighbourError.exit_code)
        end_now(
            NeighbourError.exit_code,
            f"rank {self._rank} ({this_process()}) has been in one step for {limit:.0f} s (the "
            f"longest one took {longest:.1f} s; where it waits stands above): start again with "
            "resume=True",
        )


def _exit_code(error: BaseException | None) -> int:
    """Returns what the door will make of an exception."""
    if error is None:
        return 0
    if isinstance(error, ChatLMError):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 130 if isinstance(error, KeyboardInterrupt) else 1
