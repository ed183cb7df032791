"""Compares our encoder with Hugging Face's: the ids on every text of a folder, and the speed.

In: a tokenizer folder; for `same` a folder of real files, for `speed` a parquet file of pairs. Out:
one JSON object on stdout. `same` counts the texts whose ids differ (0 are expected); `speed` gives
medians of interleaved rounds, and what they would mean for ten million pairs.

    python benchmarks/tokenizing.py same tokenizer=data/tokenizer data=folder
    python benchmarks/tokenizing.py speed tokenizer=data/tokenizer data=pairs.parquet rounds=5
"""

import csv
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import transformers

from chatlm import cli
from chatlm.corpus import store
from chatlm.corpus.read_table import encoding_of
from chatlm.dataset import token_store
from chatlm.dataset.token_store import Limits
from chatlm.errors import ConfigError
from chatlm.tokenizer import Tokenizer

CHUNK_TEXTS = 2000
TEN_MILLION = 10_000_000
LIMITS = Limits(max_source_tokens=256, max_target_tokens=512)


@dataclass(frozen=True)
class Settings:
    """Settings of `benchmarks/tokenizing.py`."""

    data: str = field(metadata={"help": "same: a folder of real files; speed: a parquet file"})
    tokenizer: str = field(default="data/tokenizer", metadata={"help": "a saved tokenizer"})
    rounds: int = field(default=5, metadata={"help": "of every measurement"})
    texts: int = field(default=20_000, metadata={"help": "pairs for the encoders alone"})
    threads: int = field(default=2, metadata={"help": "of the store's second measurement"})
    library: bool = field(default=True, metadata={"help": "measure Hugging Face's encoder, too"})


def same(settings: Settings) -> dict[str, Any]:
    """Returns, for each file, how many texts there are and how many get other ids."""
    ours, theirs = Tokenizer.load(settings.tokenizer), library(settings.tokenizer)
    files: dict[str, Any] = {}
    folder = Path(settings.data)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        rest, texts, tokens, differ = texts_of(path), 0, 0, 0
        while chunk := list(islice(rest, CHUNK_TEXTS)):
            expected = theirs(chunk)
            flat, lengths = ours.encode_flat([text.encode() for text in chunk])
            start = 0
            rows = zip(ours.encode_batch(chunk), expected, lengths.tolist(), strict=True)
            for mine, other, length in rows:
                differ += mine != other or flat[start : start + length].tolist() != other
                start += length
            texts, tokens = texts + len(chunk), tokens + start
        if texts:
            files[str(path.relative_to(folder))] = {
                "texts": texts,
                "tokens": tokens,
                "different": differ,
            }
    totals = {key: sum(file[key] for file in files.values()) for key in ("texts", "tokens")}
    return totals | {"different": sum(one["different"] for one in files.values()), "files": files}


def library(folder: str) -> Callable[[list[str]], list[list[int]]]:
    """Returns the encoder of `transformers.AutoTokenizer`, without the special tokens it adds."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    probe = tokenizer("</s>", add_special_tokens=False)["input_ids"]
    backend = tokenizer.backend_tokenizer
    assert backend.encode_special_tokens, "the folder's split_special_tokens is not honoured"
    assert probe == backend.encode("</s>", add_special_tokens=False).ids

    def encode(texts: list[str]) -> list[list[int]]:
        return [row.ids for row in backend.encode_batch_fast(texts, add_special_tokens=False)]

    return encode


def texts_of(path: Path) -> Iterator[str]:
    """Yields every text in a file: all strings of tables and JSON, whole text files and lines."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(CHUNK_TEXTS):
                yield from strings_in(batch.to_pylist())
    elif path.suffix == ".csv":
        with path.open(encoding=encoding_of(path), newline="") as file:
            yield from strings_in(list(csv.reader(file)))
    elif path.suffix in (".json", ".jsonl", ".txt", ".md", ".attardi", ".wikitext"):
        text = path.read_text(encoding="utf-8")
        yield from strings_in(_parsed(text) if path.suffix.startswith(".json") else text)
        yield from strings_in([] if path.suffix.startswith(".json") else text.split("\n"))


def _parsed(text: str) -> Any:
    """Returns the content of JSON, or of JSON Lines: published names do not tell which."""
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.split("\n") if line.strip()]


def strings_in(value: Any) -> Iterator[str]:
    """Yields the strings of nested lists and dicts, those that are not empty."""
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, dict):
        yield from strings_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from strings_in(one)


def speed(settings: Settings) -> dict[str, Any]:
    """Returns tokens a second of the encoders, and of writing a whole store."""
    ours, path = Tokenizer.load(settings.tokenizer), Path(settings.data)
    rows = store.num_rows(path)
    batch = next(store.read_pairs(path, ("prompt", "response"), settings.texts))
    texts = [text for column in batch.columns for text in column.to_pylist() if text]
    raw = [text.encode() for text in texts]
    num_tokens = int(ours.encode_flat(raw)[1].sum())
    encoders: dict[str, Callable[[], object]] = {
        "ours_lists": lambda: ours.encode_batch(texts),
        "ours_flat": lambda: ours.encode_flat(raw),
    }
    if settings.library:
        theirs = library(settings.tokenizer)
        encoders["library"] = lambda: theirs(texts)
    found = {"encoders_one_thread": _medians(encoders, num_tokens, settings.rounds)}
    with tempfile.TemporaryDirectory(
        dir=path.parent if os.access(path.parent, os.W_OK) else None
    ) as folder:
        written: dict[str, Callable[[], object]] = {
            f"store_{threads}_threads": lambda threads=threads: _write(
                path, ours, Path(folder), threads
            )
            for threads in (1, settings.threads)
        }
        _write(path, ours, Path(folder), settings.threads)
        one = next(Path(folder).iterdir())
        all_tokens = sum(file.stat().st_size for file in one.glob("*.bin")) // 2
        found["store"] = _medians(written, all_tokens, settings.rounds)
    for result in found["store"].values():
        result["pairs_per_second"] = round(rows / result["seconds"])
        result["seconds_for_10m_such_pairs"] = round(result["seconds"] * TEN_MILLION / rows)
    return {"pairs": rows, "tokens": all_tokens, "tokens_per_pair": all_tokens / rows} | found


def _write(path: Path, tokenizer: Tokenizer, folder: Path, threads: int) -> None:
    """Writes a store into a folder of its own, and leaves that of the last call."""
    for old in folder.iterdir():
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    batches = store.read_pairs(path, ("prompt", "response"), token_store.BATCH_ROWS)
    token_store.write_batches(
        batches, tokenizer, LIMITS, folder / str(threads), "x", num_threads=threads
    )


def _medians(
    calls: dict[str, Callable[[], object]], num_tokens: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Runs the calls in turn, `rounds` times; CPU seconds are less shaken by other processes."""
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start, used = time.perf_counter(), time.process_time()
            call()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - used)
    return {
        name: {
            "seconds": round(statistics.median(wall[name]), 2),
            "cpu_seconds": round(statistics.median(cpu[name]), 2),
            "tokens_per_second": round(num_tokens / statistics.median(wall[name])),
            "tokens_per_cpu_second": round(num_tokens / statistics.median(cpu[name])),
        }
        for name in calls
    }


def main(argv: Sequence[str]) -> int:
    """Runs one of the two comparisons and prints what it found."""
    commands = {"same": same, "speed": speed}
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(f"{(__doc__ or '').strip()}\n\n{cli.help_text(Settings)}")
        return 0
    if argv[0] not in commands:
        raise ConfigError(f"'{argv[0]}' is no command: expected {' or '.join(commands)}")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true" if argv[0] == "same" else "false")
    found = commands[argv[0]](cli.parse(argv[1:], Settings))
    print(json.dumps(found, ensure_ascii=False, indent=1))
    return int(bool(found.get("different")))


if __name__ == "__main__":
    cli.run(main)
