"""Hostile JSON Lines, made by chance, and what a strict parser says of each line.

The reference is orjson, a line at a time, behind the two limits of the readers.
"""

import random
from pathlib import Path

import orjson

from chatlm.corpus import read_json
from chatlm.corpus.json_blocks import read_blocks
from chatlm.corpus.records import Record, Rejected

TEXTS, INTS = ("title", "answer", "标题"), ("star",)

_STRINGS = [
    *("", " ", "x", "plain words", "甲", "头痛怎么办？多喝水，早点睡。", "é", "\ufeff"),
    *("😀", "\u2028", "\x7f", "\ufffd", "\uffff", "[{", "]}" * 40, "甲" * 21, "x" * 63),
    *(r"\n", r"\r\n", r"\"", r"\\", r"\/", r"\b\f\t", r"\u0000", r"\u4e2d", r"\u00Ff"),
    *(r"\ud83d\ude00", "字" * 400, "a字" * 20),
]  # fmt: skip
_BAD_STRINGS = [
    *(rb"\ud800", rb"\udc00", rb"\ud83d\ud83d", rb"\ud83dx", rb"\ude00\ud83d", rb"\x41"),
    *(b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xc0\x80", b"\xff\xfe", b"\xe4\xb8"),
    *(b"\xf4\x90\x80\x80", rb"\u12", rb"\U1", b"\0", b"\t", b"\r", b"\x1f", b'"', b"\\"),
]  # fmt: skip
_NUMBERS = [
    *("0", "-0", "7", "-12", "9007199254740993", "9223372036854775807", "-9223372036854775808"),
    *("9223372036854775808", "18446744073709551615", "18446744073709551616", "1" * 30, "9" * 400),
    *("1.5", "-0.25e-3", "1E+9", "1e99", "1e100", "1e400", "-1e-400", "0." + "3" * 300),
]  # fmt: skip
_BAD_NUMBERS = ["01", "-", "1.", ".5", "+1", "1e", "0x1F", "NaN", "-Infinity", "Infinity", "1_0"]
_WORDS = ["true", "false", "null"]
_BAD_WORDS = ["True", "None", "nul", "nulll", "undefined", ""]
_KEYS = ["title", "answer", "star", "标题", "qid", "titl", "", r"st\u0061r", "Title"]
_NESTED = ["[]", "{}", "[1,[2]]", '{"a":{"b":"甲"}}', "[" * 60 + "]" * 60, "[" * 70, "[" * 3000]
_WHOLE = [
    *(b"[]", b"7", b'"x"', b"null", b"{}{}", b"{},", b"{} {", b"\x0b", b"\0", b"\xef\xbb\xbf{}"),
    *(b"[" * 9000, b'{"a":' + b"[" * 70 + b"]" * 70 + b"}"),
]  # fmt: skip
_SPACES = ["", "", "", "", " ", "\t", "\r", "  \t"]
_BAD_SPACES = ["\u3000", "\x0b", "\xa0", "/**/"]


def noisy_line(rng: random.Random) -> bytes:
    """Returns one line without its LF: good, odd or broken, in about equal parts."""
    kind = rng.random()
    if kind < 0.05:
        return b"".join(rng.choices([b" ", b"\t", b"\r"], k=rng.randrange(4)))
    if kind < 0.1:
        return rng.choice(_WHOLE)
    bad = rng.random() < 0.3
    pairs = [_pair(rng, bad) for _ in range(rng.randrange(6))]
    line = _space(rng, bad) + b"{" + b",".join(pairs) + b"}" + _space(rng, bad)
    if rng.random() < 0.15:
        line = _hurt(rng, line)
    return line.replace(b"\n", b"")


def noisy_file(rng: random.Random, num_lines: int) -> bytes:
    """Returns a file of such lines, perhaps with a mark at its start and without a last LF."""
    mark = b"\xef\xbb\xbf" * rng.randrange(2)
    raw = b"\n".join(noisy_line(rng) for _ in range(num_lines)) + b"\n" * rng.randrange(2)
    return mark + raw.removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")


def strict(raw: bytes) -> dict[int, dict[str, object] | None]:
    """Returns of each line that is not blank its fields, or None if it must be rejected."""
    lines = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return {
        number: _strict_line(line, number < len(lines))
        for number, line in enumerate(lines, start=1)
        if line.strip() or _is_long(line, number < len(lines))
    }


def rows_of_blocks(
    path: Path, span: tuple[int, int] | None = None, block_bytes: int = 1 << 20, first_line: int = 1
) -> dict[int, Record | Rejected]:
    """Returns all lines of the block reader, its columns held against the records of its rows."""
    found = dict[int, Record | Rejected]()
    end = first_line
    for block in read_blocks(path, TEXTS, INTS, span, block_bytes, first_line):
        lines = [*block.positions.tolist(), *(one.position for one in block.others)]
        assert len(set(lines)) == len(lines)
        assert all(end <= line < end + block.num_lines for line in lines)
        assert block.positions.tolist() == sorted(block.positions.tolist())
        end += block.num_lines
        for row in range(len(block)):
            record = block.record(row)
            assert record.position == block.positions[row]
            for name in TEXTS:
                value = record.fields.get(name)
                assert block.present[name][row] == isinstance(value, str)
                assert block.texts[name][row] == (value if isinstance(value, str) else "")
            for name in INTS:
                value = record.fields.get(name)
                assert block.present[name][row] == (type(value) is int)
                assert block.ints[name][row] == (value if type(value) is int else 0)
            found[record.position] = record
        found.update((one.position, one) for one in block.others)
    return dict(sorted(found.items()))


def check_readers(path: Path, raw: bytes, block_bytes: int) -> dict[int, Record | Rejected]:
    """Writes `raw`, reads it with both readers, and holds them to the strict parser."""
    path.write_bytes(raw)
    by_row = {one.position: one for one in read_json.read_jsonl(path)}
    assert rows_of_blocks(path, block_bytes=block_bytes) == by_row
    fields = {line: one.fields if isinstance(one, Record) else None for line, one in by_row.items()}
    assert fields == strict(raw)
    return by_row


def _strict_line(line: bytes, ended: bool) -> dict[str, object] | None:
    if _is_long(line, ended) or _depth(line) > read_json.MAX_DEPTH:
        return None
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _is_long(line: bytes, ended: bool) -> bool:
    return len(line) + ended > read_json.MAX_LINE_BYTES


def _depth(line: bytes) -> int:
    depth = deepest = 0
    in_string = escaped = False
    for byte in line:
        if in_string:
            in_string = escaped or byte != 0x22
            escaped = byte == 0x5C and not escaped
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def _pair(rng: random.Random, bad: bool) -> bytes:
    key = _string(rng, bad) if rng.random() < 0.05 else b'"%s"' % rng.choice(_KEYS).encode()
    spaces = [_space(rng, bad) for _ in range(4)]
    return spaces[0] + key + spaces[1] + b":" + spaces[2] + _value(rng, bad) + spaces[3]


def _value(rng: random.Random, bad: bool) -> bytes:
    kind = rng.random()
    if kind < 0.6:
        return _string(rng, bad)
    if kind < 0.8:
        return rng.choice(_BAD_NUMBERS if bad and rng.random() < 0.3 else _NUMBERS).encode()
    if kind < 0.93:
        return rng.choice(_BAD_WORDS if bad and rng.random() < 0.3 else _WORDS).encode()
    return rng.choice(_NESTED).encode()


def _string(rng: random.Random, bad: bool) -> bytes:
    pieces = [rng.choice(_STRINGS).encode() for _ in range(rng.randrange(5))]
    if bad and rng.random() < 0.3:
        pieces.insert(rng.randrange(len(pieces) + 1), rng.choice(_BAD_STRINGS))
    return b'"' + b"".join(pieces) + b'"'


def _space(rng: random.Random, bad: bool) -> bytes:
    return rng.choice(_BAD_SPACES if bad and rng.random() < 0.05 else _SPACES).encode()


def _hurt(rng: random.Random, line: bytes) -> bytes:
    """Cuts a line, or changes, adds or loses one of its bytes."""
    at = rng.randrange(len(line))
    kind = rng.randrange(4)
    if kind == 0:
        return line[:at]
    new = bytes([rng.randrange(256)])
    return line[:at] + (b"" if kind == 1 else new) + line[at + (kind != 2) :]
