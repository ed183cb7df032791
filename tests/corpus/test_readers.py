"""Readers: exact places, one reason for each bad place, one line for each hopeless file."""

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatlm.corpus import read_json, readers
from chatlm.corpus.read_table import encoding_of, read_csv
from chatlm.corpus.records import Record, Rejected
from chatlm.errors import DataError


def read(path: Path) -> list[Record | Rejected]:
    return list(readers.read(path))


def good(found: Iterable[Record | Rejected]) -> list[Record]:
    return [one for one in found if isinstance(one, Record)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_jsonl_names_the_line_and_the_reason_of_every_bad_line(tmp_path):
    lines = [
        b'\xef\xbb\xbf{"a": "\xe4\xb8\x80"}',
        b"",
        b'{"a": "\xff\xfe"}',
        b'{"a": "\\ud800"}',
        b'{"a": NaN}',
        b'{"a": 1}{"a": 2}',
        b"[1, 2]",
        b'{"a":' * 70 + b"1" + b"}" * 70,
        b'{"a": "line\xe2\x80\xa8separator\\u0085"}\r',
        b'{"a": "never ends',
    ]
    found = read(write(tmp_path / "x.jsonl", b"\n".join(lines)))
    assert [(one.position, getattr(one, "reason", "record")) for one in found] == [
        (1, "record"),
        (3, "invalid_utf8"),
        (4, "lone_surrogate"),
        (5, "malformed_json"),
        (6, "malformed_json"),
        (7, "not_an_object"),
        (8, "too_deep"),
        (9, "record"),
        (10, "malformed_json"),
    ]
    assert good(found)[0].fields == {"a": "一"}
    assert good(found)[1].fields == {"a": "line\u2028separator\x85"}


def test_brackets_inside_strings_are_no_nesting(tmp_path):
    line = json.dumps({"a": '"[{' * 100 + "\\"})
    assert isinstance(read(write(tmp_path / "x.json", line))[0], Record)


def test_a_line_too_long_for_memory_is_skipped_and_the_next_line_keeps_its_number(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(read_json, "MAX_LINE_BYTES", 100)
    path = write(tmp_path / "x.jsonl", '{"a": "' + "字" * 500 + '"}\n{"a": 1}\n')
    assert [(one.position, getattr(one, "reason", "record")) for one in read(path)] == [
        (1, "line_too_long"),
        (2, "record"),
    ]


def test_json_array_gives_its_objects_and_rejects_the_rest(tmp_path):
    path = write(tmp_path / "x.json", '\ufeff [\n{"a": 1},\n7,\n{"a": 2}]')
    assert [(one.position, getattr(one, "reason", "record")) for one in read(path)] == [
        (1, "record"),
        (2, "not_an_object"),
        (3, "record"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.json", b'[{"a": 1}, {"a": ', "cut.json: not a complete JSON array"),
        ("empty.json", b"  \n", "empty.json: is empty"),
        ("wide.json", '{"a": 1}'.encode("utf-16"), "wide.json: is UTF-16"),
        ("cut.parquet", b"PAR1\x15\x04", "cut.parquet: not a complete parquet file"),
        ("empty.csv", b"", "empty.csv: is empty"),
        ("notes.txt", b"hello", "notes.txt: unknown format"),
    ],
)
def test_a_hopeless_file_is_one_line_that_names_it(tmp_path, name, content, message):
    with pytest.raises(DataError) as error:
        read(write(tmp_path / name, content))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cut_array_names_the_place(tmp_path):
    with pytest.raises(DataError, match=r"at line 2, column \d+"):
        read(write(tmp_path / "x.json", '[{"a": 1},\n{"a": "b'))


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "none.json")


CSV = (
    'department,title,ask,answer\n内科,"头疼，怎么办",无,"第一行\n第二行，他说""好"""\n'
    "内科,标题,问题,－－答\n"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_csv_survives_quotes_line_breaks_and_both_encodings(tmp_path, encoding):
    path = write(tmp_path / "x.csv", CSV.encode(encoding))
    found = good(read_csv(path, (("ask", "question"),)))
    assert [one.position for one in found] == [2, 4]
    assert found[0].fields["title"] == "头疼，怎么办"
    assert found[0].fields["answer"] == '第一行\n第二行，他说"好"'


def test_gb18030_loses_no_character_that_gb2312_lacks(tmp_path):
    # Read as GB2312 with errors ignored, 増 vanishes and the dashes leave stray ASCII bytes.
    text = "title,ask,answer\n回音増粗,8――9HZ,25—30克 13·2 镕喆\n"
    (record,) = good(read_csv(write(tmp_path / "x.csv", text.encode("gb18030"))))
    assert list(record.fields.values()) == ["回音増粗", "8――9HZ", "25—30克 13·2 镕喆"]


def test_ragged_and_undecodable_rows_are_rejected_with_their_first_line(tmp_path):
    content = "a,b\n一,二\n一\n一,二,三\n".encode("gb18030") + b'\xc4\xe3,\xff\xff\n"x\n'
    found = list(read_csv(write(tmp_path / "x.csv", content)))
    assert [(one.position, getattr(one, "reason", "record")) for one in found] == [
        (2, "record"),
        (3, "ragged_row"),
        (4, "ragged_row"),
        (5, "undecodable_bytes"),
        (6, "unclosed_quote"),
    ]


def test_an_unclosed_quote_is_named_and_does_not_become_an_answer(tmp_path):
    rows = "".join(f"标题{number},答{number}\n" for number in range(5000))
    found = list(read_csv(write(tmp_path / "x.csv", f'a,b\n一,"二\n{rows}')))
    assert isinstance(found[0], Rejected)
    assert (found[0].position, found[0].reason) == (2, "unclosed_quote")


def test_one_bad_byte_does_not_turn_a_utf8_file_into_rubbish(tmp_path):
    content = ("a\n" + "好\n" * 300).encode() + b"\xff\n" + "好\n".encode()
    path = write(tmp_path / "x.csv", content)
    assert encoding_of(path) == "utf-8-sig"
    reasons = [one.reason for one in read_csv(path) if isinstance(one, Rejected)]
    assert reasons == ["undecodable_bytes"]


def test_a_table_without_its_columns_names_what_it_has(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"question": ["一"], "note": ["二"]}), path)
    with pytest.raises(
        DataError, match="no column response or answer; the file has question, note"
    ):
        list(readers.read(path, (("prompt", "question"), ("response", "answer"))))


def test_a_parquet_file_of_any_codec_and_string_width_is_read(tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"prompt": pa.array(["一", None], pa.large_string())})
    pq.write_table(table, path, compression="gzip")
    assert [(one.position, one.fields["prompt"]) for one in good(readers.read(path))] == [
        (1, "一"),
        (2, None),
    ]


def test_a_parquet_file_with_a_flipped_byte_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"prompt": ["一二三四五六七八九十"] * 50})
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, path, write_page_checksum=True, **plain)
    content = bytearray(path.read_bytes())
    content[content.find("七".encode())] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged after row 0"):
        list(readers.read(path))


APERTIUM = """
经济学:
经济学研究选择。
它分为两支：
微观经济学.微观研究个体。

算法:
算法是步骤，例如:
求和、排序。

比例 1:2 之后:
仍是正文。

空条目:
"""


def test_apertium_titles_come_after_a_blank_line_and_end_in_their_only_colon(tmp_path):
    found = good(read(write(tmp_path / "wiki.txt", APERTIUM)))
    assert [(one.position, one.fields["title"]) for one in found] == [
        (2, "经济学"),
        (7, "算法"),
        (14, "空条目"),
    ]
    # A content line that ends in a colon is content.
    assert found[0].fields["text"] == "经济学研究选择。\n它分为两支：\n微观经济学.微观研究个体。"
    assert "例如:\n求和" in str(found[1].fields["text"])
    assert "比例 1:2 之后:" in str(found[1].fields["text"])
    assert found[2].fields["text"] == ""


ATTARDI = """<doc id="1" url="u" title="A "B" C">
A "B" C

if a &lt; b: "x" </doc> inside
第二段

</doc>
<doc id="2" url="u" title="断了">
断了

"""


def test_attardi_docs_keep_bare_quotes_and_an_open_one_is_rejected(tmp_path):
    record, rejected = read(write(tmp_path / "wiki_00", ATTARDI))
    assert isinstance(record, Record)
    assert record.fields == {"title": 'A "B" C', "text": 'if a &lt; b: "x" </doc> inside\n第二段'}
    assert isinstance(rejected, Rejected)
    assert (rejected.position, rejected.reason) == (8, "article_not_closed")
