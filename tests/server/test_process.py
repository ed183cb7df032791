"""The model's process: watched, restarted, followed; and the words it exchanges with the server."""

import asyncio
import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Characters
from served import ROOT, until

from chatlm.errors import ChatLMError, EngineError
from chatlm.generation_config import GenerationConfig
from chatlm.inference import process, wire
from chatlm.inference.engine import Failed, Finished, Request, Tokens
from chatlm.inference.process import EngineProcess, pause_seconds
from chatlm.inference.wire import Accepted, Lost, ProcessEvent, Refused

PROGRAM = [sys.executable, str(Path(__file__).with_name("scripted.py"))]
IDS = st.lists(st.integers(0, 2**31)).map(tuple)
EVENTS = st.one_of(
    st.builds(Tokens, IDS),
    st.builds(Finished, st.sampled_from(["stop", "length", "cancelled"])),
    st.builds(Failed, st.text()),
)


def request(question: str, **config: int) -> Request:
    text = Characters()
    return Request((*text.encode(question), text.eos_id), GenerationConfig(**config))


@given(EVENTS, st.integers(0, 2**40))
def test_an_event_comes_as_it_went(event: Tokens | Finished | Failed, number: int) -> None:
    sent = wire.framed(wire.event_message(number, event))
    message = wire.read(io.BytesIO(sent))
    assert message is not None
    assert (message[1], wire.event_of(message)) == (number, event)
    assert wire.read(io.BytesIO(sent[:-1])) is None


@given(IDS, st.floats(0, 10), st.one_of(st.none(), st.integers(0, 2**63 - 1)), st.booleans())
def test_a_request_comes_as_it_went(
    ids: tuple[int, ...], temperature: float, seed: int | None, is_base: bool
) -> None:
    asked = Request(ids, GenerationConfig(temperature=temperature, seed=seed), is_base)
    message = wire.read(io.BytesIO(wire.framed(wire.start_message(7, asked))))
    assert message is not None
    assert wire.request_of(message) == asked


class Heard:
    """An answer and its events."""

    def __init__(self, engine: EngineProcess, question: str, **config: int) -> None:
        self.events: list[ProcessEvent] = []
        self.has_event = asyncio.Event()
        self.ticket = engine.start(request(question, **config), self._hear)

    def _hear(self, event: ProcessEvent) -> None:
        self.events.append(event)
        self.has_event.set()

    async def end(self) -> list[ProcessEvent]:
        async with asyncio.timeout(20):
            while not self.events or isinstance(self.events[-1], Accepted | Tokens):
                self.has_event.clear()
                await self.has_event.wait()
        return self.events

    async def first_token(self) -> None:
        async with asyncio.timeout(20):
            while len(self.events) < 2:
                self.has_event.clear()
                await self.has_event.wait()

    @property
    def text(self) -> str:
        ids = [one for event in self.events if isinstance(event, Tokens) for one in event.ids]
        return Characters().decode(ids)


@contextlib.asynccontextmanager
async def running(*arguments: object, max_streams: int = 0) -> AsyncIterator[EngineProcess]:
    engine = EngineProcess([*PROGRAM, *map(str, arguments)], max_streams)
    task = asyncio.create_task(engine.run())
    try:
        async with asyncio.timeout(20):
            while engine.state == "loading" and not task.done():
                await asyncio.sleep(0.01)
        yield engine
    finally:
        await engine.close()
        await task


def test_answers_failures_refusals_and_limits_are_told_in_order() -> None:
    async def talk() -> None:
        async with running() as engine:
            assert (engine.kind, engine.max_streams) == ("scripted", 4)
            greeting, cut = Heard(engine, "你好"), Heard(engine, "你好", max_new_tokens=2)
            failing, refused = Heard(engine, "错"), Heard(engine, "你好", top_k=13)
            events = await greeting.end()
            assert (events[0], events[-1]) == (Accepted(), Finished("stop"))
            assert greeting.text == "你好！很高兴见到你。"
            assert (await cut.end())[-1] == Finished("length")
            assert cut.text == "你好"
            assert (await failing.end())[-1] == Failed("out of memory")
            assert await refused.end() == [Refused("top_k=13: this engine does not like it")]
            assert (engine.num_running, engine.num_waiting) == (0, 0)

    asyncio.run(talk())


def test_who_waits_begins_when_there_is_room_and_may_be_taken_back() -> None:
    async def talk() -> None:
        async with running(0.005, max_streams=1) as engine:
            slow, second, third = (Heard(engine, question) for question in ("慢", "你好", "空"))
            await slow.first_token()
            assert (engine.num_running, engine.num_waiting) == (1, 2)
            second.ticket.cancel()
            assert second.events == [Finished("cancelled")]
            said = len(slow.events)
            slow.ticket.cancel()
            slow.ticket.cancel()
            assert (await slow.end())[-1] == Finished("cancelled")
            assert len(slow.events) <= said + 3  # what was under way, one token more, and the end
            assert await third.end() == [Accepted(), Finished("stop")]

    asyncio.run(talk())


def test_after_a_death_running_answers_are_lost_and_waiting_ones_are_made() -> None:
    async def talk() -> None:
        async with running(0.005, max_streams=1) as engine:
            slow, waiting = Heard(engine, "慢"), Heard(engine, "你好")
            await slow.first_token()
            first = engine.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            assert (await slow.end())[-1] == Lost()
            assert (await waiting.end())[-1] == Finished("stop")
            assert waiting.text == "你好！很高兴见到你。"
            assert engine.restarts == 1
            assert engine.pid != first

    asyncio.run(talk())


def test_a_storm_of_deaths_is_slowed_down_and_nobody_waits_for_its_end() -> None:
    async def talk() -> None:
        async with running(max_streams=1) as engine:
            for state in ("restarting", "failing"):
                killer, behind = Heard(engine, "死"), Heard(engine, "你好")
                assert (await killer.end())[-1] == Lost()
                assert engine.state == state
                last = Finished("stop") if state == "restarting" else Lost()
                assert (await behind.end())[-1] == last
            assert (await Heard(engine, "你好").end())[-1] == Finished("stop")

    asyncio.run(talk())
    assert [pause_seconds(deaths) for deaths in (1, 2, 3, 4, 5)] == [0, 0.5, 1, 2, 4]
    assert max(map(pause_seconds, range(10_000))) == process.LONGEST_PAUSE_SECONDS


def test_a_process_that_does_not_stop_an_answer_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STUCK_SECONDS", 0.2)

    async def talk() -> None:
        async with running(0.005) as engine:
            deaf = Heard(engine, "不停")
            await deaf.first_token()
            deaf.ticket.cancel()
            assert (await deaf.end())[-1] == Lost()
            assert (await Heard(engine, "你好").end())[-1] == Finished("stop")

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("opening", "kind", "message"),
    [
        ("model.safetensors is damaged", ChatLMError, "model.safetensors is damaged"),
        ("1.2.3", EngineError, "ended with code 1 while it opened the model"),  # float() fails
    ],
)
def test_what_cannot_be_opened_ends_the_run(
    opening: str, kind: type[ChatLMError], message: str
) -> None:
    async def talk() -> None:
        with pytest.raises(kind, match=message) as caught:
            await EngineProcess([*PROGRAM, "0", "4", opening]).run()
        assert caught.value.exit_code == (2 if kind is ChatLMError else 1)

    asyncio.run(talk())


def test_the_process_ends_with_its_server_however_that_ends_and_heeds_no_signal() -> None:
    script = (
        "import asyncio, sys\n"
        "from chatlm.inference.process import EngineProcess\n"
        f"engine = EngineProcess({[*PROGRAM, '0', '4', '0']!r})\n"
        "async def main():\n"
        "    task = asyncio.create_task(engine.run())\n"
        "    while engine.state != 'ready': await asyncio.sleep(0.01)\n"
        "    print(engine.pid, flush=True)\n"
        "    await task\n"
        "asyncio.run(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment
    ) as server:
        assert server.stdout is not None
        worker = Path(f"/proc/{int(server.stdout.readline())}")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(int(worker.name), number)
        assert (worker / "stat").read_text().split()[2] in "SR"
        server.kill()
        until(lambda: not worker.exists() or "Z" in (worker / "stat").read_text().split()[2:3])
