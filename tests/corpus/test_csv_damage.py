"""Damaged CSV: what is hurt is named, what is not is kept, and nothing is kept that is wrong."""

import csv
import io
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.corpus.read_csv import read_csv
from chatlm.corpus.records import Record, Rejected
from chatlm.errors import DataError

TORTURE = bool(os.environ.get("CHATLM_TORTURE"))
HEADER = ["department", "title", "ask", "answer"]
DEPARTMENTS = ["内科", "外科", "儿科", "妇产科"]
TITLES = [f"题{number}" for number in range(10_000)]
WORDS = [
    "头疼",
    "三天了",
    "多喝水",
    "，",
    "。",
    "按时吃药",
    "不要担心",
    "25—30克",
    "回音増粗",
    " ",
    "ok",
]


def made_rows(rng: random.Random, count: int, first: list[str] = DEPARTMENTS) -> list[list[str]]:
    """Records of which many have line breaks, commas and quotes in them, each one different.

    No text begins with a comma: the quote before it could as well close a field as open one. Where
    the first column does not tell records from other lines, lines of answers have no commas.
    """

    comma = [","] if first is DEPARTMENTS else []

    def text(length: int, marks: list[str]) -> str:
        return rng.choice(WORDS) + "".join(
            rng.choice(WORDS + marks) for _ in range(rng.randint(2, length))
        )

    return [
        [
            rng.choice(first),
            f"{text(6, [])}{number}",
            rng.choice(["无", text(8, [","])]),
            text(20, rng.choice([[], [], [",", '"'], ["\n", *comma], ["\n", '"', "\n\n"]])) + "好",
        ]
        for number in range(count)
    ]


def as_lines(rows: list[list[str]]) -> list[str]:
    """Each record as text, perhaps of several lines."""
    file = io.StringIO()
    texts = list[str]()
    for row in rows:
        csv.writer(file, lineterminator="\n").writerow(row)
        texts.append(file.getvalue())
        file.seek(0)
        file.truncate()
    return texts


def read(path: Path, content: bytes, notes: Counter[str] | None = None):
    path.write_bytes(content)
    found = list(read_csv(path, [(name,) for name in HEADER], notes))
    kept = [list(one.fields.values()) for one in found if isinstance(one, Record)]
    return kept, [one for one in found if isinstance(one, Rejected)]


def places(rejected: list[Rejected]) -> list[tuple[int, str]]:
    return [(one.position, one.reason) for one in rejected]


FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\ufffd"))


@given(
    rows=st.lists(st.lists(FIELD, min_size=2, max_size=2).filter(any), min_size=1),
    encoding=st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_what_the_csv_module_writes_comes_back(tmp_path_factory, rows, encoding):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    path.write_bytes("".join(as_lines([["a\u4e00", "b"], *rows])).encode(encoding))
    expected = [("repeated_header", 0) if row == ["a\u4e00", "b"] else row for row in rows]
    found = [
        list(one.fields.values()) if isinstance(one, Record) else (one.reason, 0)
        for one in read_csv(path)
    ]
    assert found == expected


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_records_are_named_by_the_line_on_which_they_begin(tmp_path, encoding):
    rows = made_rows(random.Random(1), 300)
    texts = as_lines([HEADER, *rows])
    path = tmp_path / "x.csv"
    path.write_bytes("".join(texts).encode(encoding))
    starts = [1 + sum(text.count("\n") for text in texts[:number]) for number in range(1, 301)]
    assert [one.position for one in read_csv(path)] == starts


def unclosed(rng: random.Random, text: str) -> str | None:
    """The text of a record with one quote more at the start of a field, or one less at an end."""
    if rng.random() < 0.5:
        starts = [0, *(place + 1 for place, char in enumerate(text) if char == ",")]
        place = rng.choice(starts if '"' not in text else [0])
        return None if text[place] == '"' else f'{text[:place]}"{text[place:]}'
    ends = [place for place, char in enumerate(text) if char == '"' and text[place + 1] in ",\n"]
    ends = [place for place in ends if text[place - 1] != '"']
    if not ends:
        return None
    place = rng.choice(ends[-1:])
    return text[:place] + text[place + 1 :]


@pytest.mark.parametrize("first", [DEPARTMENTS, TITLES], ids=["departments", "titles"])
def test_an_unclosed_quote_costs_one_record(tmp_path, first):
    # The csv module loses all rows that follow.
    rng, reasons = random.Random(5), Counter[str]()
    for number in range(400 if TORTURE else 60):
        rows = made_rows(rng, 200, first)
        texts = as_lines([HEADER, *rows])
        hurt, text = 0, None
        while text is None:
            hurt = rng.randrange(1, 201)
            text = unclosed(rng, texts[hurt])
        line = 1 + sum(text.count("\n") for text in texts[:hurt])
        texts[hurt] = text
        encoding = ("utf-8", "gb18030")[number % 2]
        kept, rejected = read(tmp_path / "x.csv", "".join(texts).encode(encoding))
        assert kept == [row for place, row in enumerate(rows, start=1) if place != hurt], text
        assert rejected[0].position == line
        reasons[rejected[0].reason] += 1
        assert all(one.position < line + text.count("\n") for one in rejected)
    # Now and then a later quote of the same line closes the field, and a comma is missing.
    assert reasons["unclosed_quote"] > 9 * reasons["ragged_row"]
    assert set(reasons) <= {"unclosed_quote", "ragged_row"}


def test_an_unclosed_quote_does_not_swallow_records_that_a_later_quote_seems_to_close(tmp_path):
    # A field that begins with a line break has its opening quote where a closing one could be.
    plain = "".join(f"内科,题{number},无,答案\n" for number in range(20))
    text = f'{plain}外科,甲,无,"乙\n内科,丙,无,丁\n内科,戊,无,"\n己"\n{plain}'
    kept, rejected = read(tmp_path / "x.csv", f"{','.join(HEADER)}\n{text}".encode())
    assert places(rejected) == [(22, "unclosed_quote")]
    assert len(kept) == 42
    assert kept[21] == ["内科", "戊", "无", "\n己"]


def test_the_rest_of_a_broken_record_is_not_taken_for_records(tmp_path):
    plain = "".join(f"内科,题{number},无,答案\n" for number in range(20))
    # The second line of the answer happens to have as many commas as a record.
    text = f'{plain}内科,甲,无,"乙 "和"\n一,二,三,四\n五"\n{plain}'
    kept, rejected = read(tmp_path / "x.csv", f"{','.join(HEADER)}\n{text}".encode())
    assert len(kept) == 40
    assert [reason for _, reason in places(rejected)] == [
        "unclosed_quote",
        "unclosed_quote",
        "unclosed_quote",
    ]


def test_many_unclosed_quotes_take_no_longer_than_their_lines(tmp_path):
    # Each of the lines opens a quote; looking ahead from each to the end would take hours.
    text = "".join(f'内科,甲{number},无,"乙\n{"丙,丁" * 9}\n' for number in range(20_000))
    kept, rejected = read(tmp_path / "x.csv", f"{','.join(HEADER)}\n{text}".encode())
    assert not kept
    assert Counter(reason for _, reason in places(rejected)) == {
        "unclosed_quote": 20_000,
        "ragged_row": 20_000,
    }


def hurt_bytes(rng: random.Random, text: str, encoding: str) -> bytes:
    """The bytes of a record, damaged in one of the ways that happen to Chinese text."""
    raw, other = text.encode(encoding), ("gb18030" if encoding == "utf-8" else "utf-8")
    kind = rng.randrange(6)
    if kind == 0:
        return text.encode(other)
    if kind == 1:
        cut = rng.randrange(text.index(",") + 1, text.rindex(",") - 6)
        return text[:cut].encode(encoding) + text[cut:].encode(other)
    wide = [place for place, char in enumerate(text) if "一" <= char <= "龥"]
    place = len(text[: rng.choice(wide)].encode(encoding))
    if kind == 2:
        return raw[:place] + rng.choice([b"\xff", b"\xfe\xff"]) + raw[place:]
    if kind == 3:
        return raw[:place] + b"\x00" + raw[place:]
    ends = [place for place, char in enumerate(text) if char == "," and text[place - 1] in "无题"]
    end = len(text[: ends[0]].encode(encoding)) if ends else len("内".encode(encoding))
    # Half a character before a comma, or in the middle of a word.
    return raw[: end - 1] + raw[end:] if kind == 4 else raw[:end] + b"\xe4" + raw[end:]


@pytest.mark.parametrize("encoding", ["gb18030", "utf-8"])
def test_hurt_bytes_are_flagged_and_no_character_is_lost_in_silence(tmp_path, encoding):
    # A row is what it was, or it is rejected; what was decoded otherwise is counted.
    rng = random.Random(7)
    rows = [
        [*row[:1], f"{row[1]}怎么办呢题", "无", row[3].replace('"', "").replace("\n", "")]
        for row in made_rows(rng, 10_000 if TORTURE else 3_000)
    ]
    texts = as_lines([HEADER, *rows])
    hurt = set(rng.sample(range(1, len(texts)), len(rows) // 100))
    content = b"".join(
        hurt_bytes(rng, text, encoding) if number in hurt else text.encode(encoding)
        for number, text in enumerate(texts)
    )
    notes = Counter[str]()
    kept, rejected = read(tmp_path / "x.csv", content, notes)
    flagged = {one.position - 1 for one in rejected}
    assert flagged <= hurt
    assert kept == [row for number, row in enumerate(rows, start=1) if number not in flagged]
    decoded = notes["decoded_as_utf8"] + notes["decoded_as_gb18030"]
    assert decoded == len(hurt) - len(flagged) > 0
    assert {one.reason for one in rejected} <= {
        "undecodable_bytes",
        "mixed_encoding",
        "nul_byte",
        "ragged_row",
    }


def test_a_file_of_two_halves_in_two_encodings_is_read_whole(tmp_path):
    rows = made_rows(random.Random(9), 400)
    texts = as_lines([HEADER, *rows])
    for first, second in (("utf-8", "gb18030"), ("gb18030", "utf-8")):
        content = "".join(texts[:200]).encode(first) + "".join(texts[200:]).encode(second)
        notes = Counter[str]()
        kept, rejected = read(tmp_path / "x.csv", content, notes)
        assert (len(kept), rejected) == (400, [])
        assert kept == rows
        assert 190 < notes.total() <= 201


def test_bytes_that_could_be_either_are_refused_only_where_there_are_both(tmp_path):
    # é in UTF-8 is 茅 in GB18030.
    pure = "a,b\n好,好\né,é\n".encode()
    assert read_all(tmp_path, pure)[0] == [["好", "好"], ["é", "é"]]
    both = ("a,b\n" + "好,好\n" * 60 + "é,é\n").encode() + "你好你好,不是这样\n".encode("gb18030")
    kept, rejected = read_all(tmp_path, both)
    assert kept == [["好", "好"]] * 60 + [["你好你好", "不是这样"]]
    assert places(rejected) == [(62, "mixed_encoding")]


def read_all(folder: Path, content: bytes):
    (folder / "x.csv").write_bytes(content)
    found = list(read_csv(folder / "x.csv"))
    kept = [list(one.fields.values()) for one in found if isinstance(one, Record)]
    return kept, [one for one in found if isinstance(one, Rejected)]


@pytest.mark.parametrize(
    ("content", "kept", "rejected"),
    [
        (b"a,b\r1,2\r\r3,4", [["1", "2"], ["3", "4"]], []),
        (b'a,b\r1,"2\r3"\r', [["1", "2\n3"]], []),
        (b"a,b\r\n1,2\r\n\r\n3,4\r\n", [["1", "2"], ["3", "4"]], []),
        (b'a,b\r\n1,"2\r\n3"\r\n', [["1", "2\r\n3"]], []),
        (b"a,b\n1,x\ry\n", [["1", "x\ry"]], []),
        (b"a,b\n1,2\r3,4\n", [], [(2, "ragged_row")]),
        (b'a,b\n"1",""\n,\n', [["1", ""], ["", ""]], []),
        (b'a,b\n1"2,x "y"\n', [['1"2', 'x "y"']], []),
        (b'a,b\n1",2\n"3",4"\n', [['1"', "2"]], [(3, "unclosed_quote")]),
        (b'a,b\n1,"2"x\n3,4\n', [["3", "4"]], [(2, "unclosed_quote")]),
        (b'a,b\n1,"2\n', [], [(2, "unclosed_quote")]),
        (b'a,b\n1,2\n3,"4', [["1", "2"]], [(3, "unclosed_quote")]),
        (b"a,b\n1,2\n3", [["1", "2"]], [(3, "ragged_row")]),
        (b"a,b\n1,2\na,b\n", [["1", "2"]], [(3, "repeated_header")]),
        (b"a,b\n1,\x00\n", [], [(2, "nul_byte")]),
        (b"\xef\xbb\xbfa,b\n1,2\n", [["1", "2"]], []),
        (b"\x84\x31\x95\x33a,b\n\xba\xc3,2\n", [["好", "2"]], []),
        (b"\n\na,b\n1,2\n", [["1", "2"]], []),
    ],
)
def test_line_ends_marks_and_quotes(tmp_path, content, kept, rejected):
    found, others = read_all(tmp_path, content)
    assert (found, places(others)) == (kept, rejected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'"a,b\n1,2\n', r"no header in line 1 \(unclosed_quote\)"),
        (b"a,\xff\n1,2\n", r"no header in line 1 \(undecodable_bytes\)"),
        (b"a,b,a\n1,2,3\n", "two columns of the header have the same name"),
        (b"a" * 9_000_000, r"no header in line 1 \(line_too_long\)"),
    ],
)
def test_a_header_that_cannot_be_read_is_one_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_all(tmp_path, content)


@pytest.mark.parametrize("encoding", ["gb18030", "utf-8"] if TORTURE else ["gb18030"])
def test_a_field_of_a_gigabyte_costs_itself_and_no_memory(tmp_path, encoding):
    # The field is a hole in the file, so that the test needs no disk.
    path = tmp_path / "x.csv"
    with path.open("wb") as file:
        file.write("a,b\n一,二\n三,四".encode(encoding))
        file.seek(1 << 30, os.SEEK_CUR)
        file.write("\n五,六\n".encode(encoding))
    code = (
        "import sys\n"
        "from tests.corpus.memory import peak_kib\n"
        "from pathlib import Path\n"
        "from chatlm.corpus.read_csv import read_csv\n"
        "before = peak_kib()\n"
        "found = [(o.position, getattr(o, 'reason', '')) for o in read_csv(Path(sys.argv[1]))]\n"
        "print(found, peak_kib() - before < 256 << 10)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[(2, ''), (3, 'line_too_long'), (4, '')] True\n"
