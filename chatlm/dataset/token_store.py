"""Pre-tokenised pairs on disk, opened by memory mapping.

In: (prompt, response) texts and a tokenizer. Out: a folder with the token ids of all sources and
targets, their offsets and a `meta.json`; opening it reads no ids. It does not choose an order and
does not pad. A folder is written under a temporary name and renamed when it is whole.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ujson

from chatlm.errors import DataError
from chatlm.tokenizer import Tokenizer

FORMAT_VERSION = 1
PAD_ID = 0
_BATCH_ROWS = 4096

Ids = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Limits:
    """Longest source and target, in tokens, EOS included."""

    max_source_tokens: int
    max_target_tokens: int


@dataclass(frozen=True)
class Ragged:
    """Rows of unequal length in one flat array: row i is ids[offsets[i]:offsets[i + 1]]."""

    ids: Ids
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Ids:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens in every row."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class TokenStore:
    """All pairs of one split: sources and targets as token ids, responses' lengths in characters.

    `target_chars[i]` counts the characters that the target ids of row i stand for, so bits per
    character are right for cut answers too.
    """

    sources: Ragged
    targets: Ragged
    target_chars: npt.NDArray[np.uint32]
    meta: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.sources)


def fingerprint(data_sha256: str, tokenizer: Tokenizer, limits: Limits) -> str:
    """Returns the hex name that stores with the same contents share."""
    parts = (FORMAT_VERSION, data_sha256, tokenizer.fingerprint, limits)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def write(
    pairs: Iterable[tuple[str, str]], tokenizer: Tokenizer, limits: Limits, folder: Path, name: str
) -> None:
    """Writes a store into `folder`; rows with an empty side are left out and counted.

    Args:
        pairs: (prompt, response).
        tokenizer: makes the ids; ids are stored in 2 bytes when its vocabulary allows it.
        limits: a source is cut to fit with its EOS; a cut target gets no EOS, so that the model
            is never taught to stop in the middle of a sentence.
        folder: where the store will lie; must not exist.
        name: the fingerprint to write into it.

    Raises:
        DataError: no usable pair, or the folder cannot be written.
    """
    part = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        meta = _write_rows(pairs, tokenizer, limits, part)
        if not meta["rows"]:
            raise DataError(
                "there is no pair to train on: every row has an empty prompt or response"
            )
        (part / "meta.json").write_text(ujson.dumps(meta | {"fingerprint": name}, indent=1))
        if not folder.is_dir():  # another run may have made the same store meanwhile
            part.rename(folder)
    except OSError as error:
        raise DataError(f"cannot write the token store {folder}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_rows(
    pairs: Iterable[tuple[str, str]], tokenizer: Tokenizer, limits: Limits, part: Path
) -> dict[str, Any]:
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    source_lengths: list[npt.NDArray[np.int64]] = []
    target_lengths: list[npt.NDArray[np.int64]] = []
    chars: list[npt.NDArray[np.uint32]] = []
    empty = cut_sources = cut_targets = 0
    with (part / "sources.bin").open("wb") as sources, (part / "targets.bin").open("wb") as targets:
        for batch in _batches(pairs):
            kept = [(prompt, response) for prompt, response in batch if prompt and response]
            empty += len(batch) - len(kept)
            source_ids = tokenizer.encode_batch([prompt for prompt, _ in kept])
            target_ids = tokenizer.encode_batch([response for _, response in kept])
            cut_sources += sum(len(ids) >= limits.max_source_tokens for ids in source_ids)
            source_ids = [ids[: limits.max_source_tokens - 1] for ids in source_ids]
            for ids in source_ids:
                ids.append(tokenizer.eos_id)
            counts = np.array([len(response) for _, response in kept], np.uint32)
            for row, ids in enumerate(target_ids):
                if len(ids) < limits.max_target_tokens:
                    ids.append(tokenizer.eos_id)
                else:
                    cut_targets += 1
                    del ids[limits.max_target_tokens :]
                    counts[row] = len(tokenizer.decode(ids))
            chars.append(counts)
            source_lengths.append(_append(source_ids, dtype, sources))
            target_lengths.append(_append(target_ids, dtype, targets))
        for file in (sources, targets):
            file.flush()
            os.fsync(file.fileno())
    np.save(part / "source_offsets.npy", _offsets(source_lengths))
    np.save(part / "target_offsets.npy", _offsets(target_lengths))
    np.save(part / "target_chars.npy", np.concatenate(chars) if chars else np.zeros(0, np.uint32))
    return {
        "format": FORMAT_VERSION,
        "dtype": dtype.name,
        "rows": sum(map(len, source_lengths)),
        "empty_rows": empty,
        "cut_sources": cut_sources,
        "cut_targets": cut_targets,
        "tokenizer": tokenizer.fingerprint,
    }


def _batches(pairs: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    batch: list[tuple[str, str]] = []
    for pair in pairs:
        batch.append(pair)
        if len(batch) == _BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _append(rows: list[list[int]], dtype: np.dtype[Any], file: Any) -> npt.NDArray[np.int64]:
    lengths = np.array([len(row) for row in rows], np.int64)
    flat = np.fromiter((token for row in rows for token in row), dtype, int(lengths.sum()))
    file.write(flat.tobytes())
    return lengths


def _offsets(lengths: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    flat = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)
    return np.concatenate([[0], np.cumsum(flat)]).astype(np.int64)


def open_store(folder: Path) -> TokenStore:
    """Returns the store in `folder`, its ids memory-mapped.

    Raises:
        DataError: a file is missing, of another format version, or not of the recorded size.
    """
    try:
        meta = ujson.loads((folder / "meta.json").read_text())
        if meta["format"] != FORMAT_VERSION:
            raise DataError(
                f"token store {folder} has format {meta['format']}, this version reads "
                f"{FORMAT_VERSION}: delete the folder, it will be made anew"
            )
        dtype = np.dtype(meta["dtype"])
        halves = {}
        for side in ("source", "target"):
            path = folder / f"{side}s.bin"
            offsets = np.load(folder / f"{side}_offsets.npy", mmap_mode="r", allow_pickle=False)
            if path.stat().st_size != offsets[-1] * dtype.itemsize:
                raise DataError(f"{path} is damaged: delete {folder}, it will be made anew")
            halves[side] = Ragged(np.memmap(path, dtype, "r"), offsets)
        chars = np.load(folder / "target_chars.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"token store {folder} is damaged ({error}): delete the folder, it will be made anew"
        ) from error
    return TokenStore(halves["source"], halves["target"], chars, meta)
