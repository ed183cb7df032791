"""Every published schema, record by record."""

from pathlib import Path

import orjson
import pytest

from chatlm.corpus import convert
from chatlm.corpus.example import Example
from chatlm.corpus.readers import read
from chatlm.corpus.records import Record
from chatlm.corpus.sources import SOURCES, files_of
from chatlm.errors import DataError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "raw"


def pairs_of(name: str, fields: dict[str, object]) -> list[tuple[str, str]] | str:
    found = SOURCES[name].convert(fields)
    if isinstance(found, str):
        return found
    kept = [one for one in found if isinstance(one, Example)]
    assert len(kept) == len(found)
    return [(one.prompt, one.response) for one in kept]


def test_title_and_detail_are_two_lines_unless_one_holds_the_other():
    def question(title: str | None, detail: str | None) -> str:
        return convert.question({"t": title, "d": detail}, "t", "d")

    # Defect 12: they were glued without a separator, and compared as sets of characters.
    assert question("头疼怎么办", "我昨天着凉了") == "头疼怎么办\n我昨天着凉了"
    assert question("冬天进补好吗？ ", "") == "冬天进补好吗？"
    assert question("冬天进补好吗？", "冬天 进补好吗") == "冬天进补好吗？"
    assert question("头疼怎么办", "您好，头疼怎么办？三天了") == "您好，头疼怎么办？三天了"
    assert question("头疼", "无") == "头疼"
    assert question("无", "头疼三天了") == "头疼三天了"
    assert question("无", "无") == ""
    assert question("头疼", None) == "头疼"
    # All characters of the detail are in the title, but it says something else.
    assert question("甲借钱给乙怎么办", "乙借钱给甲") == "甲借钱给乙怎么办\n乙借钱给甲"


def test_webtext_joins_the_description_and_decodes_its_html():
    fields: dict[str, object] = {
        "title": "机器会写诗吗？",
        "desc": "比如<br>唐诗",
        "content": "会。",
    }
    assert pairs_of("webtext2019zh", fields) == [("机器会写诗吗？\n比如\n唐诗", "会。")]
    assert convert.webtext_votes({"star": 22}) == 22
    assert convert.webtext_votes({"star": "x"}) is None


def test_medical_copies_name_the_third_column_either_way():
    for name in ("ask", "question"):
        fields: dict[str, object] = {"title": "咳嗽", name: "咳了三天", "answer": "多喝水。"}
        assert pairs_of("medical", fields) == [("咳嗽\n咳了三天", "多喝水。")]


def test_finance_reads_the_detail_that_the_original_lost_and_only_chosen_answers():
    fields: dict[str, object] = {
        "title": "开户",
        "question": "要带什么材料",
        "reply": "身份证。",
        "is_best": "1",
    }
    assert pairs_of("finance", fields) == [("开户\n要带什么材料", "身份证。")]
    assert pairs_of("finance", {**fields, "is_best": "0"}) == "not_best_answer"
    assert pairs_of("finance", {**fields, "reply": "nan"}) == "empty_response"


def test_zhihu_paragraph_joins_become_line_breaks_and_nulls_have_a_reason():
    fields: dict[str, object] = {
        "INSTRUCTION": "怎么学琴？",
        "RESPONSE": "先识谱。 再练习！” 用 Yamaha 琴 练。 Good luck! Bye",
    }
    expected = "先识谱。\n再练习！”\n用 Yamaha 琴 练。\nGood luck! Bye"
    assert pairs_of("zhihu_kol", fields) == [("怎么学琴？", expected)]
    assert pairs_of("zhihu_kol", {"INSTRUCTION": None, "RESPONSE": "好"}) == "empty_prompt"
    assert pairs_of("zhihu_kol", {"INSTRUCTION": "好", "RESPONSE": None}) == "empty_response"


@pytest.mark.parametrize(
    ("label", "votes"),
    [
        ("赞同", 0),
        ("赞同 15", 15),
        ("赞同 1.2 万", 12_000),
        ("赞同 3万", 30_000),
        ("赞同 1,024", 1_024),
        ("1.5K", 1_500),
        ("赞同 1.2.3", None),
    ],
)
def test_zhihu_votes_are_parsed_from_the_button_label(label, votes):
    metadata = orjson.dumps({"question_id": 357137111.0, "upvotes": label}).decode()
    assert convert.zhihu_votes({"METADATA": metadata}) == votes


def test_zhihu_votes_are_unknown_without_a_label():
    assert convert.zhihu_votes({"METADATA": "{}"}) is None
    assert convert.zhihu_votes({}) is None


def test_belle_reads_every_release():
    # Defect 9: input was ignored; input/target and conversations raised KeyError.
    plain: dict[str, object] = {"instruction": "把数字加一。\n", "input": "", "output": "九"}
    assert pairs_of("belle", plain) == [("把数字加一。", "九")]
    assert pairs_of("belle", {**plain, "input": "八"}) == [("把数字加一。\n八", "九")]
    assert pairs_of("belle", {"input": "写摘要。\\n正文\\n ", "target": "摘\\n要"}) == [
        ("写摘要。\n正文\n ", "摘\n要")
    ]
    turns = [
        {"from": "human", "value": "推荐水果"},
        {"from": "assistant", "value": "苹果。"},
        {"from": "human", "value": "再来一个\n"},
        {"from": "assistant", "value": "梨。"},
    ]
    assert pairs_of("belle", {"id": "1", "conversations": turns}) == [
        ("推荐水果", "苹果。"),
        ("用户：推荐水果\n助手：苹果。\n用户：再来一个\n助手：", "梨。"),
    ]
    script = "Human:写文章。\nAssistant:好的\nHuman:打分。\nAssistant:"
    assert pairs_of("belle", {"instruction": script, "input": "", "output": "九分。"}) == [
        ("用户：写文章。\n助手：好的\n用户：打分。\n助手：", "九分。")
    ]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"instruction": "完成一段对话", "output": "\nAlice: 你好Bob\nBob: 你好\n"},
            "scripted_dialogue",
        ),
        ({"conversations": []}, "malformed_conversation"),
        ({"conversations": [{"from": "robot", "value": "好"}]}, "unknown_role"),
        ({"conversations": [{"from": "human", "text": "好"}]}, "malformed_conversation"),
        ({"conversations": "好"}, "malformed_conversation"),
        ({"conversations": [{"from": "human", "value": "好"}] * 202}, "conversation_too_long"),
        (
            {
                "conversations": [
                    {"from": "human", "value": "好" * 200_000},
                    {"from": "assistant", "value": "好"},
                ]
            },
            "conversation_too_long",
        ),
        (
            {"instruction": "Human:一\nHuman:二\nAssistant:", "output": "三"},
            "malformed_conversation",
        ),
        ({"instruction": "", "output": "三"}, "empty_prompt"),
        ({"instruction": "一", "output": None}, "empty_response"),
        ({}, "empty_prompt"),
    ],
)
def test_belle_records_that_give_no_pair_have_a_reason(fields, reason):
    assert pairs_of("belle", fields) == reason


def test_alpaca_adds_its_input_and_knows_what_stands_for_nothing():
    fields: dict[str, object] = {"instruction": "分类", "input": "苹果", "output": "水果"}
    assert pairs_of("alpaca_zh", fields) == [("分类\n苹果", "水果")]
    assert pairs_of("alpaca_zh", {**fields, "input": "<noinput>"}) == [("分类", "水果")]
    assert pairs_of("alpaca_zh", {**fields, "output": ""}) == "empty_response"
    assert pairs_of("alpaca_zh", {**fields, "output": "<nooutput>"}) == "no_output"
    assert pairs_of("alpaca_zh", {"text": "x"}) == "missing_field"


def test_pairs_take_the_usual_names_and_keep_their_own_source():
    assert SOURCES["pairs"].convert({"question": "一", "answer": "二", "source": "mine"}) == [
        Example("一", "二", "mine")
    ]
    assert SOURCES["pairs"].convert({"prompt": "一", "response": "二"}) == [
        Example("一", "二", "pairs")
    ]
    assert pairs_of("pairs", {"a": "一"}) == "missing_field"


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "pairs"])
def test_the_fixture_of_each_corpus_has_its_published_name_and_gives_pairs(name):
    source = SOURCES[name]
    files = files_of(source, FIXTURES)
    assert files, f"no fixture for {name}"
    for path in files:
        results = [
            source.convert(record.fields)
            for record in read(path, source.columns)
            if isinstance(record, Record)
        ]
        assert any(isinstance(found, list) for found in results), path


def test_files_come_sorted_and_subfolders_count(tmp_path):
    for name in ("b/wiki_01", "b/wiki_00", "a/wiki_07", "notes.md"):
        path = tmp_path / "zhwiki" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [path.name for path in files_of(SOURCES["zhwiki"], tmp_path)]
    assert found == ["wiki_07", "wiki_00", "wiki_01"]


def test_an_absent_folder_has_no_files_and_a_wrong_one_is_named(tmp_path):
    assert files_of(SOURCES["belle"], tmp_path) == []
    (tmp_path / "belle").mkdir()
    (tmp_path / "belle" / "data.json").touch()
    with pytest.raises(
        DataError, match=r"no file named Belle_open_source_\*\.json .* has data.json"
    ):
        files_of(SOURCES["belle"], tmp_path)
