"""Lines that are remembered, for their owner only, and what the tab key offers."""

import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory

from chatlm.chat.settings import ChatSettings
from chatlm.terminal.history import MOST_BYTES, LineHistory, history_file
from chatlm.terminal.keyboard import CommandCompleter

# --- history --------------------------------------------------------------------------------------


def newest_first(path: Path | None) -> list[str]:
    return list(LineHistory(path).load_history_strings())


def test_the_history_file_is_for_its_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    path = tmp_path / "chatlm" / "history"
    assert history_file() == path
    path.chmod(0o644)
    history_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    LineHistory(path).store_string("你好")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_chat_without_a_place_for_history_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chatlm").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() is None
    history = LineHistory(history_file())
    history.append_string("你好")
    assert history.get_strings() == ["你好"]
    history = LineHistory(tmp_path / "gone" / "history")
    history.append_string("你好")
    assert history.get_strings() == ["你好"]


def test_a_history_file_that_is_no_file_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "chatlm").mkdir()
    os.mkfifo(tmp_path / "chatlm" / "history")
    assert history_file() is None


def test_lines_come_back_and_prompt_toolkit_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "history"
    history = LineHistory(path)
    for line in ("一", "两\n行", " 不记", "+加", "# 井", "\ud800"):
        history.append_string(line)
    assert newest_first(path) == ["?", "# 井", "+加", "两\n行", "一"]
    assert list(FileHistory(str(path)).load_history_strings()) == newest_first(path)
    assert history.get_strings()[2] == " 不记", "the arrow keys of this chat have it"


def _chat(path: Path, name: str) -> None:
    history = LineHistory(path)
    for i in range(100):
        history.append_string(f"{name}{i}\n" + name * 5000)


def test_chats_at_the_same_time_do_not_damage_it(tmp_path: Path) -> None:
    path = tmp_path / "history"
    chats = [multiprocessing.Process(target=_chat, args=(path, name)) for name in "甲乙丙"]
    for chat in chats:
        chat.start()
    for chat in chats:
        chat.join()
    said = path.read_text().split("\n# ")
    entries = {line.split("\n", 1)[1].rstrip("\n") for line in said[1:]} | {said[0]}
    expected = {f"+{name}{i}\n+{name * 5000}" for name in "甲乙丙" for i in range(100)}
    assert expected <= entries


def test_a_long_history_is_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_bytes(
        "\n# then\n+旧\n".encode() + b"\n# then\n+x" * (MOST_BYTES // 8) + b"\n# now\n+y\n"
    )
    lines = newest_first(path)
    assert lines[0] == "y"
    assert "旧" not in lines
    path.write_bytes(b"\xff\xfe\n+\xff\n")
    assert newest_first(path) == ["\ufffd"]


# --- completion -----------------------------------------------------------------------------------


def offered(text: str) -> list[str]:
    completions = CommandCompleter().get_completions(Document(text), CompleteEvent())
    return [text[: len(text) + each.start_position] + each.text for each in completions]


def test_the_tab_key_offers_what_can_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("对话.json", "对话2.json", "对话.txt"):
        (tmp_path / name).touch()
    (tmp_path / "对话们").mkdir()
    assert offered("/re") == ["/reset", "/retry"]
    assert offered("/load 对") == ["/load 对话.json", "/load 对话2.json", "/load 对话们"]
    assert offered("/save 对话2") == ["/save 对话2.json"]
    assert offered("/set temperature=1 se") == ["/set temperature=1 seed="]
    assert len(offered("/set ")) == len(vars(ChatSettings()))
    assert offered("你好") == []
    assert offered("/stats ") == []
    assert offered("/b") == ["/base", "/bye"]
    assert offered("/base o") == ["/base on", "/base off"]
    assert offered("") == []
