"""Columns that hold a list of messages in each row.

In: columns of a batch. Out: whether a column is one, its values and what it is made of. It reads no
file and does not know what a conversation is.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

BATCH_ROWS = 256
"""How many rows to decode at once. Lists cannot be had as dictionaries, so that a text which a file
holds once can come out a million times; so few rows tell before the memory is full."""
WANTED = "a list of {role, content} or of {from, value}"
_ROLES, _TEXTS = ("role", "from"), ("content", "value")


def is_messages(kind: pa.DataType) -> bool:
    """Returns whether a type is a list of structs with a role or from, and a content or value."""
    if not _is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    names = {field.name for field in kind.value_type if _is_string(field.type)}
    return not names.isdisjoint(_ROLES) and not names.isdisjoint(_TEXTS)


def values(column: pa.Array, bad: object) -> list[Any]:
    """Returns the value of each row, `bad` where a text is not UTF-8."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar, bad) for scalar in column]


def leaves(column: pa.Array) -> Iterator[pa.Array]:
    """Yields a column, or the columns within its lists and structs, null rows left out."""
    if _is_list(column.type):
        yield from leaves(column.flatten())  # type: ignore[attr-defined]
    elif isinstance(column, pa.StructArray):
        for inner in column.flatten():
            yield from leaves(inner)
    else:
        yield column


def _value(scalar: Any, bad: object) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return bad


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
