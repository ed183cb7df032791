"""Many answers at once are the answers one by one, whoever joins, leaves, fails or gives up."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm.errors import ConfigError, EngineError
from chatlm.inference import torch_slots
from chatlm.inference.engine import Event, Request, Ticket, tokens
from chatlm.inference.torch_engine import TorchEngine, torch_dtype
from tests.inference.torch_scenes import (
    Gate,
    Heard,
    at_once,
    by_generate,
    engine_of,
    lively,
    request,
    together,
)

MODELS = {
    "t5": lively(8, "t5", "relu"),
    "gated": lively(6, "t5", "gated-gelu"),
    "rope": lively(5, "rope", "gated-gelu"),
}
LENGTHS = (2, 7, 16, 17, 40)
KINDS: list[dict[str, object]] = [
    {},
    {"min_new_tokens": 10},
    {"max_new_tokens": 3},
    {"repetition_penalty": 1.4},
    {"no_repeat_ngram_size": 2},
    {"temperature": 1.1, "seed": 7},
    {"temperature": 0.8, "seed": 8, "top_k": 9},
    {"temperature": 1.5, "seed": 9, "top_p": 0.7, "repetition_penalty": 1.2},
    {"num_beams": 3},
]


def of_kind(kind: int) -> Request:
    settings = {"max_new_tokens": 14, **KINDS[kind]}
    return request(kind, LENGTHS[kind % len(LENGTHS)], **settings)


@cache
def alone(name: str, kind: int) -> list[int]:
    """Returns the answer that `generate` gives to the request of this kind."""
    return by_generate(MODELS[name], of_kind(kind))


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, TorchEngine]]:
    made = {name: engine_of(model, max_streams=5) for name, model in MODELS.items()}
    yield made
    for engine in made.values():
        engine.close()


# --- the same answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_the_answers_are_those_of_generate(engines: dict[str, TorchEngine], name: str) -> None:
    kinds = [*range(len(KINDS)), *reversed(range(len(KINDS)))]
    answers = together(engines[name], map(of_kind, kinds))
    assert [ids for ids, _ in answers] == [alone(name, kind) for kind in kinds]
    assert len({tuple(ids) for ids, _ in answers}) > 6
    for kind, (ids, reason) in zip(kinds, answers, strict=True):
        most = of_kind(kind).config.max_new_tokens
        assert reason == ("length" if len(ids) == most else "stop")
    assert {reason for _, reason in answers} == {"length", "stop"}


PLANS = st.lists(
    st.tuples(
        st.integers(0, len(KINDS) - 1),
        st.integers(0, 12),  # milliseconds, halved, after which it comes
        st.one_of(st.none(), st.integers(0, 6)),  # after how many tokens it is taken back
    ),
    min_size=2,
    max_size=9,
)


@settings(max_examples=15)
@given(PLANS, st.sampled_from(sorted(MODELS)))
def test_joins_and_leaves_at_any_time_change_no_answer(
    engines: dict[str, TorchEngine], plan: list[tuple[int, int, int | None]], name: str
) -> None:
    heard = [Heard() for _ in plan]
    for listener, (kind, pause, taken_back) in zip(heard, plan, strict=True):
        time.sleep(pause / 2000)
        ticket = engines[name].start(of_kind(kind), listener)
        if taken_back is not None:
            threading.Thread(target=_cancel_after, args=(listener, ticket, taken_back)).start()
    for listener, (kind, _, taken_back) in zip(heard, plan, strict=True):
        ids, reason = listener.answer()
        if reason == "cancelled":
            assert taken_back is not None
            assert ids == alone(name, kind)[: len(ids)]
        else:
            assert ids == alone(name, kind)


def _cancel_after(listener: Heard, ticket: Ticket, count: int) -> None:
    while len(listener.ids) < count and not listener.ended.is_set():
        time.sleep(0.0002)
    ticket.cancel()


@pytest.mark.parametrize("name", ["t5", "rope"])
def test_scores_do_not_depend_on_neighbours_or_on_what_memory_held(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The same tokens are fed to a row alone, and to rows between which others come and go."""
    monkeypatch.setattr(torch_slots, "FIRST_PLACES", torch_slots.BLOCK)
    model = MODELS[name]
    slots = torch_slots.Slots(model, model.logits)
    sources = [request(i, 4 + 9 * i).source_ids for i in range(4)]
    fed = torch.randint(3, 61, (4, 24), generator=torch.Generator().manual_seed(1)).tolist()

    def by_itself(row: int) -> list[torch.Tensor]:
        slots.join([sources[row]])
        scores = []
        for token in fed[row]:
            slots.reserve()
            scores.append(slots.step([token])[0].clone())
        slots.leave(0)
        return scores

    expected = [by_itself(row) for row in range(4)]
    present: list[list[int]] = []  # row and how many tokens it was fed
    for moment in range(45):
        if moment % 12 == 0:
            new = [moment // 12 % 4] if moment % 24 else [0, 1, 2, 3]
            slots.join([sources[row] for row in new])
            present += [[row, 0] for row in new]
        slots.reserve()
        scores = slots.step([fed[row][count] for row, count in present])
        for (row, count), own in zip(present, scores, strict=True):
            torch.testing.assert_close(own, expected[row][count], rtol=1e-4, atol=1e-4)
        for one in present:
            one[1] += 1
        for index in reversed(range(len(present))):
            if present[index][1] in (24, 9 + 3 * present[index][0]) or moment % 37 == index:
                slots.leave(index)
                present[index] = present[-1]
                present.pop()
        if not present:
            slots.join([sources[3]])
            present.append([3, 0])


def test_a_seed_gives_the_same_answer_and_no_seed_another() -> None:
    engine = engine_of(MODELS["t5"])
    seeded = [request(1, 9, max_new_tokens=25, temperature=1.5, seed=3)] * 4
    free = [request(1, 9, max_new_tokens=25, min_new_tokens=25, temperature=1.5)] * 4
    answers = together(engine, seeded + free)
    engine.close()
    assert len({tuple(ids) for ids, _ in answers[:4]}) == 1
    assert len({tuple(ids) for ids, _ in answers[4:]}) == 4


# --- leaving --------------------------------------------------------------------------------------


def gated_engine(max_streams: int) -> tuple[TorchEngine, Gate]:
    model = lively(0)
    gate = Gate(model.decoder.norm)
    model.decoder.norm = gate  # pyright: ignore[reportAttributeAccessIssue]
    return engine_of(model, max_streams), gate


@cache
def endless(number: int) -> Request:
    return request(number, 6, max_new_tokens=400, min_new_tokens=400)


def test_a_cancelled_answer_frees_its_place_before_the_next_token() -> None:
    engine, gate = gated_engine(max_streams=1)
    first, second = Heard(), Heard()
    ticket = engine.start(endless(0), first)
    engine.start(request(9, 5, max_new_tokens=2, min_new_tokens=2), second)
    for _ in range(3):
        assert gate.arrived.acquire(timeout=60)
        gate.passes.release()
    assert gate.arrived.acquire(timeout=60)  # the fourth step is under way
    assert not second.events
    ticket.cancel()
    ticket.cancel()
    gate.passes.release(3)  # that step, and two of the second answer
    assert first.answer()[1] == "cancelled"
    assert len(first.ids) <= 4
    assert second.answer()[1] == "length"
    engine.close()


def test_who_waits_is_served_in_order_and_can_be_taken_back() -> None:
    engine, gate = gated_engine(max_streams=1)
    order: list[int] = []
    heard = [Heard() for _ in range(4)]

    def listen(index: int) -> Callable[[Event], None]:
        def on_event(event: Event) -> None:
            order.append(index)
            heard[index](event)

        return on_event

    tickets = [
        engine.start(request(i, 5, max_new_tokens=1, min_new_tokens=1), listen(i)) for i in range(4)
    ]
    assert gate.arrived.acquire(timeout=60)
    tickets[2].cancel()
    gate.passes.release(10)
    assert [one.answer()[1] for one in heard] == ["length", "length", "cancelled", "length"]
    assert [index for index in order if index != 2] == [0, 0, 1, 1, 3, 3]
    assert heard[2].ids == []
    engine.close()


def test_beams_and_rows_go_on_side_by_side() -> None:
    engine = engine_of(MODELS["gated"])
    beams, row = Heard(), Heard()
    engine.start(request(1, 6, num_beams=3, max_new_tokens=300, min_new_tokens=300), beams)
    engine.start(request(2, 6, max_new_tokens=20, min_new_tokens=20), row)
    assert len(row.answer()[0]) == 20
    assert not beams.ended.is_set()
    engine.close()
    assert beams.answer() == ([], "cancelled")


def test_closing_ends_all_answers_and_the_thread() -> None:
    engine = engine_of(MODELS["t5"], max_streams=2)
    heard = [Heard() for _ in range(5)]
    for i, listener in enumerate(heard):
        engine.start(endless(i), listener)
    while not heard[0].ids:
        time.sleep(0.001)
    engine.close()
    assert all(one.ended.is_set() for one in heard)
    assert [one.answer()[1] for one in heard] == ["cancelled"] * 5
    assert engine._thread is not None
    assert not engine._thread.is_alive()
    engine.close()
    with pytest.raises(EngineError, match="tiny is closed"):
        engine.start(request(1, 4), Heard())


def _twenty_taken_back(engine: TorchEngine, watched: int) -> list[Callable[[], object]]:
    """Starts twenty answers, takes them back, and returns weak references to all they were."""
    heard = [Heard() for _ in range(20)]
    tickets = [engine.start(endless(i), one) for i, one in enumerate(heard)]
    heard[watched].tokens.get(timeout=60)
    for ticket in tickets:
        ticket.cancel()
    assert {one.answer()[1] for one in heard} == {"cancelled"}
    return [weakref.ref(one) for one in (*heard, *tickets)]


def test_a_thousand_answers_taken_back_leave_nothing_behind() -> None:
    engine = engine_of(MODELS["t5"], max_streams=10)  # so half of each twenty have to wait
    left = [one for turn in range(50) for one in _twenty_taken_back(engine, turn % 10)]
    assert len(left) == 2000
    deadline = time.monotonic() + 30
    while any(one() for one in left):  # the last answer is told while the engine still holds it
        assert time.monotonic() < deadline, "answers that have ended are held"
        time.sleep(0.001)
        gc.collect()
    assert engine._streams is not None
    assert not engine._streams._slots.num_places
    assert not engine._waiting
    engine.close()


def test_the_terminal_closes_an_answer_by_closing_its_generator() -> None:
    engine = engine_of(MODELS["t5"])
    answer = tokens(engine, endless(3))
    assert len(next(answer)) == 1
    answer.close()
    assert list(tokens(engine, request(4, 5, max_new_tokens=3, min_new_tokens=3)))
    engine.close()


# --- failing --------------------------------------------------------------------------------------


def test_one_bad_request_does_not_hurt_the_others(engines: dict[str, TorchEngine]) -> None:
    good = [of_kind(kind) for kind in range(6)]
    bad = [
        request(1, 6, temperature=1e-42, seed=1),
        Request((5, 61, 1), good[0].config),
        Request((), good[0].config),
    ]
    answers = together(engines["rope"], [*good[:3], *bad, *good[3:]])
    assert [ids for ids, _ in answers[:3] + answers[6:]] == [
        alone("rope", kind) for kind in range(6)
    ]
    assert "no token could be chosen" in answers[3][1]
    assert answers[4] == ([], "the source has 3 ids; expected one or more, each from 0 to 60")
    assert answers[5] == ([], "the source has 0 ids; expected one or more, each from 0 to 60")


def test_a_source_for_which_there_is_no_memory_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(0)
    engine = engine_of(model)
    real = torch_slots.Slots.join

    def join(self, sources):
        if any(len(source) > 30 for source in sources):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        real(self, sources)

    monkeypatch.setattr(torch_slots.Slots, "join", join)
    requests = [request(i, length, max_new_tokens=9) for i, length in enumerate((5, 31, 6))]
    answers = together(engine, requests)
    assert answers[1] == ([], "the model failed: CUDA out of memory")
    assert [answers[0][0], answers[2][0]] == [by_generate(model, requests[i]) for i in (0, 2)]
    engine.close()


def test_only_the_longest_answers_fail_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(0)
    engine = engine_of(model)
    real = torch_slots.Slots._allocate

    def allocate(self, num_rows, num_places, num_sources):
        if num_places > torch_slots.BLOCK:
            raise torch.OutOfMemoryError("no memory")
        real(self, num_rows, num_places, num_sources)

    monkeypatch.setattr(torch_slots.Slots, "_allocate", allocate)
    monkeypatch.setattr(torch_slots, "FIRST_PLACES", torch_slots.BLOCK)
    requests = [request(i, 6, max_new_tokens=n, min_new_tokens=n) for i, n in ((0, 20), (1, 15))]
    answers = together(engine, requests)
    assert answers[0] == (by_generate(model, requests[0])[:16], "the model failed: no memory")
    assert answers[1] == (by_generate(model, requests[1]), "length")
    engine.close()


def test_an_engine_that_fails_tells_all_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(0)
    engine = engine_of(model)
    failing = [True]
    real = torch_slots.Slots.step

    def step(self, latest):
        if failing and self.lengths[0] == 3:
            failing.pop()
            raise RuntimeError("the device is gone")
        return real(self, latest)

    monkeypatch.setattr(torch_slots.Slots, "step", step)
    requests = [request(i, 6, max_new_tokens=9, min_new_tokens=9) for i in range(3)]
    for ids, reason in at_once(engine, requests):
        assert (len(ids), reason) == (3, "the model failed: the device is gone")
    assert [ids for ids, _ in together(engine, requests)] == [
        by_generate(model, one) for one in requests
    ]
    engine.close()


def test_a_listener_that_fails_hurts_nobody_else(capsys: pytest.CaptureFixture[str]) -> None:
    engine = engine_of(MODELS["t5"])

    def broken(event: Event) -> None:
        raise KeyError("gone")

    engine.start(request(1, 6, max_new_tokens=9), broken)
    assert together(engine, [request(2, 6, max_new_tokens=9)])[0][1] in ("stop", "length")
    engine.close()
    assert (
        "an answer is given up: its listener failed (KeyError('gone'))" in capsys.readouterr().err
    )


def test_dtypes_are_named_or_refused() -> None:
    cpu = torch.device("cpu")
    assert torch_dtype("auto", cpu) == torch.float32
    assert torch_dtype("bf16", cpu) == torch.bfloat16
    with pytest.raises(ConfigError, match="dtype=half: expected auto, fp32 or bf16"):
        torch_dtype("half", cpu)


def test_bf16_answers_and_says_so() -> None:
    engine = engine_of(lively(0).to(torch.bfloat16))
    assert engine.kind == "torch bf16 cpu"
    ids, reason = together(engine, [request(1, 8, max_new_tokens=9, min_new_tokens=9)])[0]
    assert (len(ids), reason) == (9, "length")
    engine.close()
