"""Models of others as engines: the answers of transformers, told token by token, one by one."""

import dataclasses
import gc
import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from chatlm.adapters.base import Hold
from chatlm.adapters.opened import Opened, open_model
from chatlm.adapters.speech import answer as by_transformers
from chatlm.chat.prompt import Message, fit
from chatlm.errors import EngineError
from chatlm.generation_config import GenerationConfig
from chatlm.inference.engine import Limits, Request, Tokens, tokens
from chatlm.inference.language_codec import FormCodec
from chatlm.inference.language_engine import LanguageEngine
from chatlm.inference.open import open_engine, open_language_engine, read_codec, read_limits
from tests.adapters import small
from tests.inference.torch_scenes import Gate, Heard, together

KINDS = ("causal", "seq2seq", "chatglm")
NAME = "base_model_name_or_path"
CPU = Hold(torch.device("cpu"))
QUESTIONS = ["三原色是什么？", "hello"]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"num_beams": 3},
    {"num_beams": 2, "length_penalty": 0.3},
    {"min_new_tokens": 20, "max_new_tokens": 20},
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Any) -> dict[str, Path]:
    """Adapters on a base of each kind, by its name, and the bases themselves as base-..."""
    folder = tmp_path_factory.mktemp("language")
    bases = small.bases(folder, make_tokenizer(texts=small.TEXTS))
    made = {kind: small.adapters(folder / f"tuned-{kind}", bases[kind], 0.5) for kind in KINDS}
    return made | {f"base-{kind}": base for kind, base in bases.items()}


@pytest.fixture(scope="module")
def opened(folders: dict[str, Path]) -> dict[str, Opened]:
    return {kind: open_model(folders[kind], CPU) for kind in KINDS}


@pytest.fixture(scope="module")
def engines(opened: dict[str, Opened]) -> Iterator[dict[str, LanguageEngine]]:
    made = {
        kind: LanguageEngine(one, name=kind, limits=Limits(96, 24, 96, one.base))
        for kind, one in opened.items()
    }
    yield made
    for engine in made.values():
        engine.close()


def asked(engine: LanguageEngine, question: str, is_base: bool = False, **settings: Any) -> Request:
    prompt = fit([], question, engine.tokenizer, engine.limits)
    assert not prompt.is_cut
    config = GenerationConfig(**{"max_new_tokens": 14, **settings})
    return Request(prompt.ids, config, is_base)


def expected(one: Opened, request: Request) -> list[int]:
    return by_transformers(one.model, [list(request.source_ids)], request.config, one.form)[0]


# --- the same answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_answers_are_those_of_transformers_with_adapters_and_without(
    engines: dict[str, LanguageEngine], opened: dict[str, Opened], kind: str
) -> None:
    requests = [
        asked(engines[kind], question, is_base, **settings)
        for question in QUESTIONS
        for is_base in (False, True)
        for settings in SETTINGS
    ]
    answers = together(engines[kind], requests)
    for request, (ids, reason) in zip(requests, answers, strict=True):
        if request.is_base:
            with opened[kind].without_adapters():
                wanted = expected(opened[kind], request)
        else:
            wanted = expected(opened[kind], request)
        assert ids == wanted, request
        assert reason == ("length" if len(ids) == request.config.max_new_tokens else "stop")
    assert answers[0][0] != answers[len(SETTINGS)][0], "base and adapters say the same"
    assert len({tuple(ids) for ids, _ in answers}) > len(QUESTIONS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_ends_with_the_forms_end_or_the_tokenizers_eos(
    engines: dict[str, LanguageEngine], opened: dict[str, Opened], kind: str
) -> None:
    engine, form = engines[kind], opened[kind].form
    request = asked(engine, QUESTIONS[0])
    ids, reason = together(engine, [request])[0]
    assert reason == "length"
    place = 3 if kind == "causal" else 0
    speaker = engine._speaker
    assert speaker is not None
    before = speaker._controls
    speaker._controls = dataclasses.replace(before, ends=(ids[place],))
    try:
        cut = together(engine, [request])[0]
        beams = together(engine, [dataclasses.replace(request, config=BEAMS)])[0]
        longer = dataclasses.replace(request.config, min_new_tokens=9)
        not_yet = together(engine, [dataclasses.replace(request, config=longer)])[0]
    finally:
        speaker._controls = before
    assert cut == (ids[: ids.index(ids[place])], "stop")
    assert ids[place] not in beams[0]
    assert ids[place] not in not_yet[0]
    assert len(not_yet[0]) >= 9
    assert before.ends == tuple(form.stop_ids)


BEAMS = GenerationConfig(max_new_tokens=14, num_beams=2)


def test_a_seed_repeats_a_draw_and_settings_are_followed(
    engines: dict[str, LanguageEngine],
) -> None:
    engine = engines["causal"]
    drawn = {"temperature": 1.2, "max_new_tokens": 20}
    state = torch.random.get_rng_state()
    seeded = [asked(engine, "hello", seed=seed, **drawn) for seed in (5, 5, 6)]
    first, same, other = (ids for ids, _ in together(engine, seeded))
    assert first == same != other
    assert torch.equal(state, torch.random.get_rng_state()), "the draws of others are their own"
    (best, _), (one, _), (narrow, _), (unlike, _) = together(
        engine,
        [
            asked(engine, "hello", max_new_tokens=20),
            asked(engine, "hello", top_k=1, seed=5, **drawn),
            asked(engine, "hello", top_p=1e-6, seed=5, **drawn),
            asked(engine, "hello", no_repeat_ngram_size=1, max_new_tokens=20),
        ],
    )
    assert best == one == narrow
    assert len(set(unlike)) == len(unlike)
    assert len(set(best)) < len(best)


def test_ids_that_stand_for_nothing_are_never_said(
    engines: dict[str, LanguageEngine], opened: dict[str, Opened]
) -> None:
    config: Any = opened["chatglm"].model.inner.config
    assert config.vocab_size > config.num_used_ids
    drawn = {"temperature": 50.0, "max_new_tokens": 60}
    requests = [asked(engines["chatglm"], "hello", seed=seed, **drawn) for seed in range(4)]
    said = [one for ids, _ in together(engines["chatglm"], requests) for one in ids]
    assert len(said) > 100
    assert max(said) < config.num_used_ids


def test_no_answer_is_longer_than_the_model_has_positions(
    engines: dict[str, LanguageEngine],
) -> None:
    engine = engines["causal"]
    request = asked(engine, "hello", max_new_tokens=1000)
    ids, reason = together(engine, [request])[0]
    assert (len(ids), reason) == (128 - len(request.source_ids), "length")
    too_long = Request((5,) * 128, GenerationConfig())
    with pytest.raises(EngineError, match="the prompt has 128 tokens, and this model has 128"):
        list(tokens(engine, too_long))
    for wrong in ((), (-1,), (9999,)):
        with pytest.raises(EngineError, match="expected one or more, each from 0 to 302"):
            list(tokens(engine, Request(wrong, GenerationConfig())))
    assert together(engine, [asked(engine, "hello")])[0][1] == "length", "it goes on"


# --- events ---------------------------------------------------------------------------------------


@pytest.fixture
def gated(folders: dict[str, Path]) -> Iterator[tuple[LanguageEngine, Gate]]:
    """An engine whose every step waits until it is let through."""
    one = open_model(folders["base-causal"], CPU)
    inner: Any = one.model.inner
    gate = Gate(inner.transformer.ln_f)
    inner.transformer.ln_f = gate
    engine = LanguageEngine(one, name="gated", limits=Limits(96, 24, 96))
    yield engine, gate
    gate.passes.release(1000)
    engine.close()


def test_tokens_come_while_the_answer_is_made_and_it_ends_within_one(
    gated: tuple[LanguageEngine, Gate],
) -> None:
    engine, gate = gated
    heard = Heard()
    ticket = engine.start(asked(engine, "hello", max_new_tokens=24), heard)
    for number in range(1, 4):
        assert gate.arrived.acquire(timeout=60)
        gate.passes.release()
        heard.tokens.get(timeout=60)
        assert len(heard.ids) == number
    assert gate.arrived.acquire(timeout=60)
    ticket.cancel()
    assert not heard.ended.is_set()
    gate.passes.release()
    ids, reason = heard.answer()
    assert (len(ids), reason) == (3, "cancelled")
    assert all(len(one.ids) == 1 for one in heard.events if isinstance(one, Tokens))
    ticket.cancel()


def test_who_waits_can_go_while_another_is_answered(gated: tuple[LanguageEngine, Gate]) -> None:
    engine, gate = gated
    running, gone, patient = Heard(), Heard(), Heard()
    engine.start(asked(engine, "hello", max_new_tokens=3), running)
    assert gate.arrived.acquire(timeout=60)
    ticket = engine.start(asked(engine, "hello"), gone)
    engine.start(asked(engine, "hello", max_new_tokens=2), patient)
    ticket.cancel()
    ticket.cancel()
    gate.passes.release()
    assert gone.answer() == ([], "cancelled")
    assert not running.ended.is_set()
    gate.passes.release(1000)
    assert [len(running.answer()[0]), len(patient.answer()[0])] == [3, 2]


def test_a_beam_search_is_ended_between_two_steps(gated: tuple[LanguageEngine, Gate]) -> None:
    engine, gate = gated
    heard = Heard()
    ticket = engine.start(asked(engine, "hello", num_beams=3, max_new_tokens=24), heard)
    for _ in range(3):
        assert gate.arrived.acquire(timeout=60)
        gate.passes.release()
    assert gate.arrived.acquire(timeout=60)
    ticket.cancel()
    gate.passes.release()
    assert heard.answer() == ([], "cancelled")


def test_closing_ends_all_answers_and_lets_the_model_go(folders: dict[str, Path]) -> None:
    engine = open_engine(folders["causal"], "cpu")
    assert isinstance(engine, LanguageEngine)
    heard = [Heard() for _ in range(3)]
    for one in heard:
        engine.start(asked(engine, "hello", max_new_tokens=100), one)
    assert engine._speaker is not None
    model = weakref.ref(engine._speaker._opened.model)
    heard[0].tokens.get(timeout=60)
    engine.close()
    assert [one.answer()[1] for one in heard] == ["cancelled"] * 3
    with pytest.raises(EngineError, match="is closed: open it again"):
        engine.start(asked(engine, "hello"), Heard())
    gc.collect()
    assert model() is None


def test_what_fails_is_the_end_of_one_answer(folders: dict[str, Path]) -> None:
    one = open_model(folders["base-causal"], CPU)
    weight: Any = one.model.inner
    engine = LanguageEngine(one, name="sick", limits=Limits(96, 24, 96))
    request = asked(engine, "hello")
    before = together(engine, [request])
    well = weight.lm_head.weight.clone()
    weight.lm_head.weight[:] = float("nan")
    for temperature in (0.0, 1.0):
        sick = dataclasses.replace(request, config=GenerationConfig(temperature=temperature))
        ids, message = together(engine, [sick])[0]
        assert not ids
        assert "no finite scores" in message or "no token could be chosen" in message
    weight.lm_head.weight[:] = well

    def deaf(_event: object) -> None:
        raise RuntimeError("nobody listens")

    engine.start(request, deaf)
    assert together(engine, [request]) == before
    engine.close()


# --- from a folder --------------------------------------------------------------------------------


def test_a_folder_is_opened_by_what_lies_in_it(folders: dict[str, Path]) -> None:
    for kind in KINDS:
        engine = open_engine(folders[kind], "cpu", threads=1)
        assert (engine.name, engine.kind) == (str(folders[kind]), "transformers fp32 cpu")
        assert engine.limits == read_limits(folders[kind])
        assert engine.limits.base == str(folders[f"base-{kind}"])
        prompts = [
            fit([], "你好", codec, engine.limits)
            for codec in (engine.tokenizer, read_codec(folders[kind]))
        ]
        assert prompts[0] == prompts[1]
        engine.close()
    half = open_language_engine(folders["base-chatglm"], "cpu", dtype="bf16")
    assert half.kind == "transformers bf16 cpu"
    assert half.limits.base == ""
    ((ids, _),) = together(half, [asked(half, "hello")])
    assert ids
    half.close()


def test_limits_are_those_of_the_positions_and_of_the_training(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    tuned, base = folders["causal"], str(folders["base-causal"])
    assert read_limits(tuned) == Limits(64, 64, 64, base)
    assert read_limits(tuned).has_all_turns
    assert read_limits(folders["base-causal"]) == Limits(64, 64, 64)
    assert read_limits(folders["base-chatglm"]) == Limits(2048 - 512, 512, 2048 - 512)
    assert read_limits(folders["seq2seq"]).max_source_tokens == 512, "source and answer are apart"
    for path in tuned.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    chat = tmp_path / "chat.json"
    chat.write_text('{"max_source_tokens": 40, "max_new_tokens": 30, "history_turns": 2}')
    assert read_limits(tmp_path) == Limits(40, 30, 2, base)
    chat.write_text('{"max_source_tokens": 256, "max_new_tokens": 30}')
    assert read_limits(tmp_path) == Limits(98, 30, 0, base), "no more than there are positions"
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert read_limits(tmp_path) == Limits(98, 30, 98, base), "its base can chat"
    (tmp_path / "chat_template.jinja").unlink()
    config = tmp_path / "adapter_config.json"
    for gone in ("no/where", "/gone/to/nowhere"):
        config.write_text(json.dumps(json.loads(config.read_text()) | {NAME: gone}))
        assert read_limits(tmp_path) == Limits(256, 30, 0, gone)
    config.write_text(json.dumps({NAME: str(folders["base-seq2seq"])}))
    chat.write_text('{"max_source_tokens": 9999, "max_new_tokens": 30}')
    assert read_limits(tmp_path).max_source_tokens == 9999, "it has no positions to run out of"


def test_how_a_folder_wants_answers_chosen_is_not_heeded(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for path in folders["base-causal"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    wants: dict[str, Any] = {
        **{"do_sample": True, "temperature": 0.7, "top_k": 20, "min_p": 0.3, "num_beams": 4},
        **{"repetition_penalty": 1.5, "no_repeat_ngram_size": 1, "max_length": 20},
        **{"min_new_tokens": 2, "num_return_sequences": 2, "early_stopping": True},
        **{"length_penalty": 0.3, "renormalize_logits": True, "eos_token_id": [5, 6]},
        **{"stop_strings": ["a"], "max_time": 0.0, "token_healing": True, "dola_layers": "high"},
        **{"force_words_ids": [[5]], "exponential_decay_length_penalty": [1, 1.5]},
        "watermarking_config": {"greenlist_ratio": 0.5},
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(wants))
    calm, eager = (open_language_engine(one, "cpu") for one in (folders["base-causal"], tmp_path))
    settings: tuple[dict[str, Any], ...] = ({}, {"num_beams": 2}, {"temperature": 1.0, "seed": 3})
    requests = [asked(calm, "hello", max_new_tokens=24, **one) for one in settings]
    assert together(calm, requests) == together(eager, requests)
    model = open_model(tmp_path, CPU)
    assert expected(model, requests[0]) == together(calm, requests[:1])[0][0]
    calm.close()
    eager.close()


def test_a_question_finds_room_before_older_turns(engines: dict[str, LanguageEngine]) -> None:
    codec, limits = engines["causal"].tokenizer, Limits(96, 24, 96)
    assert isinstance(codec, FormCodec)
    history = [Message("user", "一"), Message("assistant", "二"), Message("user", "三" * 6)]
    history.append(Message("assistant", "四"))

    def text(prompt: Any) -> str:
        return codec.form.tokenizer.decode(list(prompt.ids))

    whole = fit(history, "五", codec, dataclasses.replace(limits, max_source_tokens=400))
    assert (whole.turns, whole.is_cut) == (2, False)
    assert text(whole) == (
        "<|im_start|>user\n一<|im_end|>\n<|im_start|>assistant\n二<|im_end|>\n"
        f"<|im_start|>user\n{'三' * 6}<|im_end|>\n<|im_start|>assistant\n四<|im_end|>\n"
        "<|im_start|>user\n五<|im_end|>\n<|im_start|>assistant\n"
    )
    one_less = dataclasses.replace(limits, max_source_tokens=len(whole.ids) - 1, history_turns=400)
    assert fit(history, "五", codec, one_less).turns == 1
    assert fit(history, "五", codec, dataclasses.replace(one_less, history_turns=0)).turns == 0
    cut = fit(history, "很长的问题" * 400, codec, limits)
    assert (cut.turns, cut.is_cut) == (0, True)
    assert 94 <= len(cut.ids) <= 96
    assert text(cut).startswith("<|im_start|>user\n很长的问题很长")
    assert text(cut).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_a_whole_encoder_decoder_model_answers_too(folders: dict[str, Path]) -> None:
    engine = open_language_engine(folders["base-seq2seq"], "cpu")
    request = asked(engine, "hello", min_new_tokens=6, max_new_tokens=6)
    ids, reason = together(engine, [request])[0]
    assert ids == expected(open_model(folders["base-seq2seq"], CPU), request)
    assert (len(ids), reason) == (6, "length")
    engine.close()
