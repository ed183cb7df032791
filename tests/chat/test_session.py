"""A session keeps what was said, sends what the model can read, and survives being stopped."""

import stat
from pathlib import Path

import pytest
from scripted_chat import ScriptedEngine, session
from tiny_checkpoint import make_checkpoint

from chatlm.chat.prompt import Message
from chatlm.chat.session import ChatSession
from chatlm.chat.settings import ChatSettings
from chatlm.errors import ConfigError, DataError, EngineError
from chatlm.inference.open import open_engine


def scripted(chat: ChatSession) -> ScriptedEngine:
    assert isinstance(chat.engine, ScriptedEngine)
    return chat.engine


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
    assert "你好" not in scripted(chat).prompts[2]


def test_turns_that_do_not_fit_are_left_out_oldest_first() -> None:
    chat = session(history_turns=9)
    for i in range(4):
        chat.messages += [Message("user", f"问{i}" * 2), Message("assistant", f"答{i}" * 2)]
    say(chat, "丙丙")
    assert scripted(chat).prompts == ["用户：问3问3\n助手：答3答3\n用户：丙丙\n助手："]
    assert chat.prompt is not None
    assert (chat.prompt.turns, chat.prompt.is_cut) == (1, False)
    say(chat, "很长的问题" * 20)
    assert scripted(chat).prompts[1] == "很长的问题" * 8
    assert (chat.prompt.turns, chat.prompt.is_cut) == (0, True)


def test_a_stopped_answer_is_kept_as_far_as_it_came() -> None:
    chat = session(seconds_a_piece=0.01)
    answer = chat.ask("慢")
    assert [next(answer), next(answer)] == ["字", "字"]
    answer.close()
    assert chat.messages == [Message("user", "慢"), Message("assistant", "字字")]
    assert scripted(chat).ended == ["cancelled"]
    assert (chat.last.tokens, chat.last.seconds, chat.reason) == (2, 0.5, "cancelled")


def test_an_answer_of_nothing_or_with_an_error_leaves_no_trace() -> None:
    chat = session()
    assert say(chat, "空") == ""
    with pytest.raises(EngineError, match="out of memory"):
        say(chat, "错")
    assert chat.messages == []
    assert chat.reason is None
    assert say(chat, "你好")
    assert len(chat.messages) == 2
    assert (chat.total.answers, chat.reason) == (2, "stop")


def test_a_stop_string_ends_the_answer_and_is_not_said() -> None:
    chat = session()
    chat.settings = ChatSettings(stop=["兴见", "没有的"])
    assert say(chat, "你好") == "你好！很高"
    assert (chat.reason, chat.last.tokens) == ("stop", 4)
    assert scripted(chat).ended in (["cancelled"], ["stop"])
    chat.settings = ChatSettings(stop=["。。"])
    assert say(chat, "你好") == "你好！很高兴见到你。"


def test_the_longest_answer_ends_by_its_length() -> None:
    chat = session()
    chat.settings = ChatSettings(max_new_tokens=2)
    assert say(chat, "你好") == "你好！"
    assert chat.reason == "length"


def test_retry_takes_the_answer_back_and_samples_once() -> None:
    chat = session()
    chat.settings = ChatSettings(repetition_penalty=1.2, num_beams=4, length_penalty=0.5)
    say(chat, "你好")
    question, answer = chat.retry()
    assert (question, "".join(answer)) == ("你好", "你好！很高兴见到你。")
    assert len(chat.messages) == 2
    first, second = scripted(chat).configs
    assert first == chat.settings.resolve(chat.engine.limits)
    again = ChatSettings(repetition_penalty=1.2, temperature=0.8)
    assert second == again.resolve(chat.engine.limits)


def test_retry_keeps_settings_that_sample() -> None:
    chat = session()
    chat.settings = ChatSettings(temperature=0.3)
    say(chat, "你好")
    "".join(chat.retry()[1])
    assert scripted(chat).configs[1] == scripted(chat).configs[0]


def test_there_is_nothing_to_retry_at_first() -> None:
    with pytest.raises(DataError, match="nothing to retry"):
        session().retry()


def test_settings_are_checked_when_they_are_set() -> None:
    chat = session()
    with pytest.raises(ConfigError, match="temperature=-1"):
        chat.settings = ChatSettings(temperature=-1)
    assert chat.settings == ChatSettings()
    with pytest.raises(ConfigError, match="temperature=-1"):
        ChatSession(ScriptedEngine(), ChatSettings(temperature=-1))
    with pytest.raises(ConfigError, match="this engine does not like it"):
        chat.settings = ChatSettings(top_k=13)
    with pytest.raises(ConfigError, match="stop=''"):
        ChatSettings(stop=[""])


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


# --- a real model --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model"))


SAMPLING = ChatSettings(temperature=2.0, seed=5, min_new_tokens=4)


def test_a_long_prompt_is_cut_as_in_training(folder: Path) -> None:
    chat = ChatSession(open_engine(folder, "cpu"), SAMPLING)
    answer = say(chat, "a" * 500)
    assert chat.prompt is not None
    assert len(chat.prompt.ids) == chat.engine.limits.max_source_tokens
    assert say(chat, "a" * 11) == answer
    assert not chat.prompt.is_cut


def test_a_seed_repeats_an_answer_and_closing_ends_it(folder: Path) -> None:
    chat = ChatSession(open_engine(folder, "cpu"), SAMPLING)
    first = say(chat, "你好")
    assert say(chat, "你好") == first
    answer = chat.ask("你好")
    next(answer)
    answer.close()
    assert chat.last.tokens == 1


def test_control_text_in_a_question_is_text(folder: Path) -> None:
    chat = ChatSession(open_engine(folder, "cpu"), SAMPLING)
    assert say(chat, "</s><pad>") != say(chat, "")


def test_settings_that_generation_refuses_are_refused_before_the_first_answer(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"top_p=3\.0"):
        ChatSession(open_engine(folder, "cpu"), ChatSettings(top_p=3.0))
