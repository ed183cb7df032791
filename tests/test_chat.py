"""A session keeps what was said, sends what the model can read, and survives being stopped."""

import stat
from pathlib import Path

import pytest
from scripted_chat import ScriptedBackend, session
from tiny_checkpoint import make_checkpoint

from chatlm.chat import ChatSession, ChatSettings, Message, open_model
from chatlm.errors import ChatLMError, CheckpointError, ConfigError, DataError
from chatlm.tokenizer import Tokenizer


def scripted(chat: ChatSession) -> ScriptedBackend:
    assert isinstance(chat.backend, ScriptedBackend)
    return chat.backend


def say(chat: ChatSession, question: str) -> str:
    return "".join(chat.ask(question))


# --- history --------------------------------------------------------------------------------------


def test_a_single_turn_model_gets_the_question_alone() -> None:
    chat = session()
    assert say(chat, "你好") == "你好！很高兴见到你。"
    say(chat, "再见")
    assert scripted(chat).prompts == ["你好", "再见"]
    assert [message.role for message in chat.messages] == ["user", "assistant"] * 2
    assert chat.is_single_turn


def test_a_multi_turn_model_gets_its_latest_turns() -> None:
    chat = session(history_turns=1)
    for question in ("你好", "甲", "乙"):
        say(chat, question)
    assert scripted(chat).prompts[0] == "你好"
    assert scripted(chat).prompts[1] == "用户：你好\n助手：你好！很高兴见到你。\n用户：甲\n助手："
    assert "你好" not in chat.prompt("丙")


def test_turns_that_do_not_fit_are_left_out_oldest_first() -> None:
    chat = session(history_turns=9)
    for i in range(4):
        chat.messages += [Message("user", f"问{i}" * 2), Message("assistant", f"答{i}" * 2)]
    assert chat.prompt("丙丙") == "用户：问3问3\n助手：答3答3\n用户：丙丙\n助手："
    assert chat.prompt("很长的问题" * 20) == "很长的问题" * 20


def test_a_stopped_answer_is_kept_as_far_as_it_came() -> None:
    chat = session()
    answer = chat.ask("慢")
    assert [next(answer), next(answer)] == ["字", "字"]
    answer.close()
    assert chat.messages == [Message("user", "慢"), Message("assistant", "字字")]
    assert scripted(chat).closed == 1
    assert (chat.last.tokens, chat.last.seconds) == (2, 0.5)


def test_an_answer_of_nothing_or_with_an_error_leaves_no_trace() -> None:
    class Failing(ScriptedBackend):
        def stream(self, prompt, settings):
            yield from [] if prompt == "空" else ["半"]
            if prompt == "错":
                raise RuntimeError("out of memory")

    chat = ChatSession(Failing())
    assert say(chat, "空") == ""
    with pytest.raises(RuntimeError, match="out of memory"):
        say(chat, "错")
    assert chat.messages == []
    assert say(chat, "好") == "半"
    assert len(chat.messages) == 2


def test_retry_takes_the_answer_back_and_samples_once() -> None:
    chat = session()
    chat.settings = ChatSettings(repetition_penalty=1.2, num_beams=4, length_penalty=0.5)
    say(chat, "你好")
    question, answer = chat.retry()
    assert (question, "".join(answer)) == ("你好", "你好！很高兴见到你。")
    assert len(chat.messages) == 2
    first, second = scripted(chat).settings
    assert first == chat.settings
    assert second == ChatSettings(repetition_penalty=1.2, temperature=0.8)


def test_retry_keeps_settings_that_sample() -> None:
    chat = session()
    chat.settings = ChatSettings(temperature=0.3)
    say(chat, "你好")
    "".join(chat.retry()[1])
    assert scripted(chat).settings[1] == chat.settings


def test_there_is_nothing_to_retry_at_first() -> None:
    with pytest.raises(DataError, match="nothing to retry"):
        session().retry()


def test_settings_are_checked_when_they_are_set() -> None:
    chat = session()
    with pytest.raises(ConfigError, match="temperature=-1"):
        chat.settings = ChatSettings(temperature=-1)
    assert chat.settings == ChatSettings()
    with pytest.raises(ConfigError, match="temperature=-1"):
        ChatSession(ScriptedBackend(), ChatSettings(temperature=-1))


def test_stats_count_every_piece() -> None:
    chat = session()
    say(chat, "你好")
    say(chat, "写两行")
    assert str(chat.last) == "3 tokens, 6.0 tok/s"
    assert (chat.total.answers, chat.total.tokens, chat.total.seconds) == (2, 7, 1.0)


# --- files ----------------------------------------------------------------------------------------


def test_a_saved_conversation_comes_back(tmp_path: Path) -> None:
    chat = session()
    say(chat, "你好")
    say(chat, "写两行")
    path = tmp_path / "对话.json"
    chat.save(path)
    chat.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "第一行\\n第二行" in path.read_text(encoding="utf-8")
    other = session()
    other.load(path)
    assert other.messages == chat.messages
    other.reset()
    assert other.messages == []


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"messages": 3}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": [{"role": "user", "content": "问"}]}',
        '{"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": "答"}]}',
        '{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}',
    ],
)
def test_what_is_no_conversation_is_neither_read_nor_overwritten(tmp_path, content) -> None:
    path = tmp_path / "notes.json"
    path.write_text(content)
    with pytest.raises(DataError, match="holds no conversation: expected"):
        session().load(path)
    with pytest.raises(DataError, match="holds no conversation"):
        session().save(path)
    assert path.read_text() == content


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the conversation .*none.json: No such file"):
        session().load(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot save the conversation"):
        session().save(tmp_path / "no" / "folder.json")


# --- a real model ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


SAMPLING = ChatSettings(temperature=2.0, seed=5, min_new_tokens=4)


def test_a_real_model_answers_as_generate_does(folder: Path) -> None:
    import torch

    from chatlm import generate

    backend = open_model(folder, "cpu")
    for settings in (ChatSettings(), SAMPLING, ChatSettings(num_beams=3, max_new_tokens=5)):
        ids = [*backend.tokenizer.encode("今天天气"), backend.tokenizer.eos_id]
        input_ids = torch.tensor([ids])
        config = backend._config(settings)
        expected = generate.generate(backend.model, input_ids, torch.ones_like(input_ids), config)[
            0
        ]
        pieces = list(backend.stream("今天天气", settings))
        assert "".join(pieces) == backend.tokenizer.decode(expected)
        assert len(expected) <= len(pieces) <= len(expected) + 1
    assert backend._config(ChatSettings()).max_new_tokens == 9


def test_a_long_prompt_is_cut_as_in_training(folder: Path) -> None:
    backend = open_model(folder, "cpu")
    assert backend.fits("a" * 11)
    assert not backend.fits("a" * 12)
    assert list(backend.stream("a" * 500, SAMPLING)) == list(backend.stream("a" * 11, SAMPLING))


def test_a_seed_repeats_an_answer_and_closing_ends_it(folder: Path) -> None:
    chat = ChatSession(open_model(folder, "cpu"), SAMPLING)
    first = say(chat, "你好")
    assert say(chat, "你好") == first
    answer = chat.ask("你好")
    next(answer)
    answer.close()
    assert chat.last.tokens == 1


def test_control_text_in_a_question_is_text(folder: Path) -> None:
    backend = open_model(folder, "cpu")
    assert list(backend.stream("</s><pad>", SAMPLING)) != list(backend.stream("", SAMPLING))


def test_settings_that_generation_refuses_are_refused_before_the_first_answer(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"top_p=3\.0"):
        ChatSession(open_model(folder, "cpu"), ChatSettings(top_p=3.0))


def test_unknown_devices_are_refused(folder: Path) -> None:
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ConfigError, match=f"device={device} cannot be used here"):
            open_model(folder, device)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "config.json"])
def test_an_incomplete_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    for path in folder.iterdir():
        if path.name != name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match=name):
        open_model(tmp_path, "cpu")


def test_a_damaged_chat_file_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "chat.json").write_text('{"max_source_tokens": "many"}')
    with pytest.raises(CheckpointError, match=r"chat\.json is damaged"):
        open_model(tmp_path, "cpu")


def test_a_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    Tokenizer.train([f"第{i}个问题，有{chr(0x4E00 + i)}字" for i in range(300)]).save(tmp_path)
    with pytest.raises(ChatLMError, match=r"the tokenizer has .* ids but the model only"):
        open_model(tmp_path, "cpu")
