r"""Alpaca's file of instructions as JSON Lines, one pair a line.

In: a JSON array of `instruction, input, output` (or any file of pairs or conversations). Out: lines
of `prompt` and `response`, UTF-8; on stdout, what became of the rows. It cleans nothing:
`utils.raw_data_process` does.

    python -m utils.cover_alpaca2jsonl --data_path data/alpaca_data_zh.json \
        --save_path data/alpaca_data_zh.jsonl
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chatlm import cli
from chatlm.corpus.counts import Counts
from chatlm.corpus.records import Read, Record
from chatlm.errors import DataError


@dataclass(frozen=True)
class CoverConfig:
    """Settings of `python -m utils.cover_alpaca2jsonl`."""

    data_path: str = field(
        default="data/alpaca_data.json", metadata={"help": "a JSON array, or JSON Lines"}
    )
    save_path: str = field(
        default="data/alpaca_data.jsonl", metadata={"help": "the file to write or replace"}
    )


def cover(config: CoverConfig) -> dict[str, object]:
    """Writes the file; returns what became of the rows.

    Raises:
        DataError: the file cannot be read, holds no pair, or the other cannot be written.
    """
    from chatlm.corpus.readers import read
    from chatlm.corpus.store import replacing

    source, counts = Path(config.data_path), Counts()
    with replacing(Path(config.save_path)) as file:
        for line in _lines(read(source), counts):
            file.write(line)
        if not counts.kept:
            raise DataError(
                f"{source}: holds no pair ({counts.as_dict()['dropped']}); expected records with "
                "instruction, input and output"
            )
    counts.check("cover_alpaca2jsonl")
    return {"saved": config.save_path, **counts.as_dict()}


def _lines(records: Read, counts: Counts) -> Iterator[bytes]:
    """Yields a line for each pair; counts all records."""
    import orjson

    from chatlm.corpus import convert
    from chatlm.corpus.example import Example

    alpaca = convert.alpaca("alpaca")
    for record in records:
        if not isinstance(record, Record):
            counts.rows_in += 1
            counts.dropped[record.reason] += 1
            continue
        is_alpaca = "instruction" in record.fields and "output" in record.fields
        found = (alpaca if is_alpaca else convert.pairs)(record.fields)
        if isinstance(found, str):
            counts.rows_in += 1
            counts.dropped[found] += 1
            continue
        for one in found:
            counts.rows_in += 1
            if isinstance(one, Example):
                counts.kept += 1
                pair = {"prompt": one.prompt, "response": one.response}
                yield orjson.dumps(pair, option=orjson.OPT_APPEND_NEWLINE)
            else:
                counts.dropped[one.reason] += 1


def main(argv: Sequence[str]) -> int:
    """Converts and reports."""
    if any(token in ("-h", "--help", "help") for token in argv):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(CoverConfig)}")
        return 0
    print(json.dumps(cover(cli.parse(argv, CoverConfig)), ensure_ascii=False))
    return 0


if __name__ == "__main__":
    cli.run(main)
