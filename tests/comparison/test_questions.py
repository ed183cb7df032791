"""Which rows are asked: those that no tuning saw, whatever their order, each prompt once."""

import json
import random

import pytest

from chatlm.adapters import sequences
from chatlm.adapters.data import is_held_out
from chatlm.adapters.forms import Asked
from chatlm.comparison import questions
from chatlm.corpus.readers import read
from chatlm.errors import DataError
from tests import tiny_data

ROWS = [
    {"instruction": one.prompt, "input": "", "output": one.response}
    for one in tiny_data.examples(700)
]


def by_hash(_asked, ids):
    return is_held_out(ids)


def anything(_):
    return True


def written(path, rows):
    path.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    return path


def asked(path, form, fits=anything, holds=by_hash):
    return questions.held_out(path, form, holds, fits)


def test_exactly_the_held_out_prompts_are_asked(tmp_path, form):
    found = asked(written(tmp_path / "a.json", ROWS), form)
    prompts = form.prompt_ids([Asked(row["instruction"]) for row in ROWS])
    held = {row["instruction"] for row, ids in zip(ROWS, prompts, strict=True) if is_held_out(ids)}
    assert {one.text for one in found.questions} == held
    assert 3 <= len(held) <= 20
    assert (found.rows_in, found.held_out) == (700, len(held))
    assert found.left_out == {"not_held_out": 700 - len(held)}
    answers = {row["instruction"]: row["output"] for row in ROWS}
    for one in found.questions:
        assert one.references == [answers[one.text]]
        assert one.prompt_ids == form.prompt_ids([Asked(one.text)])[0]
        assert one.targets == [[*form.answer_ids(one.references)[0], *form.end_ids]]


def test_the_order_of_the_file_and_further_rows_change_nothing(tmp_path, form):
    plain = asked(written(tmp_path / "a.json", ROWS), form).questions
    shuffled = random.Random(3).sample(ROWS, len(ROWS))
    other = asked(written(tmp_path / "b.json", shuffled), form).questions
    assert other == plain
    part = asked(written(tmp_path / "c.json", ROWS[:500]), form).questions
    assert [one for one in plain if one in part] == part != plain
    few = questions.sample(asked(tmp_path / "a.json", form), 2)
    assert few == plain[:2]
    assert questions.sample(asked(tmp_path / "a.json", form), 0) == plain
    # The sample is none of the file's order.
    places = [ROWS.index(row) for one in plain for row in ROWS if row["instruction"] == one.text]
    assert places != sorted(places)


def test_one_prompt_with_many_answers_is_asked_once(tmp_path, form):
    first = asked(written(tmp_path / "a.json", ROWS), form).questions[0]
    more = [{"instruction": first.text, "output": text} for text in ("乙", "甲", "乙")]
    for rows in ([*ROWS, *more], [*more, *ROWS]):
        found = asked(written(tmp_path / "b.json", rows), form)
        same = [one for one in found.questions if one.text == first.text]
        assert [one.references for one in same] == [sorted(["乙", "甲", *first.references])]
        learnt = [[*ids, *form.end_ids] for ids in form.answer_ids(same[0].references)]
        assert same[0].targets == learnt
        assert found.left_out["same_prompt"] == 3


def test_rows_that_cannot_be_asked_are_counted_with_their_reason(tmp_path, form):
    rows = [*ROWS, {"instruction": "没有回答", "output": ""}, {"what": "is this"}]
    found = asked(written(tmp_path / "a.json", rows), form, fits=lambda one: len(one.text) < 12)
    assert found.rows_in == 702
    assert found.left_out["too_long"] > 0
    assert sum(found.left_out.values()) + len(found.questions) == 702
    assert all(len(one.text) < 12 for one in found.questions)


def test_a_token_folder_gives_the_rows_of_its_file(tmp_path, form):
    path = written(tmp_path / "a.json", ROWS)
    sequences.write(read(path), form, sequences.Limits(200, True), tmp_path / "ids", {})
    from_file = asked(path, form)
    from_ids = asked(tmp_path / "ids", form)
    for one, other in zip(from_file.questions, from_ids.questions, strict=True):
        assert one.text in other.text
        assert (one.prompt_ids, one.references, one.targets) == (
            other.prompt_ids,
            other.references,
            other.targets,
        )
    assert from_ids.left_out == from_file.left_out


@pytest.mark.parametrize("name", ["a.json", "nothing.json", "folder"])
def test_where_there_is_nothing_to_ask_one_line_says_so(tmp_path, form, name):
    written(tmp_path / "a.json", ROWS[:3])
    (tmp_path / "folder").mkdir()
    expected = {
        "a.json": r"no held-out row can be asked \(3 rows, not_held_out 3\)",
        "nothing.json": "does not exist: name a file of pairs",
        "folder": "is a folder, and none of utils.tokenize_dataset_rows",
    }
    with pytest.raises(DataError, match=expected[name]) as error:
        asked(tmp_path / name, form)
    assert "\n" not in str(error.value)


def test_own_questions_are_asked_in_their_order_without_references(tmp_path, form):
    path = tmp_path / "q.txt"
    path.write_text("第一问？\n\n  second one \n第一问？\n很长的问题" + "长" * 50, "utf-8")
    found = questions.plain(str(path), form, lambda one: len(one.text) < 20)
    assert [one.text for one in found.questions] == ["第一问？", "second one"]
    assert not found.has_references
    assert found.left_out == {"too_long": 1}
    path.write_text("\n", "utf-8")
    with pytest.raises(DataError, match="no question can be asked"):
        questions.plain(str(path), form, anything)
    with pytest.raises(DataError, match="cannot be read"):
        questions.plain(str(tmp_path / "none.txt"), form, anything)


def test_where_nothing_is_named_three_questions_of_each_language_are_asked(form):
    found = questions.plain("", form, anything)
    assert [one.text for one in found.questions] == list(questions.OWN)
    assert [one.text.isascii() for one in found.questions] == [False] * 3 + [True] * 3
