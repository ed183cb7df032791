"""Adapters at the doors: a pipe with /base in it, and the process that a server has."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chatlm.chat.prompt import Message, fit
from chatlm.chat.session import ChatSession
from chatlm.chat.settings import ChatSettings
from chatlm.errors import CheckpointError
from chatlm.generation_config import GenerationConfig
from chatlm.inference.engine import Finished, Request, Tokens, tokens
from chatlm.inference.open import open_engine, read_codec, read_limits
from chatlm.inference.process import EngineProcess, engine_command
from chatlm.inference.wire import Accepted, ProcessEvent
from chatlm.sanitize import sanitize
from chatlm.server.config import ServeConfig
from chatlm.server.conversation import prompt_of
from chatlm.server.errors import ApiError
from chatlm.server.openai_api import ChatMessage
from chatlm.server.run import open_model
from tests.adapters import small

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Any) -> Path:
    """A run folder whose one checkpoint is adapters on a model with a chat template."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = make_tokenizer(texts=small.TEXTS)
    base = small.causal(folder / "base", tokenizer)
    step = small.adapters(folder / "run" / "step_000004", base, 0.5)
    tokenizer.save_pretrained(step)
    (step / "MANIFEST.json").write_text("{}")
    return folder / "run"


def test_a_pipe_hears_the_model_and_its_base(run: Path) -> None:
    lines = ["你好", "/base", "你好", "/retry", "/base off", "你好"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "cli_demo.py"), "chat", f"model={run}", "max_new_tokens=9"],
        input="\n".join(lines),
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )
    engine = open_engine(run / "step_000004", "cpu")
    chat = ChatSession(engine, ChatSettings(max_new_tokens=9))
    chat.is_alone = True

    def line() -> str:
        return sanitize("".join(chat.ask("你好"))).strip().replace("\n", "\\n")

    tuned = line()
    chat.hear_base(True)
    base = line()
    engine.close()
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert [*said[:2], said[3]] == [tuned, base, tuned]
    assert tuned != base
    assert "现在由底座" in done.stderr
    assert "重新回答：你好" in done.stderr


def test_a_server_has_its_prompts_and_its_process(run: Path) -> None:
    folder = run / "step_000004"
    served = open_model(folder, ServeConfig())
    assert served.limits == read_limits(folder)
    question = [ChatMessage(role="user", content="你好")]
    talk = [*question, ChatMessage(role="assistant", content="好"), *question]
    prompt = prompt_of(talk, served.tokenizer, served.limits)
    history = [Message("user", "你好"), Message("assistant", "好")]
    assert prompt == fit(history, "你好", read_codec(folder), served.limits)
    assert prompt.turns == 1
    with pytest.raises(ApiError, match=r"The question has 2\d\d\d tokens, and this model reads 64"):
        prompt_of([ChatMessage(role="user", content="长" * 700)], served.tokenizer, served.limits)

    async def answers() -> list[list[ProcessEvent]]:
        worker = EngineProcess(engine_command(folder, "cpu", 1))
        running = asyncio.create_task(worker.run())
        heard: list[list[ProcessEvent]] = []
        for is_base in (False, True):
            events: asyncio.Queue[ProcessEvent] = asyncio.Queue()
            config = GenerationConfig(max_new_tokens=7)
            worker.start(Request(prompt.ids, config, is_base), events.put_nowait)
            heard.append([await asyncio.wait_for(events.get(), 120)])
            while isinstance(heard[-1][-1], Tokens | Accepted):
                heard[-1].append(await asyncio.wait_for(events.get(), 120))
        assert worker.max_streams == 1
        await worker.close()
        await running
        return heard

    tuned, base = asyncio.run(answers())
    engine = open_engine(folder, "cpu")
    for is_base, events in ((False, tuned), (True, base)):
        request = Request(prompt.ids, GenerationConfig(max_new_tokens=7), is_base)
        alone = [Tokens(ids) for ids in tokens(engine, request)]
        assert events == [Accepted(), *alone, Finished("length")]
    assert tuned != base
    engine.close()


def test_what_is_missing_is_named_before_the_chat_begins(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").touch()
    for read in (read_limits, read_codec, open_engine):
        with pytest.raises(CheckpointError, match="does not name the base"):
            read(tmp_path)
