"""Rows to what they are compared by.

In: prompts and responses. Out: `Signed`: folded texts, hashes of keys, band keys; in memory, or of
a whole shard as files. It compares nothing.
"""

import functools
import io
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from chatlm.corpus import store
from chatlm.corpus.conversation import ASSISTANT, USER, opening
from chatlm.corpus.duplicates.settings import DuplicateSettings
from chatlm.corpus.kernels.folding import SEPARATOR, fold_rows, hash_points, joined
from chatlm.corpus.kernels.minhash import band_factors, permutations, sign_rows
from chatlm.corpus.kernels.texts import Texts
from chatlm.corpus.keys import fold_tables, folded, folded_key, prose_key
from chatlm.errors import DataError

BLOCK_ROWS = 3_300
"""Not near a power of two: band keys are written so far apart, and would share cache lines."""
_HEADER_START = 10
"""Where the text of the header of an npy file begins; its length stands before."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What N rows are compared by.

    Attributes:
        units: uint16: the folded rows, one behind the other, see `folding.fold_rows`.
        ends: int64, (N + 1,): where each begins in `units`.
        spans: uint32, (N, 3): where in it the question begins and ends, and its separator.
        digests: uint64, (N, 2): hash of the prose keys of prompt and response.
        questions: uint64, (N,): hash of the prose key of the question.
        contents: uint64, (N,): hash of the row's bytes.
        pair_keys: uint32, (bands, N): band keys of rows.
        question_keys: uint32, (bands, N): band keys of questions.
        long_enough: uint8, (N,): 1 if the row has pair keys, plus 2 if it has question keys.
    """

    units: NDArray[np.uint16]
    ends: NDArray[np.int64]
    spans: NDArray[np.uint32]
    digests: NDArray[np.uint64]
    questions: NDArray[np.uint64]
    contents: NDArray[np.uint64]
    pair_keys: NDArray[np.uint32]
    question_keys: NDArray[np.uint32]
    long_enough: NDArray[np.uint8]


NAMES = tuple(Signed.__dataclass_fields__)


def file_of(folder: str, name: str) -> str:
    """Returns where a shard keeps one of the fields of `Signed`."""
    return f"{folder}/{name}.npy"


def files_of(folder: str, *names: str) -> tuple[str, ...]:
    """Returns where a shard keeps some fields of `Signed`, by default all."""
    return tuple(file_of(folder, name) for name in names or NAMES)


def load(folder: str, name: str) -> NDArray[Any]:
    """Returns one field of a signed shard, mapped from its file.

    Raises:
        DataError: The file is missing or damaged.
    """
    return mapped(file_of(folder, name))


def mapped(path: str) -> NDArray[Any]:
    """Returns the array of an npy file, mapped; many times faster than `np.load` at small files.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        with Path(path).open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        size = _HEADER_START + int.from_bytes(content[8:_HEADER_START], "little")
        shape, dtype = _parsed(content[:size])
        return np.ndarray(shape, dtype, content, size)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not readable ({error}); build again") from error


@functools.lru_cache(1024)
def _parsed(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Returns the shape and the type that the header of an npy file tells.

    Raises:
        ValueError: It is none of version 1, or of an array by columns.
    """
    file = io.BytesIO(header)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not version 1 of the npy format")
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    if by_columns and len(shape) > 1:
        raise ValueError("an array by columns")
    return shape, dtype


def sign_shard(shard: str, folder: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Task: signs the rows of one clean shard.

    Raises:
        DataError: The shard cannot be read.
    """
    chosen = DuplicateSettings(**settings)
    units = Path(folder) / "units.npy"
    parts = list[Signed]()
    num_units = 0
    with store.replacing(units) as file:
        file.write(_header(0))
        for prompts, responses in _blocks(shard):
            part = sign(prompts, responses, chosen)
            file.write(part.units.data)
            parts.append(Signed(np.zeros(0, np.uint16), part.ends + num_units, *_fields(part)[2:]))
            num_units += len(part.units)
        file.seek(0)
        file.write(_header(num_units))
    whole = _together(parts, chosen)
    for name in NAMES[1:]:
        with store.replacing(Path(file_of(folder, name))) as file:
            np.save(file, getattr(whole, name))
    return {"rows_in": len(whole.questions), "units": num_units}


def sign(prompts: Texts, responses: Texts, settings: DuplicateSettings) -> Signed:
    """Returns what the rows of two columns of one length are compared by."""
    tables = fold_tables()
    num_rows = len(prompts)
    ends, spans = np.zeros(num_rows + 1, np.int64), np.zeros((num_rows, 3), np.uint32)
    hashes, undecided = np.zeros((num_rows, 4), np.uint64), np.zeros(num_rows, np.bool_)
    room = int(prompts.num_bytes.sum() + responses.num_bytes.sum()) + num_rows
    longest = int(prompts.num_bytes.max(initial=0))
    units = np.empty(2 * (room + longest), np.uint16)
    fold_rows(
        prompts.data, prompts.offsets, responses.data, responses.offsets,
        tables.key, tables.low, tables.spread, _USER, _ASSISTANT, _USER_UNITS,
        units, ends, spans, hashes, undecided,
    )  # fmt: skip
    units = units[: ends[-1]]
    left = np.flatnonzero(undecided)
    if len(left):
        units = _fold_left(left, prompts, responses, units, ends, spans, hashes)
    pair_keys = np.zeros((settings.pair_bands, num_rows), np.uint32)
    question_keys = np.zeros((settings.question_bands, num_rows), np.uint32)
    long_enough = np.zeros(num_rows, np.uint8)
    num_lanes = max(settings.pair_lanes, settings.question_lanes)
    sign_rows(
        units, ends, spans,
        permutations(num_lanes), band_factors(num_lanes),
        settings.pair_band_rows, settings.question_band_rows,
        pair_keys, question_keys, long_enough,
    )  # fmt: skip
    digests, questions, contents = (
        np.ascontiguousarray(hashes[:, :2]), hashes[:, 2].copy(), hashes[:, 3].copy()
    )  # fmt: skip
    return Signed(
        units, ends, spans, digests, questions, contents, pair_keys, question_keys, long_enough
    )


def _utf8(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


def _utf16(text: str) -> NDArray[np.uint16]:
    return np.frombuffer(text.encode("utf-16-le"), np.uint16)


_USER, _ASSISTANT = _utf8(USER), _utf8(f"\n{ASSISTANT}")
_USER_UNITS = len(_utf16(folded(USER)))


def _fold_left(
    left: NDArray[np.int64],
    prompts: Texts,
    responses: Texts,
    units: NDArray[np.uint16],
    ends: NDArray[np.int64],
    spans: NDArray[np.uint32],
    hashes: NDArray[np.uint64],
) -> NDArray[np.uint16]:
    """Folds the rows that the tables cannot decide; returns the units with theirs among them."""
    found = [fold_row(prompts[row], responses[row]) for row in left.tolist()]
    pieces, start = list[NDArray[np.uint16]](), 0
    for end, one in zip(ends[left].tolist(), found, strict=True):
        pieces += [units[start:end], one.units]
        start = end
    units = np.concatenate([*pieces, units[start:]])
    lengths = np.diff(ends)
    for row, one in zip(left.tolist(), found, strict=True):
        lengths[row] = len(one.units)
        spans[row] = one.span
        hashes[row, :3] = one.hashes
    np.cumsum(lengths, out=ends[1:])
    return units


@dataclass(frozen=True, slots=True)
class FoldedRow:
    """One row of `folding.fold_rows`: units, (question start, end, separator), three hashes."""

    units: NDArray[np.uint16]
    span: tuple[int, int, int]
    hashes: tuple[np.uint64, np.uint64, np.uint64]


def fold_row(prompt: str, response: str) -> FoldedRow:
    """Returns what `fold_rows` finds in one row, by the definitions in `keys`."""
    question = opening(prompt)
    key, answer = prose_key(prompt), prose_key(response)
    question_key = key if question == prompt else prose_key(question)
    text, asked = folded_key(key), folded_key(question_key)
    before = folded(USER) if question != prompt else ""
    if not text.startswith(before + asked):
        before, asked = "", text
    start, middle = len(_utf16(before)), len(_utf16(text))
    prompt_1, prompt_2 = _hash_key(key)
    response_1, response_2 = _hash_key(answer)
    return FoldedRow(
        _utf16(f"{text}{chr(SEPARATOR)}{folded_key(answer)}"),
        (start, start + len(_utf16(asked)), middle),
        (joined(prompt_1, response_1), joined(prompt_2, response_2), _hash_key(question_key)[0]),
    )


def _hash_key(key: str) -> tuple[np.uint64, np.uint64]:
    first, second = hash_points(np.frombuffer(key.encode("utf-32-le"), np.uint32))
    return np.uint64(first), np.uint64(second)


def _blocks(shard: str) -> Iterator[tuple[Texts, Texts]]:
    try:
        with pa.OSFile(shard) as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                for start in range(0, batch.num_rows, BLOCK_ROWS):
                    some = batch.slice(start, BLOCK_ROWS)
                    yield (
                        Texts.from_arrow(some.column("prompt")),
                        Texts.from_arrow(some.column("response")),
                    )
    except (pa.ArrowException, OSError, KeyError) as error:
        message = str(error).splitlines()[0]
        raise DataError(f"{shard}: damaged ({message}); run clean again") from error


def _fields(signed: Signed) -> list[NDArray[Any]]:
    return [getattr(signed, name) for name in NAMES]


def _together(parts: list[Signed], settings: DuplicateSettings) -> Signed:
    """Returns the parts of a shard as one, but for the units."""
    empty = np.zeros(0, np.uint8)
    parts = parts or [
        sign(Texts(empty, np.zeros(1, np.int64)), Texts(empty, np.zeros(1, np.int64)), settings)
    ]
    ends = np.concatenate([parts[0].ends[:1], *(part.ends[1:] for part in parts)])
    columns = [
        np.concatenate(
            [getattr(part, name) for part in parts], axis=1 if name.endswith("_keys") else 0
        )
        for name in NAMES[2:]
    ]
    return Signed(np.zeros(0, np.uint16), ends, *columns)


def _header(num_units: int) -> bytes:
    """Returns the header of an npy file of so many units, padded to one length."""
    text = f"{{'descr': '<u2', 'fortran_order': False, 'shape': ({num_units},), }}"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + f"{text:<117}\n".encode()
