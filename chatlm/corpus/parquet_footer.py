"""The footer of a parquet file, read by ourselves before any library trusts it.

In: a path. Out: `Footer`, or the one `DataError` that says how the file contradicts itself. A
footer has no checksum, and a flipped bit in it can end the whole process inside the library. Here
it is parsed (Thrift, compact protocol) within bounds and compared with the file and with itself.
It decodes no row.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlm.corpus.read_json import open_binary
from chatlm.errors import DataError

MAX_FOOTER_BYTES = 256 * 1024 * 1024
DELTA_BYTE_ARRAY = 7
"""An encoding that shares beginnings of values: little on disk can be much in memory."""

_MAGIC = b"PAR1"
_TAIL_BYTES = 8
_MAX_DEPTH = 32
_REPEATED = 2
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One column of one row group: where it begins, and its bytes on disk and unpacked."""

    name: str
    start: int
    num_bytes: int
    unpacked_bytes: int
    has_dictionary: bool
    encodings: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Some rows, and their columns in the order of the schema."""

    num_rows: int
    chunks: tuple[Chunk, ...]

    @property
    def unpacked_bytes(self) -> int:
        """The bytes of all columns, decompressed but still encoded."""
        return sum(chunk.unpacked_bytes for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class Footer:
    """What a file says about itself; `num_bytes` is its size."""

    num_bytes: int
    num_rows: int
    groups: tuple[RowGroup, ...]


def read_footer(path: Path) -> Footer:
    """Returns the footer, which agrees with itself and with the size of the file.

    Raises:
        DataError: The file is missing, cut off, not parquet, encrypted, or contradicts itself.
    """
    with open_binary(path) as file:
        try:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
            num_bytes = int.from_bytes(tail[:4], "little")
            start = size - _TAIL_BYTES - num_bytes
            if tail[4:] != _MAGIC or start < len(_MAGIC):
                raise DataError(
                    f"{path}: not a complete parquet file; it may be cut off, get or make it again"
                )
            if num_bytes > MAX_FOOTER_BYTES:
                raise DataError(f"{path}: a footer of {num_bytes} bytes; no table needs one")
            file.seek(start)
            raw = file.read(num_bytes)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        footer = _footer(_Thrift(raw).struct(), size)
        _check_places(footer, start)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: damaged, its footer is not sound ({error}); get or make it again"
        ) from error
    return footer


class _Thrift:
    """A cursor on bytes of the compact protocol; every read is bounded by what is there."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.place = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Returns the fields of a struct by their numbers."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        fields, number = dict[int, Any](), 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            if number in fields:
                raise ValueError("a field is there twice")
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self._zigzag()
        if kind == _BINARY:
            return self._take(self._varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            if count > len(self.data) - self.place:
                raise ValueError("a list is longer than the file")
            return [self._value(head & 15, depth + 1) for _ in range(count)]
        if kind == _MAP:
            count = self._varint()
            kinds = self._byte() if count else 0
            if count > len(self.data) - self.place:
                raise ValueError("a map is longer than the file")
            return [
                (self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1))
                for _ in range(count)
            ]
        if kind == _DOUBLE:
            return self._take(8)
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        raise ValueError(f"no value is of kind {kind}")

    def _byte(self) -> int:
        self.place += 1
        return self.data[self.place - 1]

    def _take(self, num_bytes: int) -> bytes:
        if num_bytes > len(self.data) - self.place:
            raise ValueError("a text is longer than the file")
        self.place += num_bytes
        return self.data[self.place - num_bytes : self.place]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number has no end")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def _footer(fields: dict[int, Any], size: int) -> Footer:
    """Returns the parts that matter of `FileMetaData`. Source: parquet-format, parquet.thrift."""
    root, *elements = fields[2]
    leaves = [one for one in elements if not one.get(5)]
    is_flat = len(leaves) == len(elements) == root.get(5, 0)
    for element in elements:
        element[4].decode()
    groups = list[RowGroup]()
    for group in fields[4]:
        if len(group[1]) != len(leaves):
            raise ValueError("a row group lacks columns")
        num_rows = group[3]
        chunks = []
        for leaf, column in zip(leaves, group[1], strict=True):
            if 1 in column or 8 in column or 9 in column:
                raise ValueError("a column is encrypted or in another file")
            about = column[3]
            if about[1] != leaf[1] or about[3][-1] != leaf[4]:
                raise ValueError("a column is of another type than its schema")
            if is_flat and leaf[3] != _REPEATED and about[5] != num_rows:
                raise ValueError("a column has more or fewer values than its row group")
            chunks.append(_chunk(about))
        groups.append(RowGroup(num_rows, tuple(chunks)))
    if min((one.num_rows for one in groups), default=0) < 0:
        raise ValueError("a row group has fewer than no rows")
    if sum(one.num_rows for one in groups) != fields[3]:
        raise ValueError(f"it names {fields[3]} rows, its row groups have others")
    return Footer(size, fields[3], tuple(groups))


def _chunk(about: dict[int, Any]) -> Chunk:
    """Returns one `ColumnMetaData`."""
    start, dictionary = about[9], about.get(11) or 0
    return Chunk(
        b".".join(about[3]).decode(),
        min(start, dictionary) if dictionary else start,
        about[7],
        about[6],
        bool(dictionary),
        tuple(about[2]),
    )


def _check_places(footer: Footer, end: int) -> None:
    """Raises `ValueError` if columns lie outside of the file or upon each other."""
    place = len(_MAGIC)
    chunks = [chunk for group in footer.groups if group.num_rows for chunk in group.chunks]
    for chunk in sorted(chunks, key=lambda chunk: chunk.start):
        if chunk.start < place or chunk.num_bytes < 0 or chunk.start + chunk.num_bytes > end:
            raise ValueError("a column is not where it should be")
        if chunk.unpacked_bytes < 0:
            raise ValueError("a column has fewer than no bytes")
        place = chunk.start + chunk.num_bytes
