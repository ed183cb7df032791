"""Rows that repeat a question of an evaluation set, or of another part."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm.corpus.conversation import render
from chatlm.corpus.duplicates.decide import DuplicateSettings, decide
from chatlm.corpus.duplicates.evaluation import read_questions
from chatlm.corpus.duplicates.overlap import overlapping
from chatlm.corpus.duplicates.questions import QuestionIndex
from chatlm.corpus.duplicates.signing import sign
from chatlm.corpus.example import Example
from chatlm.corpus.kernels.texts import Texts
from chatlm.corpus.keys import folded, prose_key
from chatlm.corpus.store import PairWriter
from chatlm.corpus.tasks import Engine
from chatlm.errors import DataError
from tests.corpus.duplicates.reference import column, jaccard, write_shards

RIVER = "下列关于河水结冰与气温之间关系的说法，正确的一项是"
HALL = "，另外请说明老庙大殿前面那棵树有多少年了，以及"
CEVAL = (
    "id,question,A,B,C,D,answer,explanation\n"
    f'0,"{RIVER}____。",冷,热,都对,都不对,A,"第一行\n第二行"\n'
    '1,桥有几座？,1,2,3,4,B,""\n'
)
CMMLU = ",Question,A,B,C,D,Answer\n0,庙里的老和尚一共给小和尚讲过多少个从前的故事？,1,2,3,4,C\n"
SURE = DuplicateSettings(question_bands=32, question_band_rows=3)


def sets_in(folder):
    folder.mkdir()
    (folder / "ceval.csv").write_text(CEVAL, encoding="utf-8-sig")
    (folder / "cmmlu").mkdir()
    (folder / "cmmlu" / "temple.csv").write_text(CMMLU, encoding="utf-8")
    (folder / "more.jsonl").write_text(
        '{"prompt": "孩子们夏天在河里做什么？"}\n\n{"prompt": " "}\n{"question": "b−v色指数"}\n',
        encoding="utf-8",
    )
    pq.write_table(pa.table({"question": ["洗菜用哪里的水？"]}), folder / "rows.parquet")
    return folder


def test_rows_that_repeat_a_question_are_dropped_with_its_file_and_line(tmp_path):
    folder = sets_in(tmp_path / "eval")
    rows = [
        ("桥有几座", "一座。"),
        (f"请回答：{RIVER}？A. 冷 B. 热", "A"),
        ("老和尚一共给小和尚讲过多少个从前的故事", "三个。"),
        (render([("孩子们夏天在河里做什么", "游泳。")], "冬天呢？"), "滑冰。"),
        ("洗菜用河里的水吗？", "用。"),
        ("u−b色指数", "不知道。"),
        ("桥有几座？我想知道", "一座。"),
        ("桥有几座", "一座。"),
    ]
    chosen = DuplicateSettings(eval_dir=str(folder))
    decided = decide(write_shards(tmp_path, [("a", rows)]), tmp_path / "work", Engine(), chosen)
    assert decided.kept().tolist() == [False] * 4 + [True] * 3 + [False]
    assert decided.dropped == {"in_evaluation_set": 5}
    places = [decided.questions[number] for number in column(decided, "of") if number >= 0]
    assert [(place[0].removeprefix(f"{folder}/"), place[1]) for place in places] == [
        ("ceval.csv", 4),
        ("ceval.csv", 2),
        ("cmmlu/temple.csv", 2),
        ("more.jsonl", 1),
        ("ceval.csv", 4),
    ]


def test_questions_have_the_line_on_which_they_begin(tmp_path):
    folder = sets_in(tmp_path / "eval")
    assert [line for line, _ in read_questions(folder / "ceval.csv")] == [2, 4]
    assert list(read_questions(folder / "more.jsonl"))[1] == (4, "b−v色指数")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "id,text\n0,问\n", r"a\.csv:2: no text in any of question"),
        ("a.csv", 'id,question\n0,"问\n', r"a\.csv: not a readable evaluation set"),
        ("a.jsonl", "[1]\n", r"a\.jsonl:1: no text"),
        ("a.jsonl", '{"question": 3}\n', r"a\.jsonl:1: no text"),
        ("a.jsonl", "{\n", r"a\.jsonl: not a readable"),
        ("a.parquet", "PAR1", r"a\.parquet: not a readable"),
        ("a.txt", "问", r"no evaluation sets; expected \.csv"),
    ],
)
def test_a_set_that_cannot_be_read_is_named(tmp_path, name, content, message):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / name).write_text(content, encoding="utf-8")
    shards = write_shards(tmp_path, [("a", [("问", "答")])])
    chosen = DuplicateSettings(eval_dir=str(tmp_path / "eval"))
    with pytest.raises(DataError, match=message):
        decide(shards, tmp_path / "work", Engine(), chosen)


def repeats(prompt: str, question: str) -> bool:
    """What `QuestionIndex` says of prompts that are no conversations, in plain words."""
    own, known = folded(prompt), folded(question)
    short, long = sorted((own, known), key=len)
    return (
        prose_key(prompt) == prose_key(question)
        or jaccard(own, known) >= 0.85
        or (len(short) >= 13 and short in long)
    )


PARTS = st.lists(st.sampled_from(["山水田人", "Ab3", "桥", "庙里", "，", "7.5"]), max_size=9)
TEXTS = PARTS.map("".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=5), st.lists(TEXTS, min_size=1, max_size=5))
def test_hits_are_those_of_a_comparison_with_every_question(prompts, questions):
    rows = sign(Texts.from_strings(prompts), Texts.from_strings([""] * len(prompts)), SURE)
    hits = QuestionIndex.of(questions, SURE).repeated_by(rows)
    for prompt, hit in zip(prompts, hits.tolist(), strict=True):
        expected = [n for n, question in enumerate(questions) if repeats(prompt, question)]
        assert hit == (expected[0] if expected else -1)


def test_no_questions_hit_nothing():
    rows = sign(Texts.from_strings(["问"]), Texts.from_strings(["答"]), SURE)
    assert QuestionIndex.of([], SURE).repeated_by(rows).tolist() == [-1]
    nothing = sign(Texts.from_strings([]), Texts.from_strings([]), SURE)
    assert np.array_equal(QuestionIndex.of(["问"], SURE).repeated_by(nothing), [])


def test_parts_that_overlap_are_found_out(tmp_path):
    train = ["桥有几座", RIVER, "洗菜用河水吗", RIVER + HALL + "哪个选项"]
    test = ["庙在哪里", RIVER + HALL + "哪一个选项？", "桥有几座？"]
    for name, prompts in (("train", train), ("test", test)):
        with PairWriter(tmp_path / f"{name}.parquet") as writer:
            writer.write([Example(prompt, "答", "a") for prompt in prompts])
    found = overlapping(tmp_path / "train.parquet", tmp_path / "test.parquet")
    assert found == [(0, 2), (3, 1)]
    with pytest.raises(DataError):
        overlapping(tmp_path / "train.parquet", tmp_path / "none.parquet")
