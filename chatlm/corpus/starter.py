"""The starter corpus: small tables of facts and phrasings, expanded into examples.

In: a folder of YAML files (`topic`, `tables`; a table is `closed`: columns, phrasings, one answer,
rows; or `open`: items with their own phrasings). Out: the examples of one split. Phrasings, not
draws, decide the split: a fact is trained in some wordings and tested in another. Subfolders are
corpora of their own and are not read. It does not clean; the pipeline does.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chatlm import untrusted
from chatlm.corpus.example import Example
from chatlm.errors import DataError

SPLITS = ("train", "valid", "test")
_MIN_PHRASINGS = {
    "closed": {"train": 6, "valid": 1, "test": 1},
    "open": {"train": 5, "valid": 1, "test": 1},
}
_MOST_BYTES = 1 << 22
SOURCE = {"closed": "starter", "open": "starter_open"}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_TABLE_KEYS = {
    "closed": {"name", "kind", "columns", "train", "valid", "test", "answer", "rows"},
    "open": {"name", "kind", "items"},
}
_ITEM_KEYS = {"train", "valid", "test", "answer"}


def expand(folder: Path, split: str) -> list[Example]:
    """Returns the examples of `split` (train, valid or test), files in the order of their names.

    Raises:
        DataError: No YAML file, a file or table of another shape (all splits are checked), or one
            question with two answers, within a topic or across topics.
    """
    if split not in SPLITS:
        raise DataError(f"starter: no split {split!r}; there are {', '.join(SPLITS)}")
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise DataError(f"{folder}: no starter tables (*.yaml)")
    found = {name: list[Example]() for name in SPLITS}
    for path in paths:
        for table, topic in _tables(path):
            for name in SPLITS:
                found[name] += _expand_table(table, topic, name, f"{path}, table {table['name']}")
    _refuse_contradictions([example for name in SPLITS for example in found[name]])
    return found[split]


def _tables(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yields (table, topic) for every checked table of a file."""
    try:
        content = untrusted.read_yaml(path, _MOST_BYTES)
    except (ValueError, OSError) as error:
        problem = " ".join(str(error).split())
        raise DataError(f"{path}: not readable as YAML ({problem})") from error
    if not isinstance(content, dict) or set(content) != {"topic", "tables"}:
        raise DataError(f"{path}: expected exactly the keys topic and tables")
    topic, tables = content["topic"], content["tables"]
    if not isinstance(topic, str) or not isinstance(tables, list) or not tables:
        raise DataError(f"{path}: topic must be a text and tables a list")
    for number, table in enumerate(tables, start=1):
        where = f"{path}, table {number}"
        if not isinstance(table, dict) or table.get("kind") not in _TABLE_KEYS:
            raise DataError(f"{where}: kind must be closed or open")
        where = f"{path}, table {table.get('name', number)}"
        _require_keys(table, _TABLE_KEYS[table["kind"]], where)
        _require_texts([table["name"]], "name", where)
        yield table, topic


def _expand_table(table: Mapping[str, Any], topic: str, split: str, where: str) -> list[Example]:
    source = f"{SOURCE[table['kind']]}/{topic}"
    pairs = (
        _closed(table, split, where) if table["kind"] == "closed" else _open(table, split, where)
    )
    return [Example(prompt, response, source) for prompt, response in pairs]


def _closed(table: Mapping[str, Any], split: str, where: str) -> Iterator[tuple[str, str]]:
    """Yields (question, answer) for every row and every phrasing of the split."""
    columns = table["columns"]
    _require_texts(columns, "columns", where)
    _require_phrasings(table, "closed", where)
    _require_texts([table["answer"]], "answer", where)
    for template in [*table["train"], *table["valid"], *table["test"], table["answer"]]:
        names = _PLACEHOLDER.findall(template)
        unknown = [name for name in names if name not in columns]
        if unknown or not names:
            raise DataError(
                f"{where}: {template!r} must name columns; the table has {', '.join(columns)}"
            )
    if not isinstance(table["rows"], list) or not table["rows"]:
        raise DataError(f"{where}: rows must be a list of lists")
    for number, row in enumerate(table["rows"], start=1):
        if not isinstance(row, list) or len(row) != len(columns):
            raise DataError(f"{where}, row {number}: expected {len(columns)} values, found {row}")
        _require_texts(row, f"row {number}", where)
        values = dict(zip(columns, row, strict=True))
        answer = _fill(table["answer"], values)
        for template in table[split]:
            yield _fill(template, values), answer


def _open(table: Mapping[str, Any], split: str, where: str) -> Iterator[tuple[str, str]]:
    """Yields (question, answer) for every item and every phrasing of the split."""
    if not isinstance(table["items"], list) or not table["items"]:
        raise DataError(f"{where}: items must be a list")
    for number, item in enumerate(table["items"], start=1):
        here = f"{where}, item {number}"
        if not isinstance(item, dict):
            raise DataError(f"{here}: expected train, valid, test and answer, found {item!r}")
        _require_keys(item, _ITEM_KEYS, here)
        _require_phrasings(item, "open", here)
        _require_texts([item["answer"]], "answer", here)
        for phrasing in item[split]:
            yield phrasing, item["answer"]


def _fill(template: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def _require_keys(found: Mapping[str, Any], expected: set[str], where: str) -> None:
    if set(found) != expected:
        missing = ", ".join(sorted(expected - set(found))) or "none"
        unknown = ", ".join(sorted(map(str, set(found) - expected))) or "none"
        raise DataError(f"{where}: missing keys: {missing}; unknown keys: {unknown}")


def _require_texts(values: Any, what: str, where: str) -> None:
    if not isinstance(values, list) or not values:
        raise DataError(f"{where}: {what} must be a list of texts")
    for value in values:
        if not isinstance(value, str) or not value.strip():
            raise DataError(
                f"{where}: {what} holds {value!r}, which YAML does not read as a text; quote it"
            )


def _require_phrasings(found: Mapping[str, Any], kind: str, where: str) -> None:
    seen = dict[str, str]()
    for split in SPLITS:
        _require_texts(found[split], split, where)
        least = _MIN_PHRASINGS[kind][split]
        if len(found[split]) < least:
            raise DataError(f"{where}: {split} has {len(found[split])} phrasings, needs {least}")
        for phrasing in found[split]:
            if phrasing in seen:
                raise DataError(f"{where}: {phrasing!r} is in {seen[phrasing]} and in {split}")
            seen[phrasing] = split


def _refuse_contradictions(examples: Sequence[Example]) -> None:
    known = dict[str, Example]()
    for example in examples:
        first = known.setdefault(example.prompt, example)
        if first.response != example.response:
            raise DataError(
                f"{example.source}: {example.prompt!r} has two answers: {first.response!r} "
                f"({first.source}) and {example.response!r}"
            )
