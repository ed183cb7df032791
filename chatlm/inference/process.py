"""An engine in a process of its own, watched over: when it dies, the next one starts.

In: requests. Out: events, on the event loop. At most `max_streams` requests are with the process;
the others wait here and survive its death. What was being answered then ends with `Lost`. A process
that does not obey is killed. It bounds no queue and knows no text; `chatlm.server` does.

    worker = EngineProcess(engine_command(folder, "auto", 0))
    running = asyncio.create_task(worker.run())
"""

import asyncio
import contextlib
import math
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from chatlm import log
from chatlm.errors import ChatLMError, EngineError
from chatlm.inference import wire
from chatlm.inference.engine import Finished, Request
from chatlm.inference.wire import Accepted, Lost, ProcessEvent, Tokens

State: TypeAlias = Literal["loading", "ready", "restarting", "failing", "closed"]
OnProcessEvent: TypeAlias = Callable[[ProcessEvent], None]

STEADY_SECONDS = 10.0
"""A process that was ready for so long has not died of what the one before it died of."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STUCK_SECONDS = 180.0
"""From `cancel` to the end of the answer; an engine needs one more token, or one beam search."""
CLOSE_SECONDS = 2.0
_BUFFER_BYTES = 1 << 20
_ROOT = Path(__file__).resolve().parents[2]


def engine_command(folder: Path, device: str, threads: int) -> list[str]:
    """Returns the command line of a process that answers; the arguments are `open_engine`'s."""
    # -P: a module in the current folder must not take the place of a library.
    program = [sys.executable, "-P", "-m", "chatlm.inference.worker"]
    return [*program, str(folder), device, str(threads)]


def pause_seconds(deaths: int) -> float:
    """Returns how long to wait after so many early deaths in a row: not at all after the first."""
    if deaths <= 1:
        return 0.0
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(deaths - 2, 20))


class ProcessTicket:
    """An answer that was asked for."""

    def __init__(
        self, owner: "EngineProcess", number: int, request: Request, on_event: OnProcessEvent
    ) -> None:
        self.number = number
        self.request = request
        self.on_event = on_event
        self._owner = owner

    def cancel(self) -> None:
        """Ends the answer; `Finished("cancelled")` follows unless it has ended."""
        self._owner.cancel(self)


class EngineProcess:
    """The engine as the event loop sees it; all methods belong to the loop's thread.

    Attributes:
        state: "loading" until the first process is ready; "restarting" after a death, and "failing"
            when the new one died early too, so that there is a pause.
        kind: what computes, for people; empty until the first process is ready.
        max_streams: answers that are made at the same time.
        restarts: processes started after the first.
        pid: of the process that is ready or opening the model; None between two.
    """

    def __init__(self, command: Sequence[str], max_streams: int = 0) -> None:
        """Prepares; `run` starts.

        Args:
            command: the whole command line of the worker.
            max_streams: fewer answers at the same time than the engine could make; 0: as it can.
        """
        self.state: State = "loading"
        self.kind = ""
        self.max_streams = 0
        self.restarts = 0
        self.pid: int | None = None
        self._command = list(command)
        self._most_streams = max_streams
        self._process: Process | None = None
        self._unable: ChatLMError | None = None
        self._numbers = 0
        self._ready_at = math.inf
        self._waiting: deque[ProcessTicket] = deque()
        self._running: dict[int, ProcessTicket] = {}
        self._cancelled: dict[int, asyncio.TimerHandle] = {}

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that are with the process."""
        return len(self._running)

    @property
    def has_room(self) -> bool:
        """Whether a request would start at once."""
        return self.state == "ready" and len(self._running) < self.max_streams

    async def run(self) -> None:
        """Keeps a process running until `close`.

        Raises:
            ChatLMError: the first one cannot open the model; later ones are tried again.
        """
        deaths = 0
        clock = asyncio.get_running_loop().time
        while self.state != "closed":
            self._ready_at = math.inf
            code = await self._live()
            if self._is("closed"):
                return
            if self.state == "loading":
                raise self._unable or EngineError(
                    f"the model's process ended with code {code} while it opened the model; "
                    "what it said stands above"
                )
            deaths = 1 if clock() - self._ready_at > STEADY_SECONDS else deaths + 1
            pause = pause_seconds(deaths)
            why = f": {self._unable}" if self._unable else ""
            log.warning(
                f"the model's process ended with code {code}{why}; "
                f"start {self.restarts + 1} again in {pause:g} s"
            )
            self._bury(is_storm=deaths > 1)
            self.restarts += 1
            await asyncio.sleep(pause)

    def start(self, request: Request, on_event: OnProcessEvent) -> ProcessTicket:
        """Asks for an answer, made now or when there is room.

        Args:
            request: what to answer.
            on_event: gets `Accepted`, then what the engine says; or `Refused`. The last event is
                `Finished`, `Failed`, `Refused` or `Lost`.
        """
        self._numbers += 1
        ticket = ProcessTicket(self, self._numbers, request, on_event)
        self._waiting.append(ticket)
        self._fill()
        return ticket

    def cancel(self, ticket: ProcessTicket) -> None:
        """Takes a request back; see `ProcessTicket.cancel`."""
        if ticket.number in self._running:
            if ticket.number not in self._cancelled:
                loop = asyncio.get_running_loop()
                stuck = loop.call_later(STUCK_SECONDS, self._kill_stuck, ticket.number)
                self._cancelled[ticket.number] = stuck
                self._tell(["cancel", ticket.number])
        elif ticket in self._waiting:
            self._waiting.remove(ticket)
            ticket.on_event(Finished("cancelled"))

    async def close(self) -> None:
        """Ends the process; answers that have not ended are `Lost`."""
        self.state = "closed"
        process = self._process
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), CLOSE_SECONDS)
            _kill(process)
        self._bury(is_storm=True)

    def _is(self, state: State) -> bool:
        """Asks anew; a `close` may have come while something was awaited."""
        return self.state == state

    async def _live(self) -> int:
        """Runs one process from its start to its end; returns its exit code."""
        self._unable = None
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=PIPE,
            stdout=PIPE,
            limit=_BUFFER_BYTES,
            env=_environment(),
            start_new_session=True,  # what a terminal sends to the server is not for it
        )
        self._process, self.pid = process, process.pid
        assert process.stdout is not None
        try:
            if self.state == "closed":  # while it started
                return 0
            while (message := await wire.receive(process.stdout)) is not None:
                self._hear(message)
            # Its stdout is closed, so it has ended or is about to.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), CLOSE_SECONDS)
        finally:
            _kill(process)
            self._process = self.pid = None
        return await process.wait()

    def _hear(self, message: wire.Message) -> None:
        if message[0] == "hello":
            _, self.kind, streams = message
            self.max_streams = min(streams, self._most_streams or streams)
            self.state = "ready"
            self._ready_at = asyncio.get_running_loop().time()
            self._fill()
        elif message[0] == "unable":
            _, code, text = message
            self._unable = ChatLMError(text)
            self._unable.exit_code = code
        else:
            event = wire.event_of(message)
            number = message[1]
            ticket = self._running[number]
            if not isinstance(event, Accepted | Tokens):
                self._end(number)
            ticket.on_event(event)
            self._fill()

    def _fill(self) -> None:
        """Gives the process what waits, as far as there is room."""
        while self._waiting and self.has_room:
            ticket = self._waiting.popleft()
            self._running[ticket.number] = ticket
            self._tell(wire.start_message(ticket.number, ticket.request))

    def _end(self, number: int) -> None:
        del self._running[number]
        if timer := self._cancelled.pop(number, None):
            timer.cancel()

    def _tell(self, message: wire.Message) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(wire.framed(message))

    def _bury(self, *, is_storm: bool) -> None:
        """Ends what was being answered, and in a storm what waits, too."""
        if self.state != "closed":
            self.state = "failing" if is_storm else "restarting"
        lost = list(self._running.values())
        for number in list(self._running):
            self._end(number)
        if is_storm:
            lost += self._waiting
            self._waiting.clear()
        for ticket in lost:
            ticket.on_event(Lost())

    def _kill_stuck(self, number: int) -> None:
        if number in self._running and self._process is not None:
            log.warning(f"the model's process does not stop an answer for {STUCK_SECONDS:g} s")
            _kill(self._process)


def _environment() -> dict[str, str]:
    """Returns the environment of a process that finds the same `chatlm` as this one."""
    inherited = os.environ.get("PYTHONPATH", "")
    paths = [str(_ROOT), *([inherited] if inherited else [])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
