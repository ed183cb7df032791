"""How many tokens the pairs of a run have, as exactly as can be told without preparing them.

In: the settings and where the pairs are. Out: `Pairs`: token counts of every pair, or of a sample,
and how they were found. It writes nothing: pairs that are not prepared are counted from the file's
footer and a sample of rows is tokenised; without a tokenizer, tokens are guessed from characters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chatlm.config import TrainConfig
from chatlm.corpus import readers, starter, store
from chatlm.corpus.example import Example
from chatlm.corpus.parquet_file import open_parquet
from chatlm.corpus.records import Record
from chatlm.corpus.sources import SOURCES
from chatlm.corpus.starter_parts import OPEN_REPEATS
from chatlm.corpus.table_header import CONVERSATION_NAMES
from chatlm.dataset import prepare, token_store
from chatlm.dataset.prepare import Source
from chatlm.dataset.token_store import Limits
from chatlm.errors import DataError
from chatlm.tokenizer import Tokenizer

SAMPLE_PAIRS = 4096
CHARS_PER_TOKEN = 1.5
"""Of Chinese chat with a small vocabulary; assumed only where there is no tokenizer to ask."""

Lengths = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """The training pairs of a run, by their lengths in tokens.

    Attributes:
        num_pairs: Pairs an epoch.
        source_lengths: Tokens of each source, EOS included, of all pairs or of a sample.
        target_lengths: Tokens of the same pairs' targets.
        vocab_size: Entries of the tokenizer.
        basis: How these figures were found, for people.
        is_prepared: Whether the token store is there already.
    """

    num_pairs: int
    source_lengths: Lengths
    target_lengths: Lengths
    vocab_size: int
    basis: str
    is_prepared: bool = False

    def tokens_an_epoch(self) -> tuple[float, float]:
        """Returns source and target tokens, extrapolated from the sample."""
        return (
            float(self.source_lengths.mean()) * self.num_pairs,
            float(self.target_lengths.mean()) * self.num_pairs,
        )

    def some(self) -> tuple[Lengths, Lengths]:
        """Returns the source and target lengths of a few thousand pairs, evenly taken."""
        return _thinned(self.source_lengths), _thinned(self.target_lengths)


def _thinned(lengths: Lengths) -> Lengths:
    return lengths[:: -(-len(lengths) // SAMPLE_PAIRS)]


def find(config: TrainConfig, source: Source) -> Pairs:
    """Returns the lengths of a run's training pairs.

    Raises:
        DataError: the pairs cannot be read, or there are none.
        CheckpointError: the named tokenizer is missing or damaged.
    """
    if source.kind == "starter":
        return _of_starter(config, source)
    if source.kind == "file":
        return _sampled(config, _tokenizer(config, source, ""), *sample(source))
    return _of_parquet(config, source, source.path / "train.parquet")


def sample(source: Source) -> tuple[int, list[tuple[str, str]]]:
    """Returns how many training pairs a run would read, and the texts of some of them.

    Raises:
        DataError: they cannot be read.
    """
    if source.kind == "starter":
        return _expanded(source)
    if source.kind == "file":
        # A run would clean and split it first, and none of that is worth doing for a sample.
        return (_read_parquet if _is_table_of_pairs(source.path) else _read_records)(source.path)
    return _read_parquet(source.path / "train.parquet")


def _is_table_of_pairs(path: Path) -> bool:
    """Returns whether a file has the pairs as they are, so that its footer tells their number."""
    if readers.layout_of(path) != "parquet":
        return False
    with open_parquet(path) as file:
        names = set(file.schema_arrow.names)
    return {"prompt", "response"} <= names and names.isdisjoint(CONVERSATION_NAMES)


def _of_parquet(config: TrainConfig, source: Source, path: Path) -> Pairs:
    digest = prepare.sha256(path)
    tokenizer = _tokenizer(config, source, digest)
    if tokenizer is not None:
        limits = Limits(config.max_source_tokens, config.max_target_tokens)
        name = token_store.fingerprint(digest, tokenizer, limits)
        folder = prepare.CACHE / f"tokens-{name}"
        if folder.is_dir():
            return _stored(folder, tokenizer)
    return _sampled(config, tokenizer, *_read_parquet(path))


def _of_starter(config: TrainConfig, source: Source) -> Pairs:
    """Expands the tables in memory, unless a run has made the parts before."""
    cached = prepare.cached_parts(source) / "train.parquet"
    if cached.is_file():
        return _of_parquet(config, source, cached)
    return _sampled(config, _tokenizer(config, source, ""), *_expanded(source))


def _expanded(source: Source) -> tuple[int, list[tuple[str, str]]]:
    """Returns how many pairs the tables of the starter corpus make, and the texts of some."""
    examples = starter.expand(source.path, "train")
    is_open = starter.SOURCE["open"]
    examples += [one for one in examples if one.source.startswith(is_open)] * (OPEN_REPEATS - 1)
    some = examples[:: -(-len(examples) // SAMPLE_PAIRS)]
    return len(examples), [(one.prompt, one.response) for one in some]


def _tokenizer(config: TrainConfig, source: Source, digest: str) -> Tokenizer | None:
    """Returns the tokenizer that a run would load, or None where it has yet to be trained."""
    if config.tokenizer:
        return Tokenizer.load(config.tokenizer)
    folder = prepare.tokenizer_folder(config, source, digest)
    return Tokenizer.load(folder) if folder.is_dir() else None


def _stored(folder: Path, tokenizer: Tokenizer) -> Pairs:
    opened = token_store.open_store(folder)
    lengths = np.diff(opened.sources.offsets), np.diff(opened.targets.offsets)
    return Pairs(len(opened), *lengths, tokenizer.vocab_size, f"token store {folder} (exact)", True)


def _read_parquet(path: Path) -> tuple[int, list[tuple[str, str]]]:
    """Returns the number of rows, and the texts of the first ones: builds shuffle their rows."""
    batch = next(store.read_pairs(path, ("prompt", "response"), SAMPLE_PAIRS), None)
    columns = ([], []) if batch is None else (column.to_pylist() for column in batch.columns)
    return store.num_rows(path), [(a or "", b or "") for a, b in zip(*columns, strict=True)]


def _read_records(path: Path) -> tuple[int, list[tuple[str, str]]]:
    """Returns the number of pairs in a file of another format, and the first ones."""
    source = SOURCES["pairs"]

    def pairs() -> Iterator[tuple[str, str]]:
        for record in readers.read(path, source.columns):
            converted = source.convert(record.fields) if isinstance(record, Record) else ""
            if not isinstance(converted, str):
                yield from ((o.prompt, o.response) for o in converted if isinstance(o, Example))

    rest = pairs()
    first = list(islice(rest, SAMPLE_PAIRS))
    return len(first) + sum(1 for _ in rest), first


def _sampled(
    config: TrainConfig, tokenizer: Tokenizer | None, num_pairs: int, texts: list[tuple[str, str]]
) -> Pairs:
    texts = [pair for pair in texts if all(pair)]
    if not texts:
        raise DataError("there is no pair to plan for: every row has an empty prompt or response")
    sources, targets = zip(*texts, strict=True)
    if tokenizer is None:
        found = [
            np.ceil(np.array([len(t) for t in s]) / CHARS_PER_TOKEN) for s in (sources, targets)
        ]
        how = f"their characters, {CHARS_PER_TOKEN} a token assumed: there is no tokenizer yet"
        vocab_size = config.vocab_size
    else:
        found = [
            tokenizer.encode_flat([text.encode() for text in side])[1]
            for side in (sources, targets)
        ]
        how = "tokenised"
        vocab_size = tokenizer.vocab_size
    limits = config.max_source_tokens, config.max_target_tokens
    source, target = (
        np.minimum(side.astype(np.int64) + 1, limit)
        for side, limit in zip(found, limits, strict=True)
    )
    every = "all" if len(texts) >= num_pairs else f"a sample of {len(texts):,} of"
    basis = f"{every} {num_pairs:,} pairs, {how}"
    return Pairs(num_pairs, source, target, vocab_size, basis)
