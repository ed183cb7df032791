"""Hostile CSV and parquet files."""

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .bad_rows import GOOD_PROMPTS, TEXTS, Item, good_answer

HEADERS = {
    "medical": ("department", "title", "ask", "answer"),
    "finance": ("title", "question", "reply", "is_best"),
}
NAMES = {"medical": "内科5-100.csv", "finance": "financezhidao_filter.csv"}
_ENCODINGS = {"medical": ("gb18030", "utf-8"), "finance": ("utf-8", "gb18030")}


def csv_row(source: str, prompt: str, answer: str) -> list[str]:
    """Returns the fields of a good record."""
    return ["内科", prompt, "无", answer] if source == "medical" else [prompt, "", answer, "1"]


def csv_items(source: str) -> Iterator[Item]:
    """Yields the hostile files of one corpus in CSV, in both encodings."""
    good = [csv_row(source, prompt, good_answer(prompt)) for prompt in GOOD_PROMPTS]
    header = _line(HEADERS[source])
    first, last = (_line(row) for row in good)
    for encoding in _ENCODINGS[source]:

        def item(
            name: str, raw: bytes, is_row: bool, encoding: str = encoding, is_file: bool = False
        ) -> Item:
            before, after = (header + first).encode(encoding), last.encode(encoding)
            content = before + raw + b"\n" + after
            name = f"{source}/{encoding}/{name}"
            return Item(name, source, NAMES[source], content, int(is_row), is_file)

        for column in range(4):
            for number, text in enumerate(TEXTS):
                row = list(good[0])
                row[column] = text
                raw = _line(row).encode(encoding, errors="replace")
                yield item(f"{HEADERS[source][column]}/{number}", raw.removesuffix(b"\n"), True)
        for name, raw in _broken_rows(first.removesuffix("\n"), header, encoding):
            yield item(f"row/{name}", raw, bool(raw.strip()))
        whole = (header + first + last).encode(encoding)
        for name, content in _broken_files(whole, header.encode()):
            name = f"{source}/{encoding}/file/{name}"
            yield Item(name, source, NAMES[source], content, 0, is_file=True)


def _line(row: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue()


def _broken_rows(good: str, header: str, encoding: str) -> Iterator[tuple[str, bytes]]:
    raw = good.encode(encoding)
    fields = raw.split(b",")
    other = good.encode("utf-8" if encoding == "gb18030" else "gb18030")
    for place in range(0, len(raw), max(1, len(raw) // 15)):
        yield f"cut/{place}", raw[: place + 1]
        for name, byte in {"ff": b"\xff", "nul": b"\x00", "quote": b'"', "cr": b"\r"}.items():
            yield f"{name}/{place}", raw[:place] + byte + raw[place:]
    for column in range(4):
        before, field, after = fields[:column], fields[column], fields[column + 1 :]
        yield f"open/{column}", b",".join([*before, b'"' + field, *after])
        yield f"close/{column}", b",".join([*before, field + b'"', *after])
        yield f"more/{column}", b",".join([*before, b"x", field, *after])
        yield f"less/{column}", b",".join([*before, *after])
        yield f"lines/{column}", b",".join([*before, b"\n\n", field, *after])
        long = b",".join([*before, b"x" * 300_000, *after])
        yield f"long/{column}", long
        yield f"open_long/{column}", long.replace(b"x", b'"x', 1)
    yield from {
        "other": other,
        "half": raw[: len(raw) // 2] + other[len(other) // 2 :],
        "header": header.removesuffix("\n").encode(encoding),
        "quote": b'"',
        "quotes": b'"' * 10_001,
        "quotes_even": b'"' * 10_000,
        "commas": b"," * 100_000,
        "empty": b",,,",
        "spaces": b"   ",
        "mark": b"\xef\xbb\xbf" + raw,
        "utf16": good.encode("utf-16-le"),
        "zeros": b"\x00" * 5_000,
        "noise": bytes(byte for byte in range(256) if byte not in b'\n"') * 20,
        "too_long": b"x" * 9_000_000,
        "json": b'{"title": "x"}',
        "semicolons": raw.replace(b",", b";"),
        "tabs": raw.replace(b",", b"\t"),
        "quoted_mess": b'"a"b",c,"d"e,"f',
        "escaped": b'"a\\"b",c,d,e',
        "crs": b"\r" * 1_000,
    }.items()


def _broken_files(whole: bytes, header: bytes) -> Iterator[tuple[str, bytes]]:
    for part in range(1, 12):
        yield f"cut/{part}", whole[: len(whole) * part // 12]
    yield from {
        "header_alone": header,
        "header_cut": header[:-3],
        "header_double": header.replace(b"title", b"answer").replace(b"reply", b"question") + whole,
        "header_gone": whole.removeprefix(header),
        "header_quote": b'"' + whole,
        "header_nul": b"\x00" + whole,
        "cr": whole.replace(b"\n", b"\r"),
        "crlf": whole.replace(b"\n", b"\r\n"),
        "marks": b"\xef\xbb\xbf" * 3 + whole,
        "utf16": whole.decode("gb18030", errors="replace").encode("utf-16"),
        "zeros": b"\x00" * 100_000,
        "blank": b" \n\n ",
        "newlines": b"\n" * 100_000 + whole,
    }.items()


def parquet_items() -> Iterator[Item]:
    """Yields the hostile files of the corpus that comes as parquet."""
    for name, table in _tables():
        yield _parquet(f"table/{name}", table, is_file=not name.startswith("text/"))
    good = _parquet("whole", _good_table()).content
    for part in range(1, 10):
        yield _broken(f"cut/{part}", good[: len(good) * part // 10])
    for place in range(0, len(good), max(1, len(good) // 60)):
        for bit in (1, 128):
            flipped = bytearray(good)
            flipped[place] ^= bit
            yield _broken(f"flip/{place}/{bit}", bytes(flipped))
    for name, table in _bombs():
        yield _broken(f"bomb/{name}", _parquet("bomb", table).content)
    yield _broken("magic", b"PAR1")
    yield _broken("length", good[:-8] + b"\xff\xff\xff\x7fPAR1")
    yield _broken("footer", b"PAR1" + b"\x19\xfc" * 500 + (1000).to_bytes(4, "little") + b"PAR1")


def _good_table() -> pa.Table:
    return pa.table(
        {
            "INSTRUCTION": list(GOOD_PROMPTS),
            "RESPONSE": [good_answer(prompt) for prompt in GOOD_PROMPTS],
            "SOURCE": ["Zhihu"] * 2,
            "METADATA": ['{"upvotes": "赞同 15"}'] * 2,
        }
    )


def _tables() -> Iterator[tuple[str, pa.Table]]:
    good = _good_table()
    for column, name in enumerate(good.schema.names):
        for number, text in enumerate(TEXTS):
            row = {key: good[key][0].as_py() for key in good.schema.names} | {name: text}
            middle = pa.Table.from_pylist([row], schema=good.schema)
            yield f"text/{name}/{number}", pa.concat_tables([good[:1], middle, good[1:]])
        yield f"gone/{name}", good.drop_columns([name])
        yield f"renamed/{name}", good.rename_columns([x.lower() for x in good.schema.names])
        texts = good[name].to_pylist()
        for kind, values in _columns(texts).items():
            yield f"{kind}/{name}", good.set_column(column, name, values)
        yield f"twice/{name}", good.append_column(name, good[name])
    yield "rows/none", good.slice(0, 0)
    yield "columns/none", pa.table({})
    yield "columns/many", pa.table({f"c{number}": ["好"] for number in range(3_000)})


def _columns(texts: list[str]) -> dict[str, pa.Array]:
    return {
        "null": pa.nulls(len(texts)),
        "nulls": pa.array([None] * len(texts), pa.string()),
        "numbers": pa.array(range(len(texts))),
        "floats": pa.array([float("nan")] * len(texts)),
        "times": pa.array([10**18] * len(texts), pa.timestamp("us")),
        "lists": pa.array([[text] for text in texts]),
        "structs": pa.array([{"a": text} for text in texts]),
        "maps": pa.array([[("a", text)] for text in texts], pa.map_(pa.string(), pa.string())),
        "text/large": pa.array(texts, pa.large_string()),
        "text/view": pa.array(texts, pa.string_view()),
        "text/dictionary": pa.array(texts).dictionary_encode(),
        "text/binary": pa.array([text.encode() for text in texts], pa.binary()),
        "no_utf8": pa.array([b"\xff\xfe"] * len(texts), pa.binary()),
    }


def _bombs() -> Iterator[tuple[str, pa.Table]]:
    one = {"INSTRUCTION": "好", "RESPONSE": "好", "METADATA": "{}"}
    nulls: Callable[[int], pa.Array] = lambda count: pa.nulls(count, pa.string())  # noqa: E731
    yield "rows", pa.table({name: nulls(5_000_000) for name in one})
    huge = pa.array(["好" * 300_000]).dictionary_encode().dictionary
    for count in (60, 100_000):
        indices = pa.array([0] * count, pa.int32())
        texts = pa.DictionaryArray.from_arrays(indices, huge)
        yield f"texts/{count}", pa.table(dict.fromkeys(one, texts))


def _parquet(name: str, table: pa.Table, is_file: bool = False) -> Item:
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)
    rows = 0 if is_file else max(0, table.num_rows - 2)
    file_name = "train-00000-of-00005-a1278ede4e8c5cdb.parquet"
    return Item(f"zhihu_kol/parquet/{name}", "zhihu_kol", file_name, file.getvalue(), rows, is_file)


def _broken(name: str, content: bytes) -> Item:
    file_name = "train-00001-of-00005-1fc2da944397e9c2.parquet"
    return Item(f"zhihu_kol/parquet/{name}", "zhihu_kol", file_name, content, 0, is_file=True)
