"""Conversations as people write them down: every message is in an example or has a reason."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.corpus import clean_stage, history, messages, read_parquet
from chatlm.corpus.clean_stage import open_clean
from chatlm.corpus.cleaning import clean_batch
from chatlm.corpus.columns import ColumnRoad
from chatlm.corpus.conversation import turns_of
from chatlm.corpus.example import Example, Skipped
from chatlm.corpus.messages import examples_of
from chatlm.corpus.normalize import normalize
from chatlm.corpus.raw_blocks import RowsBlock
from chatlm.corpus.reasons import CONVERT
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.records import Record, Rejected
from chatlm.corpus.shards import read_rejects, read_shard
from chatlm.corpus.sources import SOURCES
from chatlm.errors import DataError

DIALOGUES = Path(__file__).parents[1] / "fixtures" / "dialogues.jsonl"
EVERY_ROW = Recipe(min_prompt_chars=1, drop=(), quality=(), boilerplate=False, mask=False)
PAIRS = SOURCES["pairs"]
PROMPTS = [
    "绿萝的叶子黄了。\n怎么办？",
    "用户：绿萝的叶子黄了。\n怎么办？\n助手：先摸摸土，太湿就少浇水。\n用户：土是干的。\n助手：",
    "明天下雨吗？",
    "用户：明天下雨吗？\n助手：下午有小雨。\n用户：要带伞吗？\n助手：",
    "讲个笑话。\n短一点的。",
    "一加一等于几？",
    "这段对话怎么结束？\n助手：再见。\n用户：好。",
    "用户：这段对话怎么结束？\n 助手：再见。\n 用户：好。\n助手：说再见。\n用户：还有吗？\n助手：",
]
ANSWERS = [
    "先摸摸土，太湿就少浇水。",
    "那就浇透一次。\n再放到亮一点的地方。",
    "下午有小雨。",
    "带上吧。",
    "小明问路，路没回答。",
    "等于二。",
    "说再见。",
    "没有了。",
]
LOST = [
    (1, 2, "system_message", "你是一位园丁。"),
    (2, 2, "unasked_answer", "您好，这里是天气台。"),
    (2, 3, "unanswered_question", "谢谢！"),
    (3, 1, "empty_message", ""),
    (4, 0, "unknown_role"),
    (5, 0, "malformed_conversation"),
]


def message(role: str, content: str | None) -> dict[str, str | None]:
    return {"role": role, "content": content}


def reasons_of(found: "Sequence[Example | Skipped] | str") -> list[str]:
    assert not isinstance(found, str)
    return [one.reason for one in found if isinstance(one, Skipped)]


def records() -> list[dict[str, object]]:
    return [orjson.loads(line) for line in DIALOGUES.read_bytes().splitlines()]


def as_parquet(path: Path) -> Path:
    """Writes the conversations of the fixture as a table, which fills up with nulls."""
    kind = pa.list_(
        pa.struct([(name, pa.string()) for name in ("role", "content", "from", "value")])
    )
    schema = pa.schema(
        [
            ("messages", kind),
            ("conversations", kind),
            ("prompt", pa.string()),
            ("response", pa.string()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(records(), schema), path)
    return path


def as_array(path: Path) -> Path:
    path.write_bytes(orjson.dumps(records()))
    return path


def as_lines(path: Path) -> Path:
    return Path(shutil.copyfile(DIALOGUES, path))


@pytest.mark.parametrize(
    ("name", "write"), [("d.jsonl", as_lines), ("d.json", as_array), ("d.parquet", as_parquet)]
)
def test_a_file_of_conversations_becomes_these_pairs_in_every_format(tmp_path, name, write):
    counts = clean_stage.clean(PAIRS, [write(tmp_path / name)], EVERY_ROW, tmp_path / "clean")
    made = open_clean(tmp_path / "clean", "pairs")
    rows = [
        row for shard in made.shards for batch in read_shard(shard) for row in batch.to_pylist()
    ]
    assert [row["prompt"] for row in rows] == PROMPTS
    assert [row["response"] for row in rows] == ANSWERS
    lost = [line for path in made.rejects for line in read_rejects(path)]
    found = [(line["position"], line["turn"], line["reason"], line["text"]) for line in lost]
    # A table knows no field `text`: that message is one without words there.
    wanted = [
        (5, 0, "empty_message")
        if name.endswith("parquet") and one[2] == "malformed_conversation"
        else one
        for one in LOST
    ]
    assert [row[: len(one)] for row, one in zip(found, wanted, strict=True)] == wanted
    assert counts.rows_in == counts.kept + counts.dropped.total() == len(PROMPTS) + len(LOST)


def test_explain_tells_what_became_of_each_message(tmp_path):
    clean_stage.clean(PAIRS, [as_lines(tmp_path / "d.jsonl")], EVERY_ROW, tmp_path / "clean")
    lines = "\n".join(history.explain("pairs/d.jsonl:2", tmp_path / "clean", tmp_path / "out"))
    assert "clean 1: kept: 用户：明天下雨吗？" in lines
    assert "clean 2: dropped as unasked_answer" in lines
    assert "clean 3: dropped as unanswered_question" in lines


def test_an_empty_message_is_as_if_it_were_not_there():
    said = [message("user", "甲"), message("assistant", "\u200b"), message("user", None)]
    found = examples_of([*said, message("user", "乙"), message("assistant", "丙")], "s")
    assert isinstance(found, list)
    assert found[0] == Example("甲\n乙", "丙", "s")
    assert reasons_of(found) == ["empty_message", "empty_message"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "malformed_conversation"),
        ("好", "malformed_conversation"),
        ([None], "malformed_conversation"),
        ([{"role": "user", "content": [{"type": "text"}]}], "malformed_conversation"),
        ([{"role": 1, "content": "好"}], "malformed_conversation"),
        ([message("User", "好")], "unknown_role"),
        ([message("user", "好")] * (messages.MAX_MESSAGES + 1), "conversation_too_long"),
        ([message("user", "好" * messages.MAX_CONVERSATION_CHARS)] * 2, "conversation_too_long"),
    ],
)
def test_what_is_no_conversation_has_one_reason(value, reason):
    assert PAIRS.convert({"messages": value}) == reason
    assert reason in CONVERT


def test_conversations_without_an_answer_lose_every_message_by_name():
    assert reasons_of(examples_of([message("user", "好")], "s")) == ["unanswered_question"]
    assert reasons_of(examples_of([message("assistant", "好")], "s")) == ["unasked_answer"]
    only = examples_of([message("system", "好")], "s")
    assert reasons_of(only) == ["system_message"]


ROLES = st.sampled_from(["user", "assistant", "system", "human", "gpt"])
TEXTS = st.text("一二。\n \u200b", max_size=4)
CONVERSATIONS = st.lists(st.tuples(ROLES, TEXTS), min_size=1, max_size=9)


@given(CONVERSATIONS)
def test_every_message_is_in_the_last_prompt_or_answer_or_has_a_reason(said):
    found = examples_of([message(role, text) for role, text in said], "s")
    assert isinstance(found, list)
    examples = [one for one in found if isinstance(one, Example)]
    skipped = [one for one in found if isinstance(one, Skipped)]
    assert found == [*examples, *skipped]
    # Each example is asked with all turns before it.
    for number, one in enumerate(examples):
        assert len(turns_of(one.prompt)[0]) == number
    kept = [text for role, text in said if role != "system" and normalize(text)]
    lost = [one for one in skipped if one.reason in ("unasked_answer", "unanswered_question")]
    others = len(said) - len(kept)
    assert len(skipped) - len(lost) == others
    words = "".join(normalize(text) for text in kept)
    if examples:
        turns, question = turns_of(examples[-1].prompt)
        whole = "".join(text for turn in turns for text in turn) + question
        whole += normalize(examples[-1].response)
        missing = "".join(normalize(one.text) for one in lost)
        assert sorted((whole + missing).replace("\n", "")) == sorted(words.replace("\n", ""))


@given(st.lists(CONVERSATIONS, min_size=1, max_size=9))
def test_both_roads_make_the_same_of_conversations(made):
    batch: list[Record | Rejected] = [
        Record(number, {"messages": [message(*one) for one in said]})
        for number, said in enumerate(made, start=1)
    ]
    batch.append(Record(len(batch) + 1, {"prompt": "问一句", "response": "答一句。"}))
    road = _ROAD
    done = road.clean_block(RowsBlock.of(batch, *road.fields), "f")
    wanted = clean_batch(batch, "f", PAIRS, EVERY_ROW)
    assert done.prompt.to_arrow().to_pylist() == [one.prompt for one in wanted.examples]
    assert done.response.to_arrow().to_pylist() == [one.response for one in wanted.examples]
    assert (done.positions.tolist(), done.turns.tolist()) == (wanted.positions, wanted.turns)
    assert (done.rejects, done.counts) == (wanted.rejects, wanted.counts)


_ROAD = ColumnRoad(PAIRS, EVERY_ROW)


def test_a_table_with_messages_is_read_as_conversations_though_it_has_pairs_too(tmp_path):
    both = {"messages": [message("user", "你好"), message("assistant", "您好。")]}
    both |= {"prompt": "问", "response": "答。", "input": "", "source": "x"}
    pq.write_table(pa.Table.from_pylist([both] * 3), tmp_path / "d.parquet")
    clean_stage.clean(PAIRS, [tmp_path / "d.parquet"], EVERY_ROW, tmp_path / "clean")
    made = open_clean(tmp_path / "clean", "pairs")
    rows = [
        row for shard in made.shards for batch in read_shard(shard) for row in batch.to_pylist()
    ]
    assert {(row["prompt"], row["response"], row["source"]) for row in rows} == {
        ("你好", "您好。", "x")
    }


def test_messages_of_another_type_are_refused_by_name(tmp_path):
    path = tmp_path / "d.parquet"
    for column in (pa.array(["[]"]), pa.array([["好"]]), pa.array([[{"role": "user"}]])):
        pq.write_table(pa.table({"messages": column}), path)
        with pytest.raises(DataError, match=r"column messages is .*expected a list of \{role"):
            clean_stage.clean(PAIRS, [path], EVERY_ROW, tmp_path / "clean")


def test_a_message_that_is_not_utf_8_costs_its_conversation_only(tmp_path):
    good = [message("user", "你好"), message("assistant", "您好。")]
    content = pa.array([b"\xff\xfe", b"x", b"ok", b"fine"]).view(pa.string())
    role = pa.array(["user", "assistant"] * 2)
    inner = pa.StructArray.from_arrays([role, content], ["role", "content"])
    column = pa.ListArray.from_arrays(pa.array([0, 2, 4], pa.int32()), inner)
    more = pa.array([good], column.type)
    pq.write_table(pa.table({"messages": pa.chunked_array([column, more])}), tmp_path / "d.parquet")
    counts = clean_stage.clean(PAIRS, [tmp_path / "d.parquet"], EVERY_ROW, tmp_path / "clean")
    assert (counts.kept, counts.dropped) == (2, {"invalid_utf8": 1})


def test_a_table_that_says_one_message_a_million_times_is_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(read_parquet, "MAX_SMALL_BYTES", 1 << 20)
    rows = 4_000
    places = pa.array([0] * rows, pa.int32())
    content = pa.DictionaryArray.from_arrays(places, pa.array(["好" * 4_000]))
    role = pa.array(["user"] * rows)
    inner = pa.StructArray.from_arrays([role, content], ["role", "content"])
    column = pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), inner)
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"messages": column}), path, compression="zstd")
    assert path.stat().st_size < 40_000
    with pytest.raises(DataError, match="decompression bomb"):
        clean_stage.clean(PAIRS, [path], EVERY_ROW, tmp_path / "clean")
