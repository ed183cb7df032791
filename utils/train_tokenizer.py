"""Trains the tokenizer on the pairs that the model will be trained on.

In: a parquet or jsonl file of pairs. Out: a tokenizer folder, and on stdout its size, what it does
to the corpus, and the time. It does not clean texts; `utils.raw_data_process` does.

    python -m utils.train_tokenizer data=data/train.parquet out=data/tokenizer vocab_size=29298
"""

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatlm import cli
from chatlm.errors import ConfigError, DataError

BATCH_ROWS = 4096
REPORT_TEXTS = 20_000


@dataclass(frozen=True)
class TrainTokenizerConfig:
    """Settings of `python -m utils.train_tokenizer`."""

    data: str = field(default="data/train.parquet", metadata={"help": "pairs, .parquet or .jsonl"})
    out: str = field(default="data/tokenizer", metadata={"help": "folder to write"})
    vocab_size: int = field(default=29298, metadata={"help": "ids, 356 fixed ones included"})
    columns: list[str] = field(
        default_factory=lambda: ["prompt", "response"], metadata={"help": "texts to train on"}
    )
    max_chars: int = field(
        default=60_000_000, metadata={"help": "size of the sample: bounds memory and time"}
    )
    seed: int = field(default=0, metadata={"help": "of the sample"})
    num_threads: int = field(
        default=8, metadata={"help": "a constant of the recipe: it touches the last bits"}
    )

    def __post_init__(self) -> None:
        """Refuses values that no training can use.

        Raises:
            ConfigError: a number is not positive, or no column is named.
        """
        for name in ("vocab_size", "max_chars", "num_threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if not self.columns:
            raise ConfigError("columns= names no column: give for example columns=prompt,response")


def iter_texts(path: Path, columns: Sequence[str]) -> Iterator[str]:
    """Yields the texts of the columns row by row, one batch in memory at a time.

    Raises:
        DataError: the file is missing, unreadable, of another kind, or lacks a column.
    """
    if not path.is_file():
        raise DataError(
            f"training data {path} does not exist; "
            "make it with: python -m utils.raw_data_process, or name yours with data="
        )
    if path.suffix == ".parquet":
        return _parquet_texts(path, columns)
    if path.suffix == ".jsonl":
        return _jsonl_texts(path, columns)
    raise DataError(f"training data {path} must be a .parquet or a .jsonl file")


def _parquet_texts(path: Path, columns: Sequence[str]) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _require_columns(path, columns, file.schema_arrow.names)
            for name in columns:
                kind = file.schema_arrow.field(name).type
                if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                    raise DataError(f"column '{name}' of {path} holds {kind}, expected text")
            for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
                for row in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                    yield from (text for text in row if text)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"cannot read {path}: {reason}") from error


def _jsonl_texts(path: Path, columns: Sequence[str]) -> Iterator[str]:
    import orjson

    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row: Any = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise DataError(f"{path} line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path} line {number} must hold a JSON object")
            _require_columns(path, columns, list(row))
            for name in columns:
                text = row[name]
                if not isinstance(text, str):
                    kind = type(text).__name__
                    raise DataError(f"{path} line {number}: '{name}' holds {kind}, expected text")
                if text:
                    yield text


def _require_columns(path: Path, columns: Sequence[str], present: Sequence[str]) -> None:
    missing = [name for name in columns if name not in present]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(present) or 'none'}: "
            "choose with columns=a,b"
        )


def report(config: TrainTokenizerConfig, seconds: float) -> str:
    """Returns one line on a saved tokenizer, measured on the start of the corpus."""
    from chatlm.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(config.out)
    texts = list(itertools.islice(iter_texts(Path(config.data), config.columns), REPORT_TEXTS))
    ids = tokenizer.encode_batch(texts)
    lost = sum(tokenizer.decode(row) != text for row, text in zip(ids, texts, strict=True))
    chars_per_token = sum(map(len, texts)) / sum(map(len, ids))
    return json.dumps(
        {
            "tokenizer": config.out,
            "vocab_size": tokenizer.vocab_size,
            "chars_per_token": round(chars_per_token, 3),
            "measured_on_texts": len(texts),
            "texts_not_restored": lost,
            "seconds": round(seconds, 1),
            "fingerprint": tokenizer.fingerprint,
        },
        ensure_ascii=False,
    )


def main(argv: Sequence[str]) -> int:
    """Trains, saves and reports."""
    if any(token in ("-h", "--help", "help") for token in argv):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(TrainTokenizerConfig)}")
        return 0
    config = cli.parse(argv, TrainTokenizerConfig)
    texts = iter_texts(Path(config.data), config.columns)
    from chatlm.tokenizer import Tokenizer

    start = time.monotonic()
    tokenizer = Tokenizer.train(
        texts,
        config.vocab_size,
        max_chars=config.max_chars,
        seed=config.seed,
        num_threads=config.num_threads,
    )
    tokenizer.save(config.out)
    print(report(config, time.monotonic() - start))
    return 0


if __name__ == "__main__":
    cli.run(main)
