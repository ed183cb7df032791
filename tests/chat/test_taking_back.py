"""What a user can take back or leave out: an answer, a turn, the history."""

import pytest
from scripted_chat import ScriptedEngine, session

from chatlm.chat.prompt import Message
from chatlm.chat.session import ChatSession
from chatlm.chat.settings import ChatSettings
from chatlm.errors import ConfigError, DataError, EngineError


class Moody(ScriptedEngine):
    """Answers well the first time, then never again."""

    def pieces(self, prompt: str) -> list[str]:
        return ["好"] if len(self.prompts) == 1 else ["<the engine fails here>"]


def say(chat: ChatSession, question: str) -> str:
    return "".join(chat.ask(question))


def test_a_retry_that_fails_or_says_nothing_leaves_the_old_answer() -> None:
    chat = ChatSession(Moody())
    say(chat, "问")
    with pytest.raises(EngineError):
        "".join(chat.retry()[1])
    assert chat.messages == [Message("user", "问"), Message("assistant", "好")]
    _, answer = chat.retry()
    assert len(chat.messages) == 2, "nothing is gone before the new answer begins"
    answer.close()
    assert len(chat.messages) == 2


def test_a_retry_does_not_see_the_old_answer_and_takes_its_place() -> None:
    engine = ScriptedEngine(history_turns=3)
    chat = ChatSession(engine, ChatSettings(temperature=0.5, seed=7))
    say(chat, "你好")
    "".join(chat.retry()[1])
    assert engine.prompts == ["你好", "你好"]
    assert [config.seed for config in engine.configs] == [7, None], "the same seed says the same"
    assert len(chat.messages) == 2


def test_a_turn_can_be_taken_back() -> None:
    chat = session()
    with pytest.raises(DataError, match="nothing to undo"):
        chat.undo()
    say(chat, "你好")
    say(chat, "写两行")
    assert chat.undo() == "写两行"
    assert [message.content for message in chat.messages] == ["你好", "你好！很高兴见到你。"]


def test_of_questions_asked_alone_only_the_latest_is_kept() -> None:
    engine = ScriptedEngine(history_turns=3)
    chat = ChatSession(engine)
    chat.is_alone = True
    say(chat, "你好")
    say(chat, "甲")
    "".join(chat.retry()[1])
    assert engine.prompts == ["你好", "甲", "甲"]
    assert [message.content for message in chat.messages] == ["甲", "您问的是「甲」"]
    assert (chat.left_out, chat.is_single_turn) == (0, True)


def test_a_session_tells_when_it_begins_to_forget() -> None:
    chat = session(history_turns=1)
    told = []
    for question in ("一", "二", "三", "四"):
        say(chat, question)
        told.append((chat.left_out, chat.has_begun_to_forget))
    assert told[0] == (0, False)
    assert [begun for _, begun in told].count(True) == 1
    chat.reset()
    say(chat, "一")
    assert (chat.left_out, chat.has_begun_to_forget) == (0, False)


def test_the_outlook_counts_all_tokens_and_the_turns_that_fit() -> None:
    chat = session(history_turns=9)
    assert chat.outlook() == (0, 0)
    chat.messages += [Message("user", "一二三"), Message("assistant", "四")] * 2
    assert chat.outlook() == (8, 2)
    chat.messages += [Message("user", "长" * 30), Message("assistant", "四")]
    assert chat.outlook() == (39, 0)


def test_a_newline_can_be_typed_on_one_line() -> None:
    settings = ChatSettings(stop=["\\n", "用户：\\n"]).with_line_ends()
    assert settings.stop == ["\n", "用户：\n"]
    assert settings.with_line_ends() == settings
    with pytest.raises(ConfigError, match="17 strings"):
        ChatSettings(stop=["a"] * 17)
