"""Pre-tokenised pairs on disk, opened by memory mapping.

In: (prompt, response) texts and a tokenizer. Out: a folder with the token ids of all sources and
targets, their offsets and a `meta.json`; opening it reads no ids. `meta.json` has the sha256 of the
other files, by which a folder can be checked, also while it is in use, and tells how many earlier
turns the model will learn to read. It does not choose an order and does not pad. A folder is
written under a temporary name and renamed when it is whole.
"""

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ujson

from chatlm import untrusted
from chatlm.corpus.store import file_sha256
from chatlm.dataset.prompts import Histories
from chatlm.dataset.token_rows import Encoded, Ids, Limits, encode
from chatlm.errors import DataError
from chatlm.tokenizer import Tokenizer
from chatlm.tokenizer_training import require_utf8

FORMAT_VERSION = 3
"""2 cut conversations at their end, as it cut single questions, and did not count turns."""
READABLE_VERSIONS = (2, 3)
PAD_ID = 0
META = "meta.json"
FILES = frozenset(
    {
        *("sources.bin", "source_offsets.npy", "targets.bin", "target_offsets.npy"),
        "target_chars.npy",
    }
)
"""All files of a store but `META`, which lists them."""
DTYPES = ("uint16", "uint32")
BATCH_ROWS = 4096
MIN_HISTORY_SHARE = 0.01
"""Of the pairs; a model that hardly ever sees a history does not learn to use one."""


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
    folder: Path | None = None
    stamps: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def history_turns(self) -> int:
        """The earlier turns that a model can learn to read here; 0 if too few pairs have any."""
        share = self.meta.get("histories", 0) / max(1, len(self))
        return self.meta["max_turns"] if share >= MIN_HISTORY_SHARE else 0

    def require_unchanged(self) -> None:
        """Sees to it that the mapped files are still what was opened; reads only changed ones.

        A file that was deleted or replaced stays in memory as it was.

        Raises:
            DataError: one was written to.
        """
        for name, before in self.stamps.items():
            path = (self.folder or Path()) / name
            now = _stamp(path)
            if now is None or now == before or now[0] != before[0]:
                continue
            found, expected = file_sha256(path), self.meta["files"][name]
            if found != expected:
                raise DataError(
                    f"{path} has changed while the training read it (sha256 {expected[:12]}, now "
                    f"{found[:12]}): the steps since the last checkpoint are not saved; delete "
                    f"{self.folder} and go on with resume=True"
                )


def fingerprint(
    data_sha256: str, tokenizer: Tokenizer, limits: Limits, version: int = FORMAT_VERSION
) -> str:
    """Returns the hex name that stores with the same contents share."""
    parts = (version, data_sha256, tokenizer.fingerprint, limits)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def write(
    pairs: Iterable[tuple[str, str]], tokenizer: Tokenizer, limits: Limits, folder: Path, name: str
) -> None:
    """Writes a store of pairs that are in memory; see `write_batches`.

    Raises:
        DataError: as `write_batches`, or a text holds a lone surrogate.
    """
    write_batches(_batches(pairs), tokenizer, limits, folder, name)


def write_batches(
    batches: Iterable[pa.RecordBatch],
    tokenizer: Tokenizer,
    limits: Limits,
    folder: Path,
    name: str,
    *,
    num_threads: int = 1,
) -> None:
    """Writes a store into `folder`; rows with an empty side are left out and counted.

    The files do not depend on `num_threads` nor on where the batches were cut. A few batches and,
    at the end, 20 bytes for each pair are in memory.

    Args:
        batches: text columns prompt and response; a few thousand rows each are best.
        tokenizer: makes the ids; ids are stored in 2 bytes when its vocabulary allows it.
        limits: a conversation loses its oldest turns until it fits, and a question that is too
            long by itself is cut, so that each source fits with its EOS; a cut target gets no EOS,
            so that the model is never taught to stop in the middle of a sentence.
        folder: where the store will lie; must not exist.
        name: the fingerprint to write into it.
        num_threads: encoders at work.

    Raises:
        DataError: no usable pair, text that is not UTF-8, or the folder cannot be written.
    """
    part = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        meta = _write_rows(batches, tokenizer, limits, part, num_threads)
        if not meta["rows"]:
            raise DataError(
                "there is no pair to train on: every row has an empty prompt or response"
            )
        files = {path.name: file_sha256(path) for path in sorted(part.iterdir())}
        whole = meta | {"fingerprint": name, "files": files}
        (part / META).write_text(ujson.dumps(whole, indent=1))
        for path in part.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        if not folder.is_dir():  # another run may have made the same store meanwhile
            part.rename(folder)
    except OSError as error:
        raise DataError(f"cannot write the token store {folder}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_rows(
    batches: Iterable[pa.RecordBatch],
    tokenizer: Tokenizer,
    limits: Limits,
    part: Path,
    num_threads: int,
) -> dict[str, Any]:
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    lengths: tuple[list[npt.NDArray[np.uint32]], ...] = ([], [])
    chars: list[npt.NDArray[np.uint32]] = []
    empty, cut, histories = 0, [0, 0], Histories()
    encoder = partial(encode, tokenizer=tokenizer, limits=limits, dtype=dtype)
    with (part / "sources.bin").open("wb") as sources, (part / "targets.bin").open("wb") as targets:
        for encoded in _in_order(encoder, batches, num_threads):
            for side, file in enumerate((sources, targets)):
                file.write(encoded.ids[side].data)
                lengths[side].append(encoded.lengths[side])
                cut[side] += encoded.num_cut[side]
            chars.append(encoded.target_chars)
            empty += encoded.num_empty
            histories += encoded.histories
    np.save(part / "source_offsets.npy", _offsets(lengths[0]))
    np.save(part / "target_offsets.npy", _offsets(lengths[1]))
    np.save(part / "target_chars.npy", np.concatenate([np.zeros(0, np.uint32), *chars]))
    return {
        "format": FORMAT_VERSION,
        "dtype": dtype.name,
        "rows": sum(map(len, chars)),
        "empty_rows": empty,
        "cut_sources": cut[0],
        "cut_targets": cut[1],
        "shortened_histories": histories.num_shortened,
        "histories": histories.num_prompts,
        "max_turns": histories.max_turns,
        "tokenizer": tokenizer.fingerprint,
    }


def _in_order(
    encode: Callable[[pa.RecordBatch], Encoded],
    batches: Iterable[pa.RecordBatch],
    num_threads: int,
) -> Iterator[Encoded]:
    """Yields the encoded batches in their order, a few of them made ahead by threads.

    Threads are enough: SentencePiece, Arrow and numpy release Python's lock for nearly all of it.
    """
    if num_threads == 1:
        yield from map(encode, batches)
        return
    with ThreadPoolExecutor(num_threads) as pool:
        waiting: deque[Future[Encoded]] = deque()
        for batch in batches:
            waiting.append(pool.submit(encode, batch))
            if len(waiting) > 2 * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _batches(pairs: Iterable[tuple[str, str]]) -> Iterator[pa.RecordBatch]:
    rest = iter(pairs)
    while batch := list(islice(rest, BATCH_ROWS)):
        for pair in batch:
            for text in pair:
                require_utf8(text)
        columns = [pa.array(column, pa.string()) for column in zip(*batch, strict=True)]
        yield pa.RecordBatch.from_arrays(columns, names=["prompt", "response"])


def _offsets(lengths: Sequence[npt.NDArray[np.uint32]]) -> npt.NDArray[np.int64]:
    flat = np.concatenate([np.zeros(1, np.uint32), *lengths])
    return np.cumsum(flat, dtype=np.int64)


def open_store(folder: Path) -> TokenStore:
    """Returns the store in `folder`, its ids memory-mapped.

    Raises:
        DataError: a file is missing, of another format version, not of the recorded size, or
            `meta.json` lists others than these.
    """
    try:
        meta = untrusted.read_object(folder / META)
        if meta["format"] not in READABLE_VERSIONS:
            readable = " and ".join(map(str, READABLE_VERSIONS))
            raise DataError(
                f"token store {folder} has format {meta['format']}, this version reads {readable}: "
                "delete the folder, it will be made anew"
            )
        listed = _listed(meta)
        if meta["dtype"] not in DTYPES:
            raise ValueError(f"{META} has the dtype {untrusted.shown(meta['dtype'])}")
        dtype = np.dtype(meta["dtype"])
        halves = {}
        for side in ("source", "target"):
            path = folder / f"{side}s.bin"
            offsets = np.load(folder / f"{side}_offsets.npy", mmap_mode="r", allow_pickle=False)
            if offsets.dtype != np.int64 or offsets.ndim != 1 or not len(offsets):
                raise ValueError(f"{side}_offsets.npy holds no offsets")
            if path.stat().st_size != offsets[-1] * dtype.itemsize:
                raise DataError(f"{path} is damaged: delete {folder}, it will be made anew")
            halves[side] = Ragged(np.memmap(path, dtype, "r"), offsets)
        chars = np.load(folder / "target_chars.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"token store {folder} is damaged ({untrusted.reason(error)}): delete the folder, it "
            "will be made anew"
        ) from error
    stamps = {name: stamp for name in listed if (stamp := _stamp(folder / name))}
    return TokenStore(halves["source"], halves["target"], chars, meta, folder, stamps)


def _listed(meta: Mapping[str, Any]) -> dict[str, str]:
    """Returns the sha256 of each file of a store.

    Raises:
        ValueError: the list leaves one out, or names anything else, as a path out of the folder.
        KeyError: there is no list.
    """
    listed = meta["files"]
    if not isinstance(listed, dict) or not all(isinstance(one, str) for one in listed.values()):
        raise ValueError(f"{META} has no sha256 of the files")
    if others := sorted(name for name in listed if name not in FILES):
        raise ValueError(f"{META} lists {untrusted.shown(others[0])}, which is no part of a store")
    if missing := sorted(FILES - listed.keys()):
        raise ValueError(f"{META} does not list {missing[0]}")
    return listed


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Returns what changes when a file is written to: its number, size and time."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def damage(folder: Path) -> str | None:
    """Returns what is wrong with a store in one line, or None; reads it whole."""
    try:
        for name, expected in _listed(untrusted.read_object(folder / META)).items():
            found = file_sha256(folder / name)
            if found != expected:
                return f"{name} has sha256 {found[:12]}, not {expected[:12]}"
    except (OSError, ValueError) as error:
        return untrusted.reason(error)
    except KeyError as error:
        return f"{META} has no {error}"
    return None
