"""Hostile files for every corpus: one fault each, between rows that nothing is wrong with.

In: the name of a corpus. Out: `Item`s, the same ones in every run. A fault is a value that its
field should not have, a line that no writer wrote, or a table or article that is broken.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from . import bad_tables, bad_wiki
from .bad_rows import GOOD_PROMPTS, TEXTS, Item, good_answer


@dataclass(frozen=True, slots=True)
class Shape:
    """A published record of JSON Lines: its fields, with {q} and {a} for question and answer."""

    name: str
    fields: dict[str, object]

    def line(self, question: str, answer: str) -> str:
        """Returns a good record."""
        return json.dumps(_filled(self.fields, question, answer), ensure_ascii=False)


def _filled(value: object, question: str, answer: str) -> object:
    if isinstance(value, str):
        return value.replace("{q}", question).replace("{a}", answer)
    if isinstance(value, list):
        return [_filled(one, question, answer) for one in value]
    if isinstance(value, dict):
        return {key: _filled(one, question, answer) for key, one in value.items()}
    return value


_CHAT = [{"from": "human", "value": "{q}"}, {"from": "assistant", "value": "{a}"}]
SHAPES: dict[str, tuple[Shape, ...]] = {
    "webtext2019zh": (
        Shape(
            "web_text_zh_train.json",
            {
                "qid": 65618973,
                "title": "{q}",
                "desc": "",
                "topic": "生活",
                "star": 9,
                "content": "{a}",
                "answer_id": 545576062,
                "answerer_tags": "厨师@饮食",
            },
        ),
    ),
    "baike_qa2019": (
        Shape(
            "baike_qa_train.json",
            {
                "qid": "qid_1",
                "category": "生活",
                "title": "{q} ",
                "desc": "",
                "answer": "{a}\r\r好的。",
            },
        ),
    ),
    "zhihu_kol": (
        Shape(
            "zhihu.jsonl",
            {
                "INSTRUCTION": "{q}",
                "RESPONSE": "{a}",
                "SOURCE": "Zhihu",
                "METADATA": '{"question_id": 3.0, "upvotes": "赞同 15"}',
            },
        ),
    ),
    "belle": (
        Shape("Belle_open_source_1M.json", {"instruction": "{q}\n", "input": "", "output": "{a}"}),
        Shape("Belle.train.json", {"input": "{q}\\n", "target": "{a}"}),
        Shape("train_3.5M_CN.json", {"id": "16", "conversations": _CHAT}),
        Shape(
            "multiturn_chat_0.8M.json",
            {"instruction": "Human:{q}\nAssistant:", "input": "", "output": "{a}"},
        ),
    ),
}

_DEEP = "[" * 80 + "]" * 80
_NUMBERS = ("0", "-1", "1e999", "123456789012345678901234567890", "0.1", "-0.0", "NaN", "Infinity")
_CONTAINERS = (
    "[]",
    "{}",
    '["一", "二"]',
    '{"text": "好"}',
    "[[[]]]",
    '{"": null}',
    _DEEP,
)
_LITERALS = ("null", "true", "false")
_STRINGS = (
    '"\\ud800"',
    '"\\udc00好"',
    '"好\\u0000好"',
    '"\\u202e好\\u2066"',
    '"未完',
    "'好'",
    '"\t好"',
    '"\\x好"',
    '"\\u12"',
    "好",
    "",
)


def items(source: str) -> Iterator[Item]:
    """Yields the hostile files of one corpus.

    Raises:
        KeyError: There is no such corpus.
    """
    if source in ("medical", "finance"):
        yield from bad_tables.csv_items(source)
    elif source == "zhwiki":
        yield from bad_wiki.items()
    else:
        for shape in SHAPES[source]:
            yield from _json_items(source, shape)
    if source == "zhihu_kol":
        yield from bad_tables.parquet_items()


def _json_items(source: str, shape: Shape) -> Iterator[Item]:
    first, last = (shape.line(prompt, good_answer(prompt)) for prompt in GOOD_PROMPTS)
    for name, raw, is_row in _lines(shape, first):
        content = b"\n".join((first.encode(), raw, last.encode(), b""))
        yield Item(f"{source}/{shape.name}/{name}", source, shape.name, content, int(is_row))


def _lines(shape: Shape, good: str) -> Iterator[tuple[str, bytes, bool]]:
    """Yields (name, line, whether it counts as a row)."""
    values = [json.dumps(text, ensure_ascii=False) for text in TEXTS]
    for field in shape.fields:
        for number, value in enumerate((*values, *_NUMBERS, *_CONTAINERS, *_LITERALS, *_STRINGS)):
            parts = [
                f"{json.dumps(key)}: {value if key == field else json.dumps(old)}"
                for key, old in json.loads(good).items()
            ]
            yield f"{field}/{number}", f"{{{', '.join(parts)}}}".encode(), True
        fields = json.loads(good)
        del fields[field]
        yield f"{field}/missing", json.dumps(fields).encode(), True
    for number, turns in enumerate(_turns()):
        yield f"turns/{number}", json.dumps({"conversations": turns}).encode(), True
    for name, raw in _broken_lines(good):
        yield f"line/{name}", raw, bool(raw.strip())


def _turns() -> Iterator[object]:
    """Yields conversations that are none."""
    human, other = {"from": "human", "value": "好"}, {"from": "assistant", "value": "好"}
    yield from ([human], [other], [other, human], [human, human], [human, None], [[human, other]])
    yield from ({"from": "human"}, [{}], [None], "好", 7, [{"value": "好"}, other])
    yield [{"from": 1, "value": 2}, {"from": [], "value": {}}]
    yield [human, other] * 2_000


def _broken_lines(good: str) -> Iterator[tuple[str, bytes]]:
    raw, gb = good.encode(), good.encode("gb18030")
    for part in range(1, 20):
        yield f"cut/{part}", raw[: len(raw) * part // 20]
    for place in range(0, len(raw), max(1, len(raw) // 12)):
        yield f"byte/{place}", raw[:place] + b"\xff" + raw[place + 1 :]
        yield f"nul/{place}", raw[:place] + b"\x00" + raw[place + 1 :]
        yield f"gone/{place}", raw[:place] + raw[place + 1 :]
    yield from {
        "gb18030": gb,
        "utf16": good.encode("utf-16-le"),
        "latin1": raw.decode("latin-1").encode(),
        "mark": b"\xef\xbb\xbf" + raw,
        "cesu": raw.replace("答".encode(), b"\xed\xa0\x80\xed\xb0\x80"),
        "overlong": raw.replace("答".encode(), b"\xc0\x80"),
        "cr": raw.replace(b", ", b",\r"),
        "crs": b"\r" * 100,
        "spaces": b" \t " * 50,
        "two": raw + raw,
        "two_spaced": raw + b" " + raw,
        "comma": raw + b",",
        "array": b"[" + raw + b"]",
        "null": b"null",
        "number": b"7",
        "text": '"好"'.encode(),
        "empty_object": b"{}",
        "empty_array": b"[]",
        "quote": b'"',
        "brace": b"{",
        "comment": b"// comment",
        "html": b"<html><body>404</body></html>",
        "conflict": b"<<<<<<< HEAD",
        "lfs": b"version https://git-lfs.github.com/spec/v1",
        "deep_arrays": b"[" * 100_000,
        "deep_objects": b'{"a":' * 100_000,
        "deep_closed": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "keys": b"{" + b",".join(b'"%d": 1' % number for number in range(50_000)) + b"}",
        "double_keys": raw[:-1] + b", " + raw[1:],
        "long": b'{"a": "' + b"x" * 5_000_000 + b'"}',
        "too_long": b'{"a": "' + b"x" * 17_000_000 + b'"}',
        "zeros": b"\x00" * 4096,
        "noise": bytes(byte for byte in range(256) if byte != 10) * 40,
        "digits": b'{"a": ' + b"9" * 100_000 + b"}",
        "backslashes": b'{"a": "' + b"\\" * 99_999 + b'"}',
    }.items()
