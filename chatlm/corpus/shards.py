"""The files between two stages: clean rows with their origins, and the rows that were dropped.

In: batches of rows, rejects. Out: Arrow IPC files (lz4: they are read once or twice and then
forgotten) and compressed JSON Lines. A row is named by its origin: file, position, turn.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
import pyarrow as pa

from chatlm.corpus.example import PAIR_SCHEMA, Example
from chatlm.corpus.records import Rejected
from chatlm.corpus.store import replacing
from chatlm.errors import DataError

SHARD_SCHEMA: pa.Schema = PAIR_SCHEMA.append(pa.field("origin", pa.uint64(), nullable=False))
_TURN_BITS, _POSITION_BITS = 8, 40
MAX_TURN = (1 << _TURN_BITS) - 1
_FRAME_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Origin:
    """The raw record that a row came from.

    Attributes:
        file: Place of the file among the files of its source, from 0.
        position: Line, element, row or page within the file, from 1.
        turn: Which of the examples of that record, from 0.
    """

    file: int
    position: int
    turn: int = 0

    def pack(self) -> int:
        """Returns it as 64 bits, in the order of the raw data."""
        turn = min(self.turn, MAX_TURN)
        return (self.file << _POSITION_BITS | self.position) << _TURN_BITS | turn

    @classmethod
    def unpack(cls, bits: int) -> "Origin":
        """Returns what `pack` packed."""
        place, turn = divmod(int(bits), 1 << _TURN_BITS)
        file, position = divmod(place, 1 << _POSITION_BITS)
        return cls(file, position, turn)


class ShardWriter:
    """Writes one Arrow IPC file of `SHARD_SCHEMA`; use it with `with`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> "ShardWriter":
        with ExitStack() as stack:
            file = stack.enter_context(replacing(self._path))
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = stack.enter_context(pa.ipc.new_file(file, SHARD_SCHEMA, options=options))
            self._stack = stack.pop_all()
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        """Appends a batch of `SHARD_SCHEMA`."""
        self._writer.write_batch(batch)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def batch_of(examples: Sequence[Example], origins: Sequence[int]) -> pa.RecordBatch:
    """Returns examples and their packed origins as a batch."""
    columns = [
        pa.array([getattr(example, name) for example in examples], pa.string())
        for name in PAIR_SCHEMA.names
    ]
    return pa.RecordBatch.from_arrays(
        [*columns, pa.array(origins, pa.uint64())], schema=SHARD_SCHEMA
    )


def read_shard(path: Path) -> Iterator[pa.RecordBatch]:
    """Yields the batches of a shard, decompressed one at a time.

    Raises:
        DataError: It is missing, cut off, or no shard.
    """
    try:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            for index in range(reader.num_record_batches):
                yield reader.get_batch(index)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise DataError(f"{path}: not a whole shard ({reason}); run clean again") from error


def num_rows(path: Path) -> int:
    """Returns the number of rows of a shard."""
    return sum(batch.num_rows for batch in read_shard(path))


class RejectWriter:
    """Writes rejects as zstd-compressed JSON Lines; use it with `with`."""

    def __init__(self, path: Path) -> None:
        self._context = replacing(path)
        self._codec = pa.Codec("zstd", compression_level=3)
        self._lines = bytearray()

    def __enter__(self) -> "RejectWriter":
        self._file = self._context.__enter__()
        return self

    def write(self, source: str, rejects: Iterable[Rejected]) -> None:
        """Appends one line for each reject."""
        for reject in rejects:
            line = {
                "source": source,
                "file": Path(reject.path).name,
                "position": reject.position,
                "turn": reject.turn,
                "reason": reject.reason,
                "text": reject.excerpt,
            }
            self._lines += orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        if len(self._lines) >= _FRAME_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Writes what waits as one zstd frame; frames in a row are one stream."""
        if self._lines:
            self._file.write(self._codec.compress(bytes(self._lines), asbytes=True))
            self._lines.clear()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._flush()
        except BaseException as late:
            self._context.__exit__(type(late), late, late.__traceback__)
            raise
        self._context.__exit__(kind, error, trace)


def read_rejects(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rejects of one file.

    Raises:
        DataError: It is missing or damaged.
    """
    try:
        if not path.stat().st_size:
            return
        with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
            for line in io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8"):
                yield orjson.loads(line)
    except (pa.ArrowException, OSError, orjson.JSONDecodeError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise DataError(f"{path}: not a whole file of rejects ({reason})") from error
