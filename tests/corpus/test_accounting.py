"""Whatever is in a file, each of its records is kept or dropped with a reason, exactly once.

The default number of files takes seconds; CHATLM_TORTURE=1 makes 2,000.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatlm.corpus import clean_stage
from chatlm.corpus.clean_stage import open_clean
from chatlm.corpus.reasons import REASONS
from chatlm.corpus.shards import read_rejects
from chatlm.corpus.sources import SOURCES
from chatlm.corpus.tasks import Engine
from chatlm.corpus.verify import verify
from chatlm.errors import DataError
from utils.raw_data_process import POLICY

NUM_FILES = 2000 if os.environ.get("CHATLM_TORTURE") == "1" else 60

texts = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["怎样泡茶？", "先烧水，再放茶叶，等三分钟就好了。", "谢邀。", "无", "", "<br>", "加微信"]
    ),
    st.builds(
        lambda text, times: text * times,
        st.sampled_from(["好。", "\r\r", "a ", "，"]),
        st.integers(1, 400),
    ),
)
values = st.one_of(texts, st.none(), st.integers(), st.floats(), st.lists(texts, max_size=3))
names = st.sampled_from(
    ["title", "desc", "content", "answer", "star", "instruction", "input", "output", "target"]
)
turns = st.lists(
    st.fixed_dictionaries({"from": st.sampled_from(["human", "assistant", "x"]), "value": values}),
    max_size=6,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": values}
    ),
    max_size=6,
)
records = st.one_of(
    st.dictionaries(names, values, max_size=6),
    st.fixed_dictionaries({"title": texts, "desc": texts, "content": texts, "star": values}),
    st.fixed_dictionaries({"title": texts, "desc": texts, "answer": texts}),
    st.fixed_dictionaries({"instruction": texts, "input": texts, "output": texts}),
    st.fixed_dictionaries({"conversations": turns}),
    st.fixed_dictionaries({"messages": messages}),
)


def line_of(record: Mapping[str, object]) -> bytes:
    """Returns a JSON line; lone surrogates as escapes, which strict readers refuse."""
    try:
        return orjson.dumps(record)
    except TypeError:
        return str(record).encode("utf-8", "surrogatepass")


lines = st.one_of(records.map(line_of), st.binary(max_size=30).filter(lambda raw: b"\n" not in raw))
FILES = {
    "webtext2019zh": "web_text_zh_train.json",
    "baike_qa2019": "baike_qa_train.json",
    "belle": "train_2M_CN.json",
    "pairs": "x.jsonl",
}


@settings(
    max_examples=NUM_FILES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(source=st.sampled_from(sorted(FILES)), content=st.lists(lines, min_size=1, max_size=30))
def test_every_record_is_kept_or_dropped_exactly_once(source, content):
    with TemporaryDirectory() as folder:
        data = Path(folder)
        path = data / "raw" / source / FILES[source]
        path.parent.mkdir(parents=True)
        good = orjson.dumps(
            {
                "title": "怎样泡茶？",
                "desc": "",
                "content": "先烧水，再放茶叶，等着。",
                "star": 9,
                "answer": "先烧水，再放茶叶。",
                "prompt": "怎样泡茶？",
                "instruction": "怎样泡茶？",
                "output": "先烧水。",
                "response": "先烧水。",
            }
        )
        path.write_bytes(b"\n".join([good, *content, good]))
        counts = clean_stage.clean(
            SOURCES[source], [path], POLICY[source], data / "clean", Engine()
        )
        assert counts.rows_in == counts.kept + counts.dropped.total()
        assert counts.rows_in >= 2 + sum(bool(line.strip()) for line in content)
        assert set(counts.dropped) <= set(REASONS)
        corpus = open_clean(data / "clean", source)
        for rejects in corpus.rejects:
            assert all(line["reason"] in REASONS for line in read_rejects(rejects))
        assert verify(data / "clean", data / "out", Engine()).problems == []


def test_a_file_without_one_usable_row_is_an_error_that_counts(tmp_path):
    path = tmp_path / "raw" / "belle" / FILES["belle"]
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"instruction": ""}\nnot json\n')
    with pytest.raises(DataError, match=r"not one of 2 rows.*1 malformed_json"):
        clean_stage.clean(SOURCES["belle"], [path], POLICY["belle"], tmp_path / "clean", Engine())
