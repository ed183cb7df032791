"""What a reader yields: a record that could be read, or a rejected place with its reason.

In: nothing. Out: `Record` and `Rejected`. Neither knows from which corpus it came.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

EXCERPT_CHARS = 200

Fields: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a raw file.

    `position` counts from 1: the line for text formats (the first line of a record that spans
    several), the element of a JSON array, the row of a parquet file.
    """

    position: int
    fields: Fields


@dataclass(frozen=True, slots=True)
class Rejected:
    """One place of a raw file that gave no example.

    `excerpt` is at most 200 characters of it; `turn` counts the examples of one record from 0.
    """

    path: str
    position: int
    reason: str
    excerpt: str = ""
    turn: int = 0


Read: TypeAlias = Iterator[Record | Rejected]


def excerpt_of(raw: bytes | str) -> str:
    """Returns the beginning of `raw`, readable and short, whatever bytes it holds."""
    if isinstance(raw, bytes):
        raw = raw[: EXCERPT_CHARS * 4].decode("utf-8", errors="replace")
    return raw.strip()[:EXCERPT_CHARS]
