"""Tensors as safetensors files, hashed while they are written and while they are read.

In: tensors on the CPU, or a file and its sum. Out: the file and its sum, or the tensors. One pass
over the data: what is loaded is what was hashed, not what lay there a moment before or after. The
interpreter is let go of while bytes are hashed, written or read, so that a training goes on beside
it. Files are the library's, byte for byte.
Source: https://github.com/huggingface/safetensors#format
"""

import hashlib
import json
import stat
from collections.abc import Iterator, Mapping
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chatlm import untrusted
from chatlm.checkpoint.manifest import Entry
from chatlm.errors import CheckpointError

CHUNK = 1 << 22
"""Bytes that are hashed and written before the next ones are looked at."""
MOST_HEADER_BYTES = 1 << 24
"""A header that is larger is refused: what JSON becomes in memory is many times as large."""
_MOST_DIMENSIONS = 8
_BUFFER = 1 << 18
"""Small tensors share a call to the system; large ones go past the buffer."""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# The library orders tensors by the alignment they need, and those of one kind by name.
_ORDER = ["BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64"]


def write(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Entry:
    """Writes a file; returns what it must be. The tensors are contiguous and on the CPU."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb", buffering=_BUFFER) as file:
        for part in _parts(tensors, metadata or {}):
            for start in range(0, len(part), CHUNK):
                chunk = part[start : start + CHUNK]
                digest.update(chunk)
                size += len(chunk)
                file.write(chunk)
    return Entry(digest.hexdigest(), size)


def _parts(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Iterator[memoryview]:
    """Yields the bytes of a file: its header, then each tensor."""
    kinds = {name: _NAMES[tensor.dtype] for name, tensor in tensors.items()}
    names = sorted(tensors, key=lambda name: (-_ORDER.index(kinds[name]), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        shape = list(tensors[name].shape)
        header[name] = {"dtype": kinds[name], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in names:
        if tensors[name].nbytes:
            yield _bytes(tensors[name])


def _bytes(tensor: Tensor) -> memoryview:
    """Returns the memory of a tensor on the CPU, without a copy."""
    return tensor.detach().view(-1).view(torch.uint8).numpy().data


def read(path: Path, expected: Entry | None) -> dict[str, Tensor]:
    """Returns the tensors of a file, each in its own memory.

    Args:
        path: a safetensors file.
        expected: what it must be; None where no manifest says so.

    Raises:
        CheckpointError: it is missing, not of this format, or not what it must be.
    """
    digest = hashlib.sha256()
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        with path.open("rb") as file:
            size = found.st_size
            tensors = _tensors(file, size, digest)
    except (OSError, ValueError, EOFError) as error:
        kind = untrusted.format_of(path)
        why = f"it is {kind}, which is not opened" if kind else untrusted.reason(error)
        raise CheckpointError(f"{path} cannot be read ({why}): copy it anew") from error
    if expected and (digest.hexdigest(), size) != (expected.sha256, expected.bytes):
        raise CheckpointError(f"{path} is damaged: it is not what its manifest says")
    return tensors


def _tensors(file: BufferedReader, size: int, digest: Any) -> dict[str, Tensor]:
    start = bytearray(8)
    _fill(memoryview(start), file, digest)
    length = int.from_bytes(start, "little")
    if length > size - 8:
        raise ValueError("its header is longer than the file")
    if length > MOST_HEADER_BYTES:
        raise ValueError(f"its header has {length} bytes, expected at most {MOST_HEADER_BYTES}")
    text = bytearray(length)
    _fill(memoryview(text), file, digest)
    tensors: dict[str, Tensor] = {}
    end = 0
    for begin, stop, name, dtype, shape in _layout(text):
        if begin != end or stop > size - 8 - length:
            raise ValueError(f"its header is wrong about {untrusted.shown(name)}")
        end = stop
        tensors[name] = torch.empty(shape, dtype=dtype)
        if stop > begin:
            _fill(_bytes(tensors[name]), file, digest)
    if end != size - 8 - length:
        raise ValueError("it does not end where its header says")
    return tensors


def _layout(text: bytearray) -> list[tuple[int, int, str, torch.dtype, list[int]]]:
    """Returns where each tensor begins and ends, its name, kind and shape, in the file's order.

    Raises:
        ValueError: a tensor's size is not that of its kind and shape, or there is no sense in it.
    """
    header = untrusted.parsed(text)
    header.pop("__metadata__", None)
    found = []
    for name, entry in header.items():
        if not _is_entry(entry):
            raise ValueError(f"its header is wrong about {untrusted.shown(name)}")
        dtype, (begin, stop) = _DTYPES[entry["dtype"]], entry["data_offsets"]
        if prod(entry["shape"], start=dtype.itemsize) != stop - begin:
            raise ValueError(f"its header is wrong about {untrusted.shown(name)}")
        found.append((begin, stop, name, dtype, entry["shape"]))
    return sorted(found, key=lambda one: one[:3])


def _is_entry(entry: Any) -> bool:
    """Tells whether a header's entry can be that of a tensor at all."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        return False
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    return (
        isinstance(dtype, str)
        and dtype in _DTYPES
        and _are_sizes(shape)
        and len(shape) <= _MOST_DIMENSIONS
        and _are_sizes(offsets)
        and len(offsets) == 2
        # With a 0 among them, dimensions of any size would take no bytes, and no sense.
        and prod(size or 1 for size in shape) < 1 << 62
    )


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(size) is int and 0 <= size < 1 << 62 for size in value
    )


def _fill(memory: memoryview, file: BufferedReader, digest: Any) -> None:
    """Fills memory from a file, and adds it to the sum.

    Raises:
        EOFError: the file ends before.
    """
    for start in range(0, len(memory), CHUNK):
        chunk = memory[start : start + CHUNK]
        filled = 0
        while filled < len(chunk):
            count = file.readinto(chunk[filled:])
            if not count:
                raise EOFError("it ends too early")
            filled += count
        digest.update(chunk)
