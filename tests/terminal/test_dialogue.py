"""Whole chats at a keyboard, in memory, compared letter by letter."""

import io
from pathlib import Path

import pytest
from scripted_chat import GREETING, session

from chatlm.chat.session import ChatSession
from chatlm.chat.settings import ChatSettings
from chatlm.errors import CheckpointError
from chatlm.terminal.dialogue import HINT, clean_input, converse
from chatlm.terminal.screen import Screen


class Typist:
    """Types the lines of a script, echoed as a terminal echoes them; then presses Ctrl-D."""

    def __init__(self, script: list[str | type[BaseException]], out: io.StringIO) -> None:
        self._script = iter([*script, EOFError])
        self._out = out

    def read(self, prompt: str) -> str:
        self._out.write(prompt)
        step = next(self._script)
        if isinstance(step, str):
            self._out.write(f"{step}\n")
            return step
        self._out.write({EOFError: "^D", KeyboardInterrupt: "^C"}[step] + "\n")
        raise step


def transcript(
    script: list[str | type[BaseException]],
    monkeypatch: pytest.MonkeyPatch,
    history_turns: int = 0,
    *,
    streams: bool = True,
    base: str = "",
) -> tuple[str, ChatSession]:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    chat = session(history_turns, base=base)
    screen = Screen(out, out, is_plain=False, streams=streams)
    assert converse(chat, Typist(script, out), screen) == 0
    return out.getvalue(), chat


def test_a_conversation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    script: list[str | type[BaseException]] = [
        "你好",
        "",
        "写两行",
        "/set temperature=0.7 top_k=20",
        "/retry",
        "/stats",
        "/save 对话.json",
        "/reset",
        "/load 对话.json",
        " /home 是什么？",
        '"""第一段',
        "第二段",
        '"""',
        "exit",
    ]
    text, chat = transcript(script, monkeypatch)
    assert text == GREETING + (
        "用户：你好\n"
        "助手：你好！很高兴见到你。\n"
        "[4 tokens, 8.0 tok/s]\n"
        "用户：\n"
        "用户：写两行\n"
        "助手：第一行\n"
        "第二行\n"
        "[3 tokens, 6.0 tok/s]\n"
        "用户：/set temperature=0.7 top_k=20\n"
        "temperature=0.7 top_k=20\n"
        "用户：/retry\n"
        "重新回答：写两行\n"
        "助手：第一行\n"
        "第二行\n"
        "[3 tokens, 6.0 tok/s]\n"
        "用户：/stats\n"
        "3 个回答，10 tokens, 6.7 tok/s，平均 0.25 秒出第一个字\n"
        "用户：/save 对话.json\n"
        "已保存 2 轮对话到 对话.json\n"
        "用户：/reset\n"
        "对话已清空。\n"
        "用户：/load 对话.json\n"
        "已读入 2 轮对话（单轮模型：历史不会发给它）\n"
        "用户： /home 是什么？\n"
        "助手：您问的是「/home 是什么？」\n"
        "[1 tokens, 2.0 tok/s]\n"
        '用户："""第一段\n'
        "…… 第二段\n"
        '…… """\n'
        "助手：您问的是「第一段\n"
        "第二段」\n"
        "[1 tokens, 2.0 tok/s]\n"
        "用户：exit\n"
    )
    assert len(chat.messages) == 8


def test_mistakes_stay_in_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    script: list[str | type[BaseException]] = [
        "/retyr",
        "/set temprature=1",
        "/set temperature=hot",
        "/set temperature=-1",
        "/set",
        "/load",
        "/load none.json",
        "/retry",
        "/show",
    ]
    text, _ = transcript(script, monkeypatch)
    assert text == GREETING + (
        "用户：/retyr\n"
        "error: unknown command '/retyr': did you mean '/retry'? (a question may begin with '/' "
        "after a space)\n"
        "用户：/set temprature=1\n"
        "error: unknown setting 'temprature': did you mean 'temperature'?\n"
        "用户：/set temperature=hot\n"
        "error: temperature=hot is not a valid float (Value 'hot' of type 'str' could not be "
        "converted to Float)\n"
        "用户：/set temperature=-1\n"
        "error: temperature=-1.0: expected 0 (greedy) or more\n"
        "用户：/set\n"
        "error: /set needs key=value, for example /set temperature=0.7\n"
        "用户：/load\n"
        "error: /load needs a file: one that /save wrote\n"
        "用户：/load none.json\n"
        "error: cannot read the conversation none.json: No such file or directory\n"
        "用户：/retry\n"
        "error: nothing to retry: ask a question first\n"
        "用户：/show\n"
        "temperature           0.0\n"
        "top_k                 0\n"
        "top_p                 1.0\n"
        "max_new_tokens        0\n"
        "min_new_tokens        0\n"
        "num_beams             1\n"
        "length_penalty        1.0\n"
        "repetition_penalty    1.0\n"
        "no_repeat_ngram_size  0\n"
        "seed                  none\n"
        "stop                  \n"
        "model                 scripted\n"
        "engine                scripted\n"
        "limits                问题 41 个 token，回答 2000 个，历史 0 轮\n"
        "history               0 轮，0 个 token\n"
        "next question         单轮模型，历史不会发给它\n"
        "用户：^D\n"
    )


def test_help_is_aligned_by_width_on_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = transcript(["/help"], monkeypatch)
    assert text == GREETING + (
        "用户：/help\n"
        "/help           显示这张表\n"
        "/reset          忘掉这段对话，从头开始\n"
        "/set 键=值 ...  改变生成参数，例如 /set temperature=0.7 stop=。,\\n\n"
        "/show           显示模型、参数和历史长度\n"
        "/base [on|off]  换成底座回答，或换回来；接着用 /retry 比较同一个问题\n"
        "/save [文件]    把对话存成 JSON 文件\n"
        "/load 文件      读回存好的对话\n"
        "/retry          重新回答上一个问题\n"
        "/undo           收回上一个问题和它的回答\n"
        "/stats          显示本次会话的回答数、token 数、速度和等第一个字的时间\n"
        "/exit           退出（exit、Ctrl-D 也行）\n"
        "cls             清屏并忘掉这段对话\n"
        '"""             开始多行问题，再用一个 """ 结束\n'
        "Ctrl-C          停止正在生成的回答\n"
        "Alt-Enter       在问题里换行；粘贴的多行文字也是一个问题\n"
        "行首的空格      这一行不记进历史文件\n"
        "用户：^D\n"
    )


def test_ctrl_c_at_the_prompt_hints_and_twice_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = KeyboardInterrupt
    text, _ = transcript([stop, "你好", stop, stop, "不再读"], monkeypatch)
    assert text == GREETING + (
        f"用户：^C\n{HINT}\n"
        "用户：你好\n助手：你好！很高兴见到你。\n[4 tokens, 8.0 tok/s]\n"
        f"用户：^C\n{HINT}\n用户：^C\n"
    )


def test_a_multi_turn_model_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = transcript([], monkeypatch, history_turns=3)
    assert text.splitlines()[1] == "多轮模型：最近 3 轮对话会一起发给模型。"


def test_the_base_is_heard_under_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    script: list[str | type[BaseException]] = ["你好", "/base", "/retry", "/base off", "/retry"]
    text, _ = transcript(script, monkeypatch, history_turns=99, base="底/座\x1b[2J")
    assert text == (
        "ChatLM · scripted\n"
        "多轮模型：放得下的对话会一起发给模型。\n"
        "它是 底/座 加上适配器：/base 换成底座回答，再换回来。\n"
        "/help 显示命令，Ctrl-C 停止回答，Ctrl-D 退出。\n"
        "用户：你好\n助手：你好！很高兴见到你。\n[4 tokens, 8.0 tok/s]\n"
        "用户：/base\n现在由底座 底/座 回答；/base off 换回来。\n"
        "用户：/retry\n重新回答：你好\n底座：我是底座。\n[2 tokens, 4.0 tok/s]\n"
        "用户：/base off\n现在由带适配器的模型回答。\n"
        "用户：/retry\n重新回答：你好\n助手：你好！很高兴见到你。\n[4 tokens, 8.0 tok/s]\n"
        "用户：^D\n"
    )


def test_cls_clears_the_screen_and_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    text, chat = transcript(["你好", "cls"], monkeypatch)
    assert chat.messages == []
    assert "\x1b[2J" in text


def test_a_hostile_answer_cannot_drive_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = transcript(["攻击"], monkeypatch)
    assert "助手：安全的。\n" in text
    assert "\x1b" not in text


def test_input_becomes_text_that_utf8_can_encode() -> None:
    assert clean_input("  好\udcff ") == "好\ufffd"
    assert clean_input("\ud800") == "\ufffd"


def test_a_line_says_how_an_answer_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = transcript(
        ["/set max_new_tokens=2", "你好", "空", "错", "很长的问题" * 20], monkeypatch
    )
    assert text == GREETING + (
        "用户：/set max_new_tokens=2\n"
        "max_new_tokens=2\n"
        "用户：你好\n"
        "助手：你好！\n"
        "（到长度上限）[2 tokens, 4.0 tok/s]\n"
        "用户：空\n"
        "助手：\n"
        "（没有回答）[0 tokens, 0.0 tok/s]\n"
        "用户：错\n"
        "助手：半\n"
        "error: out of memory\n"
        f"用户：{'很长的问题' * 20}\n"
        f"助手：您问的是「{'很长的问题' * 8}」\n"
        "（问题太长：模型只读到前 40 个 token。）\n"
        "[1 tokens, 2.0 tok/s]\n"
        "用户：^D\n"
    )


def test_a_chat_says_once_that_it_begins_to_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    script: list[str | type[BaseException]] = ["你好", "/show", "甲", "乙", "/reset", "/show"]
    text, chat = transcript(script, monkeypatch, history_turns=9)
    forgets = "（对话长了：最早的 2 轮不再发给模型；/reset 从头开始。）\n"
    assert "history               1 轮，12 个 token\n" in text
    assert "next question         1 轮，下一个问题最多带上这些\n" in text
    assert text.count("（对话长了") == 1
    assert forgets in text.split("用户：乙\n")[1]
    assert text.endswith("next question         0 轮，下一个问题最多带上这些\n用户：^D\n")
    assert chat.left_out == 0


def test_a_turn_can_be_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    text, chat = transcript(["/undo", "你好", "写两行", "/undo"], monkeypatch)
    assert "用户：/undo\nerror: nothing to undo: ask a question first\n" in text
    assert text.endswith("用户：/undo\n已收回：写两行\n用户：^D\n")
    assert [message.content for message in chat.messages] == ["你好", "你好！很高兴见到你。"]


def test_several_keys_are_set_at_once_and_stops_as_they_are_typed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script: list[str | type[BaseException]] = [
        '/set top_k=5 stop="用户： ",\\n seed=7',
        "写两行",
        "/set seed=none",
        '/set stop="',
        "/set top_k=13",
    ]
    text, chat = transcript(script, monkeypatch)
    assert text == GREETING + (
        '用户：/set top_k=5 stop="用户： ",\\n seed=7\n'
        "top_k=5 stop=用户： ,\\n seed=7\n"
        "用户：写两行\n"
        "助手：第一行\n"
        "[2 tokens, 4.0 tok/s]\n"
        "用户：/set seed=none\n"
        "seed=none\n"
        '用户：/set stop="\n'
        'error: /set stop=": a quotation mark is missing\n'
        "用户：/set top_k=13\n"
        "error: top_k=13: this engine does not like it\n"
        "用户：^D\n"
    )
    assert chat.settings == ChatSettings(top_k=5, stop=["用户： ", "\n"])


def test_an_answer_can_be_shown_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = transcript(["写两行", "攻击"], monkeypatch, streams=False)
    assert text == GREETING + (
        "用户：写两行\n助手：第一行\n第二行\n[3 tokens, 6.0 tok/s]\n"
        "用户：攻击\n助手：安全的。\n[6 tokens, 12.0 tok/s]\n"
        "用户：^D\n"
    )


def test_a_fence_can_be_left_with_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    text, chat = transcript(['"""一', KeyboardInterrupt, "你好"], monkeypatch)
    assert text.startswith(f'{GREETING}用户："""一\n…… ^C\n{HINT}\n用户：你好\n助手：')
    assert len(chat.messages) == 2


def test_a_chat_whose_model_cannot_be_opened_ends_with_the_reason() -> None:
    asked: list[str] = []

    def wait() -> None:
        asked.append("waited")
        raise CheckpointError("model.safetensors is damaged")

    out = io.StringIO()
    screen = Screen(out, out, is_plain=False)
    with pytest.raises(CheckpointError, match="is damaged"):
        converse(session(), Typist(["/help", "/set top_k=3", "", "你好"], out), screen, wait)
    assert asked == ["waited"]


def test_a_saved_chat_has_a_name_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    text, _ = transcript(["你好", "/save", "/save"], monkeypatch)
    (saved,) = tmp_path.glob("chat-*.json")
    assert f"已保存 1 轮对话到 {saved.name}\n" in text
