"""Files that are either complete or not there.

In: examples, rejects, manifests. Out: parquet (zstd, page checksums), JSON Lines and JSON, written
under a temporary name in the same folder and renamed at the end: whoever reads a file of that name
sees the old one or the new one, never half of it. Nothing is ever asked on the terminal.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from chatlm.corpus.example import PAIR_SCHEMA, Example
from chatlm.corpus.parquet_file import first_line, open_parquet
from chatlm.corpus.read_table import require_columns
from chatlm.errors import DataError

ROW_GROUP_ROWS = 65_536
_READ_ROWS = 8192
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Gives a file to write that becomes `path` when the block ends, and vanishes if it fails.

    Raises:
        DataError: The folder cannot be made or written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = temporary.open("wb")
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in _DISK_ERRORS:
            raise
        raise _unwritable(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds `folder` for this process alone; the kernel lets go of it when the process ends.

    Raises:
        DataError: Another process holds it, or the folder cannot be made.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        _lock(path, descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, descriptor: int) -> None:
    """Locks an open file and writes into it who holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 20).decode(errors="replace") or "?"
        raise DataError(
            f"{path.parent}: another run is at work here (process {holder}); wait for it or stop it"
        ) from error
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path}: cannot be written ({error.strerror}); make room or give the right to write, and "
        "run the same command again: it goes on where it was"
    )


def remove_unfinished(*folders: Path) -> None:
    """Removes what a run that was killed left under temporary names; hold the lock for it."""
    for folder in folders:
        for path in folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Returns the hex digest of a file.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class PairWriter:
    """Collects examples or batches and writes them as one parquet file; use it with `with`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_rows = 0
        self._context = replacing(path)
        self._batches = list[pa.RecordBatch]()
        self._waiting = 0

    def __enter__(self) -> "PairWriter":
        self._file = self._context.__enter__()
        self._writer = pq.ParquetWriter(
            self._file,
            PAIR_SCHEMA,
            compression="zstd",
            compression_level=3,
            # Texts are nearly all different: a dictionary would only cost time and space.
            use_dictionary=False,
            write_page_checksum=True,
        )
        return self

    def write(self, examples: Sequence[Example]) -> None:
        """Appends `examples`."""
        columns = [
            pa.array([getattr(example, name) for example in examples], pa.string())
            for name in PAIR_SCHEMA.names
        ]
        self.write_batch(pa.RecordBatch.from_arrays(columns, schema=PAIR_SCHEMA))

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Appends a batch of `PAIR_SCHEMA`; row groups are filled before they are written."""
        self._batches.append(batch)
        self._waiting += batch.num_rows
        self.num_rows += batch.num_rows
        while self._waiting >= ROW_GROUP_ROWS:
            self._flush(ROW_GROUP_ROWS)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._flush(self._waiting)
            self._writer.close()
        except BaseException as late:
            self._context.__exit__(type(late), late, late.__traceback__)
            raise
        self._context.__exit__(kind, error, trace)

    def _flush(self, num_rows: int) -> None:
        if not num_rows:
            return
        waiting = pa.Table.from_batches(self._batches, PAIR_SCHEMA)
        self._writer.write_table(waiting.slice(0, num_rows), row_group_size=ROW_GROUP_ROWS)
        self._batches = waiting.slice(num_rows).to_batches()
        self._waiting -= num_rows


def read_pairs(
    path: Path, columns: Sequence[str] = tuple(PAIR_SCHEMA.names), batch_rows: int = _READ_ROWS
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a parquet file of pairs, checksums verified.

    Raises:
        DataError: The file is missing, cut off or damaged, lacks a column, or a column is not text.
    """
    file = open_parquet(path)
    schema = file.schema_arrow
    require_columns(path, schema.names, [(name,) for name in columns])
    for name in columns:
        kind = schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(f"{path}: column {name} is {kind}; expected text")
    wanted = pa.schema([pa.field(name, pa.string()) for name in columns])
    try:
        # One row group a call: a call keeps all compressed bytes that it has read until it ends.
        for group in range(file.num_row_groups):
            batches = file.iter_batches(batch_rows, row_groups=[group], columns=list(columns))
            for batch in batches:
                yield batch.select(columns).cast(wanted)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged ({first_line(error)}); make it again") from error
    finally:
        file.close()


def num_rows(path: Path) -> int:
    """Returns the number of rows that the file's own footer names."""
    file = open_parquet(path)
    try:
        return file.metadata.num_rows
    finally:
        file.close()


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Writes a manifest, readable and with sorted keys, so that two of them can be compared."""
    with replacing(path) as file:
        options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
        file.write(orjson.dumps(value, option=options))


def read_json(path: Path) -> dict[str, object]:
    """Returns a manifest.

    Raises:
        DataError: It is missing or damaged.
    """
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise DataError(f"{path}: no readable manifest ({error}); run clean again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object; run clean again")
    return value


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
