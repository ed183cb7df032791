"""What every corpus becomes: one question and one answer.

In: nothing. Out: `Example`, the column layout of every parquet file that the pipeline writes, and
`Skipped` for the parts of a record that become no example.
It does not judge a text; that is done in `normalize` and `filters`.
"""

from dataclasses import dataclass

import pyarrow as pa

PAIR_SCHEMA: pa.Schema = pa.schema(
    [
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Example:
    """One question, its answer, and the corpus that they came from (`webtext2019zh`, ...)."""

    prompt: str
    response: str
    source: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A part of a record, one message of a conversation, that is in no example, and why."""

    reason: str
    text: str
