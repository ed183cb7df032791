"""The base of a model with adapters is heard when asked for, and its answers can be compared."""

import pytest
from scripted_chat import ScriptedEngine, session

from chatlm.chat.session import ChatSession
from chatlm.chat.settings import ChatSettings
from chatlm.commands import ends_pipe, execute, needs_model
from chatlm.errors import ConfigError
from chatlm.inference.engine import Limits

TUNED, BASE = "你好！很高兴见到你。", "我是底座。"


def say(chat: ChatSession, question: str) -> str:
    return "".join(chat.ask(question))


def test_base_is_switched_on_and_off() -> None:
    chat = session(base="底/座")
    assert say(chat, "你好") == TUNED
    assert execute("/base", chat).text == "现在由底座 底/座 回答；/base off 换回来。"
    assert say(chat, "你好") == BASE
    for line, answer in (
        ("/base", TUNED),
        ("/base on", BASE),
        ("/base ON", BASE),
        ("/base off", TUNED),
        ("/base off", TUNED),
    ):
        execute(line, chat)
        assert say(chat, "你好") == answer, line
    with pytest.raises(ConfigError, match="/base maybe: expected /base, /base on or /base off"):
        execute("/base maybe", chat)
    assert not chat.is_base


def test_a_model_by_itself_has_no_base() -> None:
    chat = session()
    for line in ("/base", "/base on", "/base off"):
        with pytest.raises(ConfigError, match="scripted has no adapters"):
            execute(line, chat)
    assert say(chat, "你好") == TUNED
    assert "base" not in execute("/show", chat).text
    assert ends_pipe("/base on")
    assert not needs_model("/base"), "it is known before the model is there"


def test_a_retry_after_base_is_what_the_other_says_to_the_same() -> None:
    engine = ScriptedEngine(history_turns=3, base="b")
    chat = ChatSession(engine, ChatSettings(seed=7))
    say(chat, "甲")
    say(chat, "你好")
    execute("/base on", chat)
    outcome = execute("/retry", chat)
    assert outcome.answer is not None
    assert "".join(outcome.answer) == BASE
    assert engine.prompts[-1] == engine.prompts[-2], "with the same turns before it"
    assert engine.configs[-1] == engine.configs[-2], "chosen in the same way"
    assert [one.content for one in chat.messages[-2:]] == ["你好", BASE]
    "".join(chat.retry()[1])
    assert engine.configs[-1].temperature > 0, "once more of the same: drawn"
    execute("/base off", chat)
    "".join(chat.retry()[1])
    assert engine.configs[-1] == engine.configs[0]
    assert (
        chat.messages[-1].content
        == "您问的是「用户：甲\n助手：您问的是「甲」\n用户：你好\n助手：」"
    )
    chat.undo()
    execute("/base", chat)
    "".join(chat.retry()[1])
    assert engine.configs[-1].temperature > 0, "who said it is no longer known"


def test_show_tells_who_answers_and_how_much_it_reads() -> None:
    chat = session(base="底/座")
    assert "answers               带适配器的模型" in execute("/show", chat).text
    execute("/base", chat)
    shown = execute("/show", chat).text
    assert "base                  底/座\nanswers               底座，不带适配器" in shown
    assert "历史 0 轮" in shown
    chat.engine.limits = Limits(41, 9, 41)  # pyright: ignore[reportAttributeAccessIssue]
    assert "历史 放得下的全部" in execute("/show", chat).text
