"""The scanner: what is plain and read as it stands, and what is left to the arbiter."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatlm.corpus.kernels.json_lines import count_line_feeds, scan_lines
from chatlm.corpus.kernels.wide import SLACK

TEXTS, INTS = ("title", "answer"), ("star",)
NAMES = (*TEXTS, *INTS)


def scan(raw: bytes, max_line_bytes: int = 1 << 20):
    """Returns (rows as (line, title, answer, star), lines left to the arbiter, all lines)."""
    data = np.frombuffer(raw + b"\n" + bytes(SLACK), np.uint8).copy()
    num = raw.count(b"\n") + 1
    names = np.array(bytearray("".join(NAMES).encode()), np.uint8)
    ends = np.cumsum([len(name) for name in NAMES], dtype=np.int64)
    texts = np.full((len(TEXTS) + 1, len(raw) + SLACK), 0xFF, np.uint8)
    offsets = np.zeros((len(TEXTS), num + 1), np.int64)
    ints, present = np.zeros((1, num), np.int64), np.zeros((3, num), np.bool_)
    lines, spans = np.zeros(num, np.int64), np.zeros((num, 2), np.int64)
    others = np.zeros((num, 3), np.int64)
    num_rows, num_others, num_lines = scan_lines(
        data, 0, len(raw), max_line_bytes, names, ends, texts, offsets, ints, present, lines, spans,
        others,
    )  # fmt: skip

    def text(field: int, row: int) -> str | None:
        found = texts[field, offsets[field, row] : offsets[field, row + 1]].tobytes().decode()
        assert present[field, row] or not found
        return found if present[field, row] else None

    rows = [
        (int(lines[r]), text(0, r), text(1, r), int(ints[0, r]) if present[2, r] else None)
        for r in range(num_rows)
    ]
    return rows, [int(line) for line, _, _ in others[:num_others]], num_lines


def one(line: str | bytes):
    """Returns the row of a line that must be plain, or None for one that is not."""
    raw = line.encode() if isinstance(line, str) else line
    rows, others, num_lines = scan(raw)
    assert num_lines == 1
    assert len(rows) + len(others) == 1
    return rows[0][1:] if rows else None


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("{}", (None, None, None)),
        (' \t{ "title" : "一" ,\t"star":7 } \r', ("一", None, 7)),
        ('{"answer":"甲\\r\\n乙\\t\\"丙\\"\\\\\\/\\b\\f"}', (None, '甲\r\n乙\t"丙"\\/\b\f', None)),
        (r'{"title":"\u0000\u007f\u0080"}', ("\0\x7f\x80", None, None)),
        (r'{"title":"\u07ff\u0800\uFFff"}', ("\u07ff\u0800\uffff", None, None)),
        (r'{"title":"\ud83d\ude00\uDBFF\uDFFF"}', ("😀\U0010ffff", None, None)),
        ('{"title":null,"answer":3,"star":"4"}', (None, None, None)),
        ('{"title":true,"answer":false,"star":1.5}', (None, None, None)),
        ('{"star":9223372036854775807}', (None, None, 2**63 - 1)),
        ('{"star":-9223372036854775807,"x":-0.5e-03,"y":0,"z":1E+99}', (None, None, 1 - 2**63)),
        ('{"star":-0}', (None, None, 0)),
        ('{"x":"","x":"","star":1}', (None, None, 1)),
        ('{"titl":"a","title ":"b","名":"c"}', (None, None, None)),
    ],
)  # fmt: skip
def test_plain_lines_are_read_as_they_stand(line, row):
    assert one(line) == row


@pytest.mark.parametrize(
    "line",
    [
        "[]", "7", '"x"', "{", "}", "{}{}", "{} x", '{"a"}', '{"a":}', '{"a":1,}', "{,}",
        '{"a":1 "b":2}', '{"a":[]}', '{"a":{}}', "{a:1}", "{'a':1}", '{"a":"b', '{"a":"b\\"}',
        '{"a":01}', '{"a":-}', '{"a":1.}', '{"a":.5}', '{"a":+1}', '{"a":1e}', '{"a":1e+}',
        '{"a":0x1}', '{"a":NaN}', '{"a":-Infinity}', '{"a":True}', '{"a":nul}', '{"a":nullx}',
        '{"a":1e400}', '{"a":' + "9" * 400 + "}", '{"star":9223372036854775808}',
        r'{"\u0074itle":"x"}', r'{"a\"":1}', '{"title":"x","title":"y"}',
        '{"title":null,"title":"y"}', '{"star":1,"star":"2"}',
        '{"title":"raw\ttab"}', '{"title":"\0"}', '{"title":"\x1f"}', "\0", "\x0b", "\f",
        r'{"a":"\x"}', r'{"a":"\u12g4"}', r'{"a":"\u123"}', r'{"a":"\ud800"}', r'{"a":"\udc00"}',
        r'{"a":"\ud800\ud800"}', r'{"a":"\ud800x"}', r'{"a":"\ud800\n"}', r'{"a":"\U0001"}',
        '{"a":1}\u3000', "\ufeff{}",
    ],
)  # fmt: skip
def test_everything_else_is_left_to_the_arbiter(line):
    assert one(line) is None


BROKEN = [
    bytes.fromhex(text)
    for text in (
        "80", "bf", "c080", "c1bf", "c2", "c2c280", "e09fbf", "e4b8", "e4", "e4e4b880", "e4b88080",
        "eda080", "edbfbf", "eda0bdedb880", "f09f98", "f09f", "f08fbfbf", "f4908080", "f5808080",
        "f888808080", "ff", "f09fe4b880",
    )
]  # fmt: skip
WHOLE = "\x7f\x80\u07ff\u0800\u0fff一\ud7ff\ue000\uffff\U00010000😀\U0010ffff"


@pytest.mark.parametrize("size", [0, 1, 2, *range(48, 66), 127, 200])
@pytest.mark.parametrize("filler", ["x", "字"])
def test_utf8_is_strict_wherever_the_64_bytes_end(size, filler):
    for before in (filler * size, "é" + filler * size, "😀a" + filler * size):
        for after in ("", "b", "乙" * 30):
            for text in WHOLE:
                row = one(f'{{"title":"{before}{text}{after}"}}')
                assert row == (before + text + after, None, None)
            for broken in BROKEN:
                line = b'{"title":"%s%s%s"}' % (before.encode(), broken, after.encode())
                assert one(line) is None
                assert one(b'{"%s%s":1}' % (before.encode(), broken)) is None


def test_each_lead_byte_with_each_second_byte_agrees_with_the_strict_decoder():
    for lead in range(0x80, 256):
        for second in range(0x80, 256):
            for tail in (b"", b"\x80", b"\xbf\xbf"):
                text = bytes((lead, second)) + tail
                try:
                    expected = (text.decode(), None, None)
                except UnicodeDecodeError:
                    expected = None
                assert one(b'{"title":"' + text + b'"}') == expected, text


def test_a_line_is_hurt_by_its_own_faults_only():
    good = '{"title":"甲","answer":"乙","star":%d}'
    lines = [
        good % 0,
        '{"title":"甲',
        "",
        good % 3,
        b'{"title":"\xe4',
        " \t\r",
        good % 6,
        "[",
        good % 8,
    ]
    raw = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    rows, others, num_lines = scan(raw)
    assert rows == [(line, "甲", "乙", line) for line in (0, 3, 6, 8)]
    assert (others, num_lines) == ([1, 4, 7], 9)


def test_the_longest_line_counts_its_line_feed():
    line = b'{"title":"%s"}\n' % (b"x" * 50)
    assert scan(line, len(line)) == ([(0, "x" * 50, None, None)], [], 1)
    assert scan(line, len(line) - 1) == ([], [0], 1)
    assert scan(b" " * 80 + b"\n", 80) == ([], [0], 1)


@given(st.binary(max_size=200).map(lambda raw: raw.replace(b"\x01", b"\n")), st.integers(0, 70))
def test_line_feeds_are_counted_within_the_bounds(raw, start):
    start = min(start, len(raw))
    data = np.frombuffer(raw + b"\n" * SLACK, np.uint8)
    assert count_line_feeds(data.copy(), start, len(raw)) == raw[start:].count(b"\n")


SCALAR = st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.text()
LETTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\')
KEYS = st.sampled_from([*NAMES, "x", "标题"]) | st.text(LETTERS, max_size=3)
OBJECTS = st.dictionaries(KEYS, SCALAR)


@given(st.lists(OBJECTS, min_size=1, max_size=5))
def test_every_flat_object_whose_names_need_no_escapes_is_plain(objects):
    rows, others, _ = scan(b"\n".join(orjson.dumps(one) for one in objects))
    assert not others
    for line, title, answer, star in rows:
        fields = objects[line]
        assert title == (fields.get("title") if isinstance(fields.get("title"), str) else None)
        assert answer == (fields.get("answer") if isinstance(fields.get("answer"), str) else None)
        assert star == (fields.get("star") if type(fields.get("star")) is int else None)
    assert len(rows) == len(objects)


@given(st.binary(max_size=80) | st.text('{}[]":,\\nu0e-.tr \n', max_size=80).map(str.encode))
def test_what_is_plain_is_what_the_strict_parser_accepts(raw):
    rows, others, num_lines = scan(raw)
    lines = raw.split(b"\n")
    assert num_lines == len(lines) - (lines[-1] == b"")
    for line, *_ in rows:
        assert isinstance(orjson.loads(lines[line]), dict)
    for line in range(num_lines):
        blank = not lines[line].strip(b" \t\r")
        assert (line in [row[0] for row in rows]) + (line in others) == (not blank)
