"""The predecessor's cleaning, defects and all, on rows and on columns."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlm.corpus import compat
from chatlm.corpus.compat_road import FIELDS, CompatRoad
from chatlm.corpus.raw_blocks import RowsBlock
from chatlm.corpus.records import Record, Rejected

ANSWER = "多晒太阳，少浇水，过两周就会好起来的"


@pytest.mark.parametrize(
    ("text", "collapsed"),
    [
        ("glass boss", "glasbos"),
        ("x == y && z", "x，y，z"),
        ("他说：“好！”就走了", "他说：好！就走了"),
        ("一  二\u3000三", "一，二，三"),
        ("第一段。\n第二段", "第一段。第二段"),
        ("C:\\temp", "C:temp"),
        ("甲\r\r乙", "甲\r\r乙"),
        ("", ""),
    ],
)
def test_spaces_become_commas_and_of_marks_the_first_stays(text: str, collapsed: str) -> None:
    assert compat.collapse(text) == collapsed


def test_the_dice_similarity_is_of_sets_of_characters() -> None:
    assert compat.dice("甲乙丙丁", "丁丙乙甲甲") == 1.0
    assert compat.dice("甲乙", "甲丙") == 0.5
    assert compat.dice("", "") == 0.0


def test_baike_glues_title_and_desc_unless_they_share_their_characters() -> None:
    fields = {"title": "花怎么养", "desc": "叶子黄了\r怎么办", "answer": f"{ANSWER}\r\r谢谢"}
    assert compat.baike_qa2019(fields) == ("花怎么养叶子黄了怎么办", f"{ANSWER}谢谢")
    same = {"title": "花怎么养", "desc": "怎么养花", "answer": ANSWER}
    assert compat.baike_qa2019(same) == ("花怎么养", ANSWER)
    assert compat.baike_qa2019({**same, "answer": "少浇水"}) is None


def test_webtext_wants_five_stars_and_fifteen_characters() -> None:
    fields = {"title": "花 怎么养", "content": ANSWER, "star": 5}
    assert compat.webtext2019zh(fields) == ("花，怎么养", ANSWER)
    assert compat.webtext2019zh({**fields, "star": 4}) is None
    assert compat.webtext2019zh({**fields, "content": ANSWER[:14]}) is None


def test_medical_lines_are_cut_at_commas_after_a_repair_that_leaves_none_in_fields() -> None:
    row = ["内科", "头疼, 两天", "无", "多休息\n少看手机,早点睡觉就会好很多"]
    repaired = compat.repair_row(row)
    assert repaired == ["内科", "头疼， 两天", "无", "多休息\\n少看手机，早点睡觉就会好很多"]
    assert compat.medical(",".join(repaired) + "\n") == (
        "头疼，两天无",
        "多休息\\n少看手机，早点睡觉就会好很多\n",
    )
    assert compat.medical("a,b,c") is None


def test_finance_always_takes_the_question_where_it_is_like_the_title() -> None:
    line = "基金定投好不好呢,呢好不好定投基金,一般来说长期坚持的话收益会比较平稳,1\n"
    assert compat.finance(line) is None  # Nine characters: too short, as each side alone.
    line = f"这个基金现在定投好不好呢,,{ANSWER},1\n"
    assert compat.finance(line) == ("这个基金现在定投好不好呢", ANSWER)


def test_zhihu_and_belle_have_their_own_thresholds() -> None:
    fields = {"INSTRUCTION": "如何看云？", "RESPONSE": "抬头。 就能 看见很多"}
    assert compat.zhihu_kol(fields) == ("如何看云？", "抬头。就能，看见很多")
    task = {"instruction": "写一句话", "output": ANSWER}
    assert compat.belle(task) == ("写一句话", ANSWER)
    assert compat.belle({**task, "instruction": "翻译这句话"}) is None
    assert compat.belle({**task, "output": f"{ANSWER}\n-----"}) is None
    assert compat.belle_finetune({**task, "instruction": "中译英"}) is None
    assert compat.belle_finetune({"instruction": "写", "output": "好  吧"}) == ("写", "好  吧")
    assert compat.belle_finetune({"instruction": "写", "output": "好" * 321}) is None


def test_wiki_lines_lose_their_points() -> None:
    assert compat.wiki_line("圆周率约为3.14(，近似)，「派」") == '圆周率约为3。14（近似）派"'


ROWS = st.fixed_dictionaries(
    {
        "title": st.text("花怎么养s\\ \u3000\r\n。，!?a", max_size=12),
        "desc": st.text("花怎么养s\\ \u3000\r\n。，!?a", max_size=12),
        "answer": st.text("花𠮷怎é么养s\\ \u3000\r\n。，!?a", max_size=40),
        "star": st.integers(3, 7),
    }
).map(lambda row: {**row, "content": row["answer"]})


@settings(max_examples=2000 if os.environ.get("CHATLM_TORTURE") else 60, deadline=None)
@given(st.lists(ROWS, max_size=12), st.sampled_from(sorted(FIELDS)))
def test_columns_give_what_rows_give(rows: list[dict[str, object]], source: str) -> None:
    records: list[Record | Rejected] = [Record(n + 1, row) for n, row in enumerate(rows)]
    cleaned = [compat.CLEANERS[source](row) for row in rows]
    # A record that is no row of the columns comes with the others, and first by its position.
    records.append(Record(0, {**rows[0], "star": 1 << 64}) if rows else Rejected("f", 0, "x"))
    road = CompatRoad(source)
    done = road.clean_block(RowsBlock.of(records, *road.fields), "f")
    first = [compat.CLEANERS[source]({**rows[0], "star": 1 << 64})] if rows else []
    wanted = [pair for pair in first + cleaned if pair is not None]
    assert list(zip(done.prompt, done.response, strict=True)) == wanted
    assert done.counts.rows_in == len(records) == done.counts.kept + done.counts.dropped.total()


_FOREIGN = """
import json, sys, types
for name in ("matplotlib", "matplotlib.pyplot", "utils.functions", "logger", "opencc"):
    module = sys.modules[name] = types.ModuleType(name)
    module.pyplot = module.get_path_of_suffix_files = module.DropDatasetDuplicate = module
    module.OpenCC = module
sys.modules["logger"].Logger = lambda *a, **k: None
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/utils"]
from utils import raw_data_process as original
done = [[original.remove_duplicate_punctuation(a), original.get_sentences_dice_similarity(a, b),
         original.convert_en_punctuation_to_zh_punct(a)] for a, b in json.load(sys.stdin)]
print(json.dumps([sorted(original.punctuation), done]))
"""


@pytest.mark.skipif("CHATLM_ORIGINAL" not in os.environ, reason="no checkout of Chat-LM-small")
def test_the_functions_are_those_of_the_original() -> None:
    """CHATLM_ORIGINAL names its checkout, CHATLM_ORIGINAL_PYTHON a Python that can import it."""
    folder = os.environ["CHATLM_ORIGINAL"]
    python = os.environ.get("CHATLM_ORIGINAL_PYTHON", sys.executable)
    marks = "".join(sorted(compat.PUNCTUATION))
    texts = [f"a{one}{two}b {one} \u3000{two}字" for one in marks for two in marks]
    pairs = list(zip(texts, reversed(texts), strict=True))
    command = [python, "-c", _FOREIGN, folder]
    asked = json.dumps(pairs)
    found = subprocess.run(command, input=asked, capture_output=True, text=True, cwd=folder)
    assert found.returncode == 0, found.stderr
    punctuation, done = json.loads(found.stdout)
    assert punctuation == sorted(compat.PUNCTUATION)
    for (one, other), (collapsed, similarity, chinese) in zip(pairs, done, strict=True):
        assert compat.collapse(one) == collapsed
        assert compat.dice(one, other) == similarity
        assert one.translate(compat._CHINESE_MARKS) == chinese
