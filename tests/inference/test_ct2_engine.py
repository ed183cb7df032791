"""CTranslate2 answers as our T5 does, alone or beside others, and lets go of what is taken back."""

import dataclasses
import gc
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_export import make_exported, make_lively

from chatlm.errors import ConfigError, EngineError
from chatlm.generation_config import GenerationConfig
from chatlm.inference import ct2_files
from chatlm.inference.ct2_engine import Ct2Engine, open_ct2_engine
from chatlm.inference.ct2_model import Ct2Model
from chatlm.inference.engine import Event, Failed, Finished, Request, Tokens, tokens
from chatlm.inference.open import open_engine, read_limits
from chatlm.tokenizer import Tokenizer

LONG = GenerationConfig(max_new_tokens=4000, min_new_tokens=4000)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lively(tmp_path_factory.mktemp("run") / "model")


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    return make_exported(checkpoint, checkpoint.parent / "exported")


@pytest.fixture(scope="module")
def engine(exported: Path) -> Iterator[Ct2Engine]:
    made = open_engine(exported, "cpu", threads=1)
    assert isinstance(made, Ct2Engine)
    yield made
    made.close()


def narrow(exported: Path, max_cohorts: int, max_rows: int) -> Ct2Engine:
    """Opens a model with room for few."""
    model = Ct2Model(ct2_files.read(exported), "cpu", max_cohorts, threads=1)
    return Ct2Engine(
        model,
        Tokenizer.load(exported),
        name="narrow",
        limits=read_limits(exported),
        max_cohorts=max_cohorts,
        max_rows=max_rows,
    )


def source(seed: int) -> tuple[int, ...]:
    """Returns a prompt of 1 to 11 ids, and EOS."""
    dice = random.Random(seed)
    return (*(dice.randrange(3, 350) for _ in range(dice.randint(1, 11))), 1)


def answer(engine: Ct2Engine, ids: tuple[int, ...], **settings: object) -> list[int]:
    config = dataclasses.replace(GenerationConfig(max_new_tokens=24), **settings)  # type: ignore[arg-type]
    return [token for part in tokens(engine, Request(ids, config)) for token in part]


class Listener:
    """Keeps the events of one answer."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.has_begun = threading.Event()
        self.is_over = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        (self.has_begun if isinstance(event, Tokens) else self.is_over).set()

    @property
    def ids(self) -> list[int]:
        return [token for event in self.events if isinstance(event, Tokens) for token in event.ids]

    def end(self) -> Event:
        """Waits for the last event; nothing may come after it."""
        assert self.is_over.wait(30)
        assert all(isinstance(event, Tokens) for event in self.events[:-1])
        return self.events[-1]


CONFIGS = [
    {},
    {"min_new_tokens": 12},
    {"repetition_penalty": 1.4},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 1, "min_new_tokens": 6, "repetition_penalty": 1.1},
    {"temperature": 0.7, "top_k": 1},
]


@pytest.mark.parametrize("settings", CONFIGS, ids=str)
def test_a_greedy_answer_is_that_of_our_t5(
    engine: Ct2Engine, checkpoint: Path, settings: dict[str, object]
) -> None:
    import torch

    from chatlm.generate import generate
    from chatlm.model.hf import load_pretrained

    model = load_pretrained(checkpoint)
    config = dataclasses.replace(GenerationConfig(max_new_tokens=24), **settings)  # type: ignore[arg-type]
    sources = [source(seed) for seed in range(6)]
    ids = torch.tensor([[*one, *[0] * (12 - len(one))] for one in sources])
    expected = generate(model, ids, (ids != 0).long(), config)
    assert [answer(engine, one, **settings) for one in sources] == expected
    assert max(len(set(one)) for one in expected) > 3  # it does not say the same again and again


def test_controls_are_never_generated(engine: Ct2Engine) -> None:
    said = answer(engine, source(1), temperature=50.0, max_new_tokens=1500, min_new_tokens=1500)
    assert len(said) == 1500
    assert len(set(said)) > 250  # about everything else is
    assert not {0, 1, 2} & set(said)


def test_who_asks_together_is_answered_as_alone(engine: Ct2Engine) -> None:
    dice = random.Random(5)
    requests = [
        Request(
            source(seed), GenerationConfig(max_new_tokens=dice.randint(1, 30), min_new_tokens=m)
        )
        for seed in range(60)
        for m in (0, 1)
    ]
    listeners = [Listener() for _ in requests]
    for request, listener in zip(requests, listeners, strict=True):
        engine.start(request, listener)
    reasons = {listener.end() for listener in listeners}
    assert reasons <= {Finished("stop"), Finished("length")}
    for request, listener in zip(requests, listeners, strict=True):
        alone = [token for part in tokens(engine, request) for token in part]
        assert listener.ids == alone
        is_full = len(alone) == request.config.max_new_tokens
        assert listener.events[-1] == Finished("length" if is_full else "stop")


def test_a_seed_gives_the_same_answer_every_time_and_beside_others(engine: Ct2Engine) -> None:
    settings = {"temperature": 1.5, "top_k": 200, "top_p": 0.99, "min_new_tokens": 24}
    first = answer(engine, source(1), seed=7, **settings)
    assert len(first) == 24
    others = [Listener() for _ in range(20)]
    for seed, other in enumerate(others):
        config = GenerationConfig(
            max_new_tokens=40, temperature=2.0, seed=seed if seed % 2 else None
        )
        engine.start(Request(source(seed), config), other)
    assert answer(engine, source(1), seed=7, **settings) == first
    for other in others:
        other.end()
    assert answer(engine, source(1), seed=7, **settings) == first
    assert answer(engine, source(1), seed=8, **settings) != first
    assert answer(engine, source(1), seed=7 + (1 << 40), **settings) != first


def test_without_a_seed_no_answer_is_like_another(exported: Path) -> None:
    said = []
    for _ in range(2):
        engine = narrow(exported, 1, 4)
        settings = {"temperature": 2.0, "min_new_tokens": 24}
        answer(engine, source(1), seed=7, **settings)
        said += [answer(engine, source(1), **settings) for _ in range(2)]
        engine.close()
    assert len(set(map(tuple, said))) == 4


def test_beams_come_as_a_whole(engine: Ct2Engine) -> None:
    listener = Listener()
    config = GenerationConfig(max_new_tokens=6, num_beams=3)
    engine.start(Request(source(2), config), listener)
    assert isinstance(listener.end(), Finished)
    assert len(listener.events) == 2
    assert 0 < len(listener.ids) <= 6


def test_taken_back_while_it_runs(engine: Ct2Engine) -> None:
    listener = Listener()
    ticket = engine.start(Request(source(3), LONG), listener)
    assert listener.has_begun.wait(10)
    before = len(listener.ids)
    ticket.cancel()
    ticket.cancel()
    assert listener.end() == Finished("cancelled")
    assert len(listener.ids) <= before + 2  # one on its way, one more


def test_taken_back_while_it_waits(exported: Path) -> None:
    engine = narrow(exported, 1, 1)
    first, second, third = Listener(), Listener(), Listener()
    ticket = engine.start(Request(source(3), LONG), first)
    assert first.has_begun.wait(10)
    waiting = engine.start(Request(source(4), LONG), second)
    engine.start(Request(source(5), GenerationConfig(max_new_tokens=3)), third)
    waiting.cancel()
    assert second.end() == Finished("cancelled")
    assert not first.is_over.is_set()
    ticket.cancel()
    assert len(third.ids) <= 3
    assert isinstance(third.end(), Finished)
    engine.close()


def test_a_listener_that_fails_hurts_nobody_else(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    engine = narrow(exported, 1, 8)

    def fails(event: Event) -> None:
        raise KeyError(event)

    blocker, beside = Listener(), Listener()
    ticket = engine.start(Request(source(9), LONG), blocker)
    assert blocker.has_begun.wait(10)
    config = GenerationConfig(max_new_tokens=9, min_new_tokens=9)
    engine.start(Request(source(6), config), fails)
    engine.start(Request(source(6), config), beside)
    ticket.cancel()
    assert beside.end() == Finished("length")
    assert [one.exc_type for one in shown] == [KeyError]
    engine.close()


def test_what_cannot_be_computed_fails_and_the_next_answer_comes(
    engine: Ct2Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    listener = Listener()
    engine.start(Request((10**9, 1), GenerationConfig()), listener)
    assert isinstance(listener.end(), Failed)
    assert [one.exc_type for one in shown] == [IndexError]
    assert answer(engine, source(1))


def test_a_damaged_model_gives_no_answer(exported: Path, tmp_path: Path) -> None:
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((tmp_path / "model.bin").read_bytes())
    content[-1000] ^= 1
    (tmp_path / "model.bin").write_bytes(content)
    engine = open_engine(tmp_path, "cpu")
    with pytest.raises(EngineError, match=r"model\.bin is damaged; export it anew"):
        list(tokens(engine, Request(source(1), GenerationConfig())))
    engine.close()


def test_unknown_devices_are_refused(exported: Path) -> None:
    for device in ("gpu", "mps", "cuda:99", "cuda:x", "auto:1"):
        with pytest.raises(ConfigError, match=f"device={device}: an exported model can use auto"):
            open_engine(exported, device)


def test_closing_ends_everything(exported: Path) -> None:
    before = set(threading.enumerate())
    engine = narrow(exported, 2, 2)
    listeners = [Listener() for _ in range(9)]
    for seed, listener in enumerate(listeners):
        engine.start(Request(source(seed), LONG), listener)
    assert listeners[0].has_begun.wait(10)
    engine.close()
    engine.close()
    assert [listener.end() for listener in listeners] == [Finished("cancelled")] * 9
    assert set(threading.enumerate()) <= before
    with pytest.raises(EngineError, match="closed"):
        engine.start(Request(source(1), LONG), Listener())


def test_a_thousand_answers_taken_back_leave_nothing(engine: Ct2Engine) -> None:
    def once(seed: int) -> None:
        listener = Listener()
        ticket = engine.start(Request(source(seed), LONG), listener)
        if seed % 2:
            listener.has_begun.wait(10)
        ticket.cancel()
        assert listener.end() == Finished("cancelled")

    for seed in range(100):
        once(seed)
    gc.collect()
    threads = threading.active_count()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(1000):
        once(seed)
    assert threading.active_count() == threads
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 8 << 10  # KiB


SCRIPT = """
import sys, time
from pathlib import Path
from chatlm.generation_config import GenerationConfig
from chatlm.inference.engine import Request, tokens
from chatlm.inference.open import open_engine
engine = open_engine(Path(sys.argv[1]), "cpu")
config = GenerationConfig(max_new_tokens=20, min_new_tokens=20, temperature=2.0)
print([token for part in tokens(engine, Request((5, 6, 1), config)) for token in part])
print([name for name in ("torch", "transformers", "ctranslate2.converters") if name in sys.modules])
engine.start(Request((5, 6, 1), GenerationConfig(max_new_tokens=10**6)), lambda event: None)
time.sleep(0.05)
"""


def test_it_needs_no_torch_draws_anew_and_may_be_left_running(exported: Path) -> None:
    said = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(exported)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        ids, modules = done.stdout.splitlines()
        assert modules == "[]"
        said.append(ids)
    assert said[0] != said[1]


def test_opening_is_told_apart(exported: Path) -> None:
    engine = open_ct2_engine(
        ct2_files.read(exported), read_limits(exported), Tokenizer.load(exported), "cpu", 1
    )
    assert (engine.name, engine.kind) == (str(exported), "ctranslate2 float32 cpu")
    assert engine.max_streams > 1
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 5
