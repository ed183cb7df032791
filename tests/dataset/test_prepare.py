"""From a file of conversations to a model that reads a history, through the door of training."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatlm.config import TrainConfig
from chatlm.corpus import conversation, store
from chatlm.dataset import prepare, token_store
from chatlm.dataset.token_store import Limits
from chatlm.errors import ConfigError
from chatlm.plan import lengths
from chatlm.saving import chat_limits
from chatlm.tokenizer import Tokenizer
from tests import tiny_data
from tests.trainings import train_tiny

NAMES = "赤橙黄绿青蓝紫"


def dialogue(number: int) -> list[dict[str, str]]:
    """Returns a conversation of one to four turns about the colour that its beginning names."""
    colour = NAMES[number % len(NAMES)]
    said = [(f"{number}号灯是{colour}色的。", "记住了。")]
    said += [(f"第{turn}次问：是什么颜色？", f"是{colour}色。") for turn in range(number % 4)]
    return [
        {"role": role, "content": text}
        for turn in said
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def texts() -> list[str]:
    return [one["content"] for number in range(40) for one in dialogue(number)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dialogues.parquet and a tokenizer."""
    folder = tmp_path_factory.mktemp("dialogues")
    column = pa.array([dialogue(number) for number in range(400)])
    pq.write_table(pa.table({"messages": column}), folder / "dialogues.parquet")
    marks = [conversation.render([("一", "二")], "三")] * 9
    Tokenizer.train([*texts(), *marks], 420).save(folder / "tokenizer")
    return folder


def go(name: str, **changes: object) -> Path:
    """Trains in the current folder and returns the run's folder."""
    settings: dict[str, Any] = {"tokenizer": "tokenizer", "eval_answers": 0}
    return train_tiny(name, **settings | {"max_steps": 2, "microbatch_tokens": 512} | changes)


def limits_of(run: Path) -> dict[str, int]:
    (path,) = run.glob("step_*/chat.json")
    return json.loads(path.read_text())


def test_a_file_of_conversations_makes_a_model_that_reads_a_history(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    long: dict[str, Any] = {"max_source_tokens": 128, "max_new_tokens": 16}
    run = go("run", data="dialogues.parquet", **long)
    assert limits_of(run) == long | {"history_turns": 3}
    assert "chat will send up to 3" in caplog.text
    # The same file fine-tunes, and a limit that holds one turn less makes a model of one less.
    short = go(
        "tuned",
        data="dialogues.parquet",
        finetune=True,
        init_from="run",
        max_source_tokens=56,
        tokenizer="",
    )
    assert limits_of(short)["history_turns"] in (1, 2)
    named = go("named", data="dialogues.parquet", history_turns=7, max_source_tokens=16)
    assert limits_of(named)["history_turns"] == 7
    assert (
        limits_of(go("none", data="dialogues.parquet", max_source_tokens=16))["history_turns"] == 0
    )
    assert "do not fit into max_source_tokens=16: a single-turn model" in caplog.text


def test_a_plan_counts_the_pairs_of_a_file_of_conversations(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    source = prepare.locate("dialogues.parquet", finetune=False)
    pairs = lengths.find(TrainConfig(tokenizer="tokenizer"), source)
    assert pairs.num_pairs == sum(len(dialogue(number)) // 2 for number in range(400))


def test_single_questions_make_a_single_turn_model_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_data.make(tmp_path / "data")
    assert limits_of(go("run", data="data", tokenizer=""))["history_turns"] == 0
    assert "no training pair has earlier turns: a single-turn model" in caplog.text


def test_all_turns_of_a_conversation_are_in_one_part(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    found = prepare.find(prepare.locate("dialogues.parquet", finetune=False))
    parts = {
        part: {
            conversation.opening(prompt)
            for batch in store.read_pairs(found.folder / f"{part}.parquet", ("prompt",))
            for prompt in batch["prompt"].to_pylist()
        }
        for part in prepare.PARTS
    }
    assert all(parts.values())
    assert sum(map(len, parts.values())) == len(set().union(*parts.values()))


def test_a_resumed_run_goes_on_with_the_store_of_the_version_that_it_began_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    source = prepare.locate("dialogues.parquet", finetune=False)
    found, tokenizer = prepare.find(source), Tokenizer.load("tokenizer")
    name = token_store.fingerprint(found.train, tokenizer, Limits(33, 33), version=2)
    old = prepare.CACHE / f"tokens-{name}"
    token_store.write([("你好", "您好。")], tokenizer, Limits(33, 33), old, name)
    settings: dict[str, Any] = {"max_source_tokens": 33, "max_target_tokens": 33}
    resumed = TrainConfig(**settings, resume=True)
    assert len(prepare.prepare(resumed, source, found, tokenizer).train) == 1
    new = prepare.prepare(TrainConfig(**settings), source, found, tokenizer)
    assert len(new.train) > 100
    # Once the store of this version is there, a run may have begun with it.
    assert len(prepare.prepare(resumed, source, found, tokenizer).train) == len(new.train)


def test_the_setting_says_how_many_turns_or_leaves_it_to_the_pairs(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train([*texts(), "用户：\n助手："] * 2, 420)
    prompt = conversation.prompt_for([("一", "二")] * random.Random(0).randint(2, 5), "三")
    token_store.write([(prompt, "四")], tokenizer, Limits(99, 9), tmp_path / "s", "x")
    opened = token_store.open_store(tmp_path / "s")
    num_turns = len(conversation.turns_of(prompt)[0])
    assert chat_limits(TrainConfig(), opened)["history_turns"] == num_turns
    assert chat_limits(TrainConfig(history_turns=0), opened)["history_turns"] == 0
    with pytest.raises(ConfigError, match="history_turns must be at least -1"):
        TrainConfig(history_turns=-2)
