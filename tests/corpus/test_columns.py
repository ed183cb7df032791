"""The column road gives what the row road gives: rows, order, rejects, counts."""

import os
import random
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm.corpus import read_json
from chatlm.corpus.clean_columns import CleanColumns
from chatlm.corpus.cleaning import CleanBatch, clean_batch
from chatlm.corpus.columns import ColumnRoad
from chatlm.corpus.json_blocks import read_blocks
from chatlm.corpus.raw_blocks import RowsBlock, TableBlock
from chatlm.corpus.recipe import QUALITY, Recipe
from chatlm.corpus.records import Fields, Record, Rejected
from chatlm.corpus.shapes import SHAPES
from chatlm.corpus.shards import Origin
from chatlm.corpus.sources import SOURCES

TORTURE = bool(os.environ.get("CHATLM_TORTURE"))
STRICT = Recipe(
    min_prompt_chars=4,
    max_prompt_chars=60,
    min_response_chars=4,
    max_response_chars=60,
    min_han_share=0.5,
    min_votes=3,
    min_unended_chars=20,
    drop=("identical", "translation_task", "table"),
    wishes=True,
)
LENIENT = Recipe(min_prompt_chars=1, quality=(), boilerplate=False, mask=False, drop=())
ROADS = {
    (name, number): ColumnRoad(SOURCES[name], recipe)
    for number, recipe in enumerate((STRICT, LENIENT))
    for name in SHAPES
}

# Pieces that some rule, filter or mask acts on, between ones on which none does.
PIECES = st.sampled_from(
    [
        *(
            "早上浇水，晚上晒太阳。",
            "猫",
            "怎么养花？",
            "先问医生！",
            "Use lists.",
            "他说：",
            "（见下）",
        ),
        *(
            " ",
            "  ",
            "\u3000",
            "\n",
            "\n\n\n",
            "\r\r",
            "\r\n",
            "\t",
            "。。。。",
            "！！",
            "~~~~",
            "…",
            "——",
            "....",
        ),
        *(
            "“你好，”",
            "「",
            "》",
            "\u200b",
            "\xa0",
            "\x07",
            "e\u0301",
            "ﬁ",
            "①",
            "ａｂ１２",
            "𠮷",
            "\U000e0041",
        ),
        *(
            "电话：62771234",
            "13812345678",
            "加我微信abc12345",
            "QQ：1234567",
            "a@b-mail.cn",
            "京A12345",
        ),
        *(
            "2019-10-15 08:30",
            "3.14",
            "12:30:45",
            "8.8.4.4",
            "１３９１２３４５６７８",
            "2001:db8::1",
        ),
        *(
            "谢邀。",
            "希望能帮到你。",
            "祝您身体健康！",
            "望采纳",
            "以上就是我的回答。",
            "作为AI语言模型，我",
            "链接",
        ),
        *(
            "<br>",
            "</p><p>",
            "&lt;",
            "A&B",
            "<div class=x>",
            "[url]",
            "锟斤拷",
            "Ã¤Ã¶",
            "\ufffd",
            "http://x.cn/1",
        ),
        *(
            "1. 加盐\n",
            "- 加油\n",
            "    x = 1;\n",
            "def f():\n",
            "|甲|乙|\n",
            "+---+\n",
            "甲\t乙\t丙\n",
        ),
        *(
            "无",
            "None",
            "nan",
            "Human: 好\nAssistant:",
            "Alice: 早\nBob: 早\n",
            "<no input>",
            "no output",
            "翻译成英文：",
        ),
        *(
            "翻来覆去说一遍，" * 4,
            "这句话正好很长很长很长很长很长很长很长。" * 3,
            "？",
            "：",
            ",",
            "*",
            "12",
        ),
    ]
)
TEXTS = st.lists(PIECES, max_size=7).map("".join)
VALUES = st.one_of(TEXTS, TEXTS, TEXTS, st.none(), st.integers(-3, 9))


def names_of(source: str) -> tuple[str, ...]:
    shape = SHAPES[source]
    return (*shape.text_fields, *shape.int_fields, *shape.excludes)


@st.composite
def records(draw: st.DrawFn, source: str) -> Fields:
    fields = dict[str, object]()
    for name in names_of(source):
        if name in SHAPES[source].excludes:
            if draw(st.integers(0, 30)) == 0:
                fields[name] = draw(st.one_of(VALUES, st.just([{"from": "human", "value": "早"}])))
        elif name == "star":
            fields[name] = draw(st.one_of(st.integers(0, 9), st.none(), st.just(1 << 70)))
        elif name == "METADATA":
            votes = draw(st.sampled_from(["赞同", "赞同 2", "赞同 1.2 万", "x"]))
            fields[name] = draw(st.sampled_from([f'{{"upvotes": "{votes}"}}', "{}"]))
        elif draw(st.integers(0, 15)):
            fields[name] = draw(VALUES)
    return fields


def assert_same(done: CleanColumns, wanted: CleanBatch) -> None:
    """Compares everything that both roads say."""
    sources = done.sources if isinstance(done.sources, list) else [done.sources] * len(done)
    rows = list(zip(done.prompt, done.response, sources, strict=True))
    assert rows == [(one.prompt, one.response, one.source) for one in wanted.examples]
    assert done.positions.tolist() == wanted.positions
    assert done.turns.tolist() == wanted.turns
    assert done.rejects == wanted.rejects
    assert done.counts == wanted.counts
    done.counts.check("columns")


@settings(max_examples=2000 if TORTURE else 120, deadline=None)
@given(st.data())
def test_both_roads_agree_on_made_up_records(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(sorted(SHAPES)))
    number = data.draw(st.integers(0, 1))
    made = data.draw(st.lists(records(source), min_size=1, max_size=12))
    batch: list[Record | Rejected] = [Record(7 * n + 1, fields) for n, fields in enumerate(made)]
    batch.insert(len(batch) // 2, Rejected("f", 7 * (len(batch) // 2), "malformed_json", "{"))
    road = ROADS[source, number]
    done = road.clean_block(RowsBlock.of(batch, *road.fields), "f")
    assert_same(done, clean_batch(batch, "f", SOURCES[source], (STRICT, LENIENT)[number]))


def noisy_lines(num: int, seed: int) -> list[bytes]:
    """Returns lines of a baike file, some of them no JSON, no object, or without a field."""
    rng = random.Random(seed)
    sentences = [
        "每天早上浇一次水就够了。",
        "冬天要少浇",
        "叶子发黄是缺光！",
        "换一个大一点的盆，",
        "3天后再看。",
    ]
    lines = list[bytes]()
    for number in range(num):
        answer = rng.choice(("", "\r\r", " ")).join(rng.choices(sentences, k=rng.randrange(1, 80)))
        desc = rng.choice(("", "", "叶子为什么黄", "\u3000怎么\r办。。。", "花怎么养"))
        row = {"qid": str(number), "title": "花怎么养？ ", "desc": desc, "answer": answer}
        if number % 50 == 7:
            row["answer"] += rng.choice(("电话13812345678。", "e\u0301", "望采纳！", "&nbsp;"))
        line = orjson.dumps(row)
        if number % 97 == 3:
            line = rng.choice((line[:-5], b"[1]", b"", b'{"title": "x"}', b'{"a": [1]}', b"\xff"))
        lines.append(line)
    return lines


def test_both_roads_agree_on_a_file_with_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "baike_qa_train.json"
    path.write_bytes(b"\n".join(noisy_lines(40_000 if TORTURE else 1500, seed=3)))
    source = SOURCES["baike_qa2019"]
    recipe = Recipe(min_prompt_chars=4, min_han_share=0.5, min_unended_chars=100)
    wanted = clean_batch(list(read_json.read_jsonl(path)), str(path), source, recipe)
    assert wanted.counts.dropped
    assert wanted.counts.modified["finish"]
    road = ColumnRoad(source, recipe)
    found = CleanBatch()
    for block in read_blocks(path, *road.fields, block_bytes=64 << 10):
        done = road.clean_block(block, str(path))
        batch = done.to_arrow(5).to_pydict()
        for prompt, response, origin in zip(
            batch["prompt"], batch["response"], batch["origin"], strict=True
        ):
            place = Origin.unpack(origin)
            assert place.file == 5
            found.positions.append(place.position)
            example = wanted.examples[len(found.positions) - 1]
            assert (prompt, response) == (example.prompt, example.response)
        found.rejects.extend(done.rejects)
        found.counts.add(done.counts)
    assert found.positions == wanted.positions
    assert found.rejects == wanted.rejects
    assert found.counts == wanted.counts


def test_parquet_batches_take_the_same_road() -> None:
    rows = [
        {
            "INSTRUCTION": "怎么养花？",
            "RESPONSE": "多浇水。 少施肥。 多晒太阳就好了",
            "METADATA": None,
        },
        {"INSTRUCTION": None, "RESPONSE": "多浇水。", "METADATA": '{"upvotes": "赞同 9"}'},
        {
            "INSTRUCTION": "怎么养猫？",
            "RESPONSE": "喂鱼和水。 常常陪它玩",
            "METADATA": '{"upvotes": "赞同"}',
        },
    ]
    road = ROADS["zhihu_kol", 0]
    batch = pa.RecordBatch.from_pylist(rows)
    done = road.clean_block(TableBlock.of(batch, 11, road.shape.text_fields), "f")
    records_of = [Record(11 + n, row) for n, row in enumerate(rows)]
    assert_same(done, clean_batch(records_of, "f", SOURCES["zhihu_kol"], STRICT))
    assert list(done.response) == ["多浇水。\n少施肥。\n多晒太阳就好了"]


def test_a_source_that_is_not_used_is_dropped_whole() -> None:
    recipe = Recipe(policy="too poor")
    road = ColumnRoad(SOURCES["pairs"], recipe)
    batch = [Record(1, {"prompt": "花怎么养", "response": "浇水。"})]
    done = road.clean_block(RowsBlock.of(batch, *road.fields), "f")
    assert_same(done, clean_batch(batch, "f", SOURCES["pairs"], recipe))
    assert done.counts.dropped == {"rejected_by_policy": 1}


def test_a_string_of_one_character_asks_its_own_filter() -> None:
    batch = [Record(1, {"instruction": "翻译成英文：", "output": "早上浇水，晚上晒太阳。"})]
    road = ROADS["alpaca_en", 0]
    done = road.clean_block(RowsBlock.of(batch, *road.fields), "f")
    assert done.counts.dropped == {"translation_task": 1}


TURNS = st.lists(TEXTS, min_size=1, max_size=6)


@settings(max_examples=2000 if TORTURE else 60, deadline=None)
@given(st.lists(TURNS, min_size=5, max_size=9), st.integers(0, 1))
def test_conversations_are_cleaned_turn_by_turn_on_both_roads(
    made: list[list[str]], number: int
) -> None:
    speakers = ("human", "assistant")
    batch: list[Record | Rejected] = [
        Record(
            n,
            {"conversations": [{"from": speakers[k % 2], "value": t} for k, t in enumerate(turns)]},
        )
        for n, turns in enumerate(made, start=1)
    ]
    batch.append(Rejected("f", len(batch) + 1, "malformed_json", "{"))
    road = ROADS["belle", number]
    done = road.clean_block(RowsBlock.of(batch, *road.fields), "f")
    assert_same(done, clean_batch(batch, "f", SOURCES["belle"], (STRICT, LENIENT)[number]))


def test_a_number_that_columns_cannot_hold_takes_the_row_road() -> None:
    plain: Fields = {"title": "猫怎么养？", "star": 9, "content": "多陪它玩，别喂太多。"}
    batch: list[Record | Rejected] = [Record(n, {**plain, "star": 1 << 70}) for n in range(1, 8)]
    batch[3] = Record(4, plain)
    road = ROADS["webtext2019zh", 0]
    done = road.clean_block(RowsBlock.of(batch, *road.fields), "f")
    wanted = clean_batch(batch, "f", SOURCES["webtext2019zh"], STRICT)
    assert len(wanted.examples) == 7
    assert_same(done, wanted)


def test_ordinary_rows_are_not_left_to_the_row_road() -> None:
    road = ColumnRoad(SOURCES["baike_qa2019"], Recipe(quality=tuple(QUALITY)))
    batch = [
        Record(
            n, {"title": f"第{n}盆花怎么养？ ", "desc": "叶子黄了", "answer": "浇水。\r\r晒太阳。"}
        )
        for n in range(1, 9)
    ]
    done = road.clean_block(RowsBlock.of(batch, *road.fields), "f")
    assert done.outcomes[0] == len(batch) == done.counts.modified["line_ends"]


def real_fields(source: str, row: dict[str, str], other: str, rng: random.Random) -> Fields:
    """Returns a real pair in the schema of a source."""
    prompt, response = row["prompt"], row["response"]
    detail = rng.choice(("", "", prompt, other))
    match source:
        case "baike_qa2019":
            answer = response.replace("\n", "\r\r")
            return {"qid": "1", "title": f"{prompt} ", "desc": detail, "answer": answer}
        case "webtext2019zh":
            star = rng.randrange(1, 9)
            content = response.replace("\n", "<br>")
            return {"title": prompt, "desc": detail, "star": star, "content": content}
        case "medical":
            return {"department": "内科", "title": prompt, "ask": detail, "answer": response}
        case "zhihu_kol":
            votes = f'{{"upvotes": "赞同 {rng.randrange(9)}"}}'
            response = response.replace("\n", " ")
            return {"INSTRUCTION": prompt, "RESPONSE": response, "METADATA": votes}
        case "pairs":
            return row
        case _:
            return {"instruction": prompt, "input": detail, "output": response}


@pytest.mark.real_data
@pytest.mark.skipif(not os.environ.get("CHATLM_REAL_DATA"), reason="CHATLM_REAL_DATA is not set")
@pytest.mark.parametrize("source", sorted(SHAPES))
def test_both_roads_agree_on_real_pairs(source: str) -> None:
    """20,000 rows under CHATLM_TORTURE, 2,000 otherwise."""
    rng = random.Random(11)
    table = pq.read_table(Path(os.environ["CHATLM_REAL_DATA"]) / "pairs_zh.parquet")
    chosen = sorted(rng.sample(range(len(table)), 20_000 if TORTURE else 2_000))
    rows = table.take(chosen).to_pylist()
    batch: list[Record | Rejected] = [
        Record(n + 1, real_fields(source, row, rng.choice(rows)["prompt"], rng))
        for n, row in enumerate(rows)
    ]
    recipe = Recipe(
        min_prompt_chars=4,
        min_response_chars=4,
        min_votes=2,
        min_han_share=0.5,
        min_unended_chars=100,
    )
    road = ColumnRoad(SOURCES[source], recipe)
    done = road.clean_block(RowsBlock.of(batch, *road.fields), "f")
    assert_same(done, clean_batch(batch, "f", SOURCES[source], recipe))
