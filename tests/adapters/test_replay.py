"""General pairs among those of a tuning: which ones, how many, and when a run goes on with them."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from chatlm import run_folder
from chatlm.adapters import replay
from chatlm.adapters.data import is_held_out, prepare_data
from chatlm.adapters.forms import open_form
from chatlm.checkpoint.state import read_state
from chatlm.config import ReplaySettings, TrainConfig
from chatlm.corpus import store
from chatlm.corpus.example import Example
from chatlm.dataset import prepare
from chatlm.dataset.token_store import Ragged, TokenStore
from chatlm.errors import CheckpointError, ConfigError, DataError
from tests import tiny_data
from tests.adapters import small, tunings
from tests.trainings import train_with
from utils import tokenize_dataset_rows

LIMITS: dict[str, Any] = {
    "microbatch_tokens": 2048,
    "max_source_tokens": 64,
    "max_target_tokens": 64,
}
SETTINGS = tunings.SETTINGS | {
    "eval_answers": 0,
    "eval_every_steps": 3,
    "save_every_steps": 3,
    "max_steps": 6,
}


# ---- which rows ---------------------------------------------------------------------------------


def tokens(prompts, meta=None):
    """Returns a store of one-token answers."""
    ids = np.array([token for prompt in prompts for token in prompt], np.uint16)
    ends = np.cumsum([0, *map(len, prompts)], dtype=np.int64)
    answers = Ragged(np.arange(len(prompts), dtype=np.uint16), np.arange(len(prompts) + 1))
    chars = np.arange(len(prompts), dtype=np.uint32)
    return TokenStore(Ragged(ids, ends), answers, chars, meta or {})


def rows(some):
    return [
        (tuple(some.sources[i]), tuple(some.targets[i]), int(some.target_chars[i]))
        for i in range(len(some))
    ]


def config(share, seed=1):
    general = ReplaySettings(data="general", share=share)
    return TrainConfig(finetune=True, base="b", seed=seed, replay=general)


TASK = tokens([(1000 + n, n % 5) for n in range(60)])
GENERAL = tokens([(n, n, n) for n in range(100)])


@pytest.mark.parametrize(("share", "expected"), [(0.2, 15), (0.5, 60), (0.6, 90), (0.001, 1)])
def test_general_rows_make_up_the_share_and_none_comes_twice(share, expected):
    found = rows(replay.mixed(TASK, None, GENERAL, config(share)))
    assert found[:60] == rows(TASK)
    assert len(set(found[60:])) == len(found[60:]) == expected
    assert set(found[60:]) <= set(rows(GENERAL))


def test_which_rows_is_decided_by_the_seed():
    first, again, other = (
        rows(replay.mixed(TASK, None, GENERAL, config(0.2, seed)))[60:] for seed in (1, 1, 2)
    )
    assert first == again
    assert set(first) != set(other)
    more = rows(replay.mixed(TASK, None, GENERAL, config(0.5)))[60:]
    assert set(first) < set(more)


def test_too_few_rows_are_all_taken_once_and_the_log_says_which_share_that_is(capsys):
    found = rows(replay.mixed(TASK, None, GENERAL, config(0.8)))
    assert sorted(found[60:]) == sorted(rows(GENERAL))
    told = capsys.readouterr().err
    assert (
        "has no more: 100 general pairs are mixed in, 62.5% of all training pairs, not 80" in told
    )


def test_a_held_out_prompt_of_the_task_is_not_learnt_from_the_general_rows():
    held = tokens([(n, n, n) for n in range(50)])
    found = rows(replay.mixed(TASK, held, GENERAL, config(0.8)))[60:]
    assert sorted(source for source, _, _ in found) == [(n, n, n) for n in range(50, 100)]
    with pytest.raises(DataError, match=r"replay\.data=general holds no pair that can be mixed in"):
        replay.mixed(TASK, GENERAL, GENERAL, config(0.2))


def test_the_turns_of_both_are_counted():
    task = tokens([(n,) for n in range(100)], {"histories": 0, "max_turns": 0})
    general = tokens([(n,) for n in range(1000)], {"histories": 500, "max_turns": 3})
    found = replay.mixed(task, None, general, config(0.5))
    assert (found.meta["histories"], found.history_turns) == (50, 3)


# ---- what a run reads ---------------------------------------------------------------------------


def lines(path, start, count):
    pairs = tiny_data.examples(count, start)
    some = [{"prompt": one.prompt, "response": one.response} for one in pairs]
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in some), "utf-8")
    return path


def sequences(folder, name, base, start, count):
    made = tokenize_dataset_rows.TokenizeConfig(
        jsonl_path=str(lines(folder / f"{name}.jsonl", start, count)),
        save_path=str(folder / name),
        base=str(base),
    )
    tokenize_dataset_rows.tokenize(made)
    return folder / name


def parts(folder, start, count):
    folder.mkdir()
    for name, some in (
        ("train", tiny_data.examples(count, start)),
        ("valid", tiny_data.examples(7, start + 5000)),
    ):
        with store.PairWriter(folder / f"{name}.parquet") as writer:
            writer.write([Example(one.prompt, one.response, "sums") for one in some])
    return folder


def prepared(base, data, general, share=0.3):
    """Returns what a run would read."""
    settings = TrainConfig(
        finetune=True, base=str(base), **LIMITS, replay=ReplaySettings(str(general), share)
    )
    source = prepare.locate(str(data), finetune=True)
    found = replay.find(settings)
    return prepare_data(settings, source, prepare.find(source), open_form(str(base)), found)


@pytest.mark.parametrize("task_kind", [sequences, parts])
@pytest.mark.parametrize("general_kind", [sequences, parts])
def test_ids_and_pairs_are_mixed_in_any_combination_and_held_out_ones_stay_out(
    base, tmp_path, monkeypatch, task_kind, general_kind
):
    monkeypatch.chdir(tmp_path)

    def made(kind, name, start, count):
        own = (tmp_path, name, base) if kind is sequences else (tmp_path / name,)
        return kind(*own, start, count)

    data, general = made(task_kind, "task", 0, 150), made(general_kind, "general", 1000, 400)
    alone, both = prepared(base, data, ""), prepared(base, data, general)
    assert rows(both.train)[: len(alone.train)] == rows(alone.train)
    added = rows(both.train)[len(alone.train) :]
    assert len(added) == round(0.3 / 0.7 * len(alone.train))
    assert alone.valid is not None
    assert both.valid is not None
    assert rows(both.valid) == rows(alone.valid)
    assert both.general_valid is not None
    assert not set(added) & set(rows(both.general_valid))
    if general_kind is sequences:
        assert not any(is_held_out(prompt) for prompt, _, _ in added)
        assert all(is_held_out(prompt) for prompt, _, _ in rows(both.general_valid))
    else:
        assert len(both.general_valid) == 7
    assert both.found.valid == alone.found.valid
    assert both.found.train != alone.found.train


def test_what_cannot_be_mixed_in_is_refused(base, tmp_path, monkeypatch, make_tokenizer):
    monkeypatch.chdir(tmp_path)
    data = sequences(tmp_path, "task", base, 0, 40)
    with pytest.raises(DataError, match=r"replay\.data=nowhere does not exist"):
        prepared(base, data, "nowhere")
    other = small.causal(tmp_path / "other", make_tokenizer(template=None, texts=["abc abd"]))
    general = sequences(tmp_path, "general", other, 0, 40)
    with pytest.raises(DataError, match="general was made with the tokenizer of"):
        prepared(base, data, general)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"replay": ReplaySettings(share=0.0)}, "replay.share must be between 0 and 1"),
        ({"replay": ReplaySettings(share=1.0)}, "replay.share must be between 0 and 1"),
        ({"replay": ReplaySettings("general"), "base": ""}, "has an effect with base= only"),
    ]
    for given, message in refused:
        with pytest.raises(ConfigError, match=message):
            TrainConfig(**{"finetune": True, "base": "b", **given})


# ---- whole runs ---------------------------------------------------------------------------------


@pytest.fixture
def go(base, tmp_path, monkeypatch):
    """Returns a function that trains in tmp_path and returns the run folder."""
    monkeypatch.chdir(tmp_path)

    def tune(name, **changes):
        train_with(**SETTINGS | {"base": base, "out": f"out/{name}"} | changes)
        return tmp_path / "out" / name

    return tune


def test_a_run_learns_from_both_and_goes_on_with_the_same_general_pairs_only(go, tmp_path, capsys):
    data, general = parts(tmp_path / "task", 0, 30), parts(tmp_path / "general", 1000, 100)
    given = {"data": data, "replay__data": general, "replay__share": 0.25}
    whole = go("whole", **given)
    told = capsys.readouterr().err
    assert f"replay.data={general}: 10 general pairs are mixed in, 25.0% of all training" in told
    assert "40 pairs, 6 steps of 8 pairs" in told
    judged = [line for line in run_folder.metrics(whole) if "valid_loss" in line]
    assert [line["step"] for line in judged] == [3, 6]
    assert all(line["replay_valid_loss"] not in (0, line["valid_loss"]) for line in judged)

    for name in ("a", "b", "c"):
        shutil.copytree(whole, tmp_path / "out" / name)
        shutil.rmtree(tmp_path / "out" / name / "step_000006")
    moved = shutil.copytree(general, tmp_path / "moved")
    resumed = go("a", **given | {"replay__data": moved}, resume=True)
    one, other = (
        load_file(run / "step_000006" / "adapter_model.safetensors") for run in (whole, resumed)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert read_state(whole / "step_000006").ledger == read_state(resumed / "step_000006").ledger

    different = parts(tmp_path / "different", 2000, 100)
    with pytest.raises(CheckpointError, match=r"task/train.parquet with .*different/train.parquet"):
        go("b", **given | {"replay__data": different}, resume=True)
    with pytest.raises(CheckpointError, match="holds other training pairs"):
        go("b", **given | {"replay__data": ""}, resume=True)
    with pytest.raises(CheckpointError, match=r"replay.share=0.25, here 0.5"):
        go("c", **given | {"replay__share": 0.5}, resume=True)
