"""What holds for whatever bytes the readers of CSV and parquet are given.

In: bytes, from a fuzzer or from what one kept. Out: nothing, or an assertion that fails: a reader
gives records of valid Unicode in ascending places, rejects with known reasons, or one `DataError`.
"""

from pathlib import Path

from chatlm.corpus.read_table import parquet_plan, read_csv, read_parquet, read_parquet_batches
from chatlm.corpus.reasons import REASONS
from chatlm.corpus.records import Record, Rejected
from chatlm.errors import DataError


def one_input(data: bytes, folder: Path) -> int:
    """Reads `data` as what its first bytes say; returns the number of records and rejects."""
    if data.startswith(b"PAR1"):
        path = folder / "x.parquet"
        path.write_bytes(data)
        return _parquet(path)
    path = folder / "x.csv"
    path.write_bytes(data)
    return _csv(path)


def _csv(path: Path) -> int:
    count, place = 0, 0
    try:
        for found in read_csv(path):
            place = _check(found, place)
            count += 1
    except DataError as error:
        _check_error(error)
    return count


def _parquet(path: Path) -> int:
    rows, columns, names = 0, 0, list[str]()
    try:
        for place, found in enumerate(read_parquet(path), start=1):
            assert _check(found, place - 1) == place
            rows += 1
            if isinstance(found, Record):
                names = [name for name in found.fields if isinstance(found.fields[name], str)]
        assert parquet_plan(path, 10).pieces or not rows
    except DataError as error:
        _check_error(error)
    try:
        for found in read_parquet_batches(path, names):
            columns += 1 if isinstance(found, Rejected) else found[1].num_rows
    except DataError as error:
        _check_error(error)
    return max(rows, columns)


def _check(found: Record | Rejected, before: int) -> int:
    assert found.position > before
    if isinstance(found, Rejected):
        assert found.reason in REASONS
        found.excerpt.encode()
    else:
        for value in found.fields.values():
            if isinstance(value, str):
                value.encode()
    return found.position


def _check_error(error: DataError) -> None:
    assert "\n" not in str(error), str(error)
    str(error).encode()
