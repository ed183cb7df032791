"""Every raw file format behind one door.

In: a path, and the columns that a table must have. Out: records and rejected places. The format is
told by the first bytes, because published names lie: most `.json` files are JSON Lines.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from chatlm.corpus.read_json import open_binary, read_json_array, read_jsonl, refuse_utf16
from chatlm.corpus.read_table import Columns, read_csv, read_parquet
from chatlm.corpus.read_wiki import read_apertium, read_attardi
from chatlm.corpus.records import Read
from chatlm.corpus.wiki.dump import read_pages
from chatlm.errors import DataError

_HEAD_BYTES = 4096
_WITHOUT_COLUMNS: dict[str, Callable[[Path], Read]] = {
    "jsonl": read_jsonl,
    "json_array": read_json_array,
    "attardi": read_attardi,
    "apertium": read_apertium,
    "dump": read_pages,
}


def layout_of(path: Path) -> str:
    """Returns `jsonl`, `json_array`, `csv`, `parquet`, `attardi`, `apertium` or `dump`.

    Raises:
        DataError: The file is missing, empty or UTF-16, or looks like none of these.
    """
    with open_binary(path) as file:
        head = file.read(_HEAD_BYTES)
    refuse_utf16(path, head)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        raise DataError(f"{path}: is empty; get it again or remove it")
    if path.suffix == ".parquet" or head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"BZh") or start.startswith((b"<mediawiki", b"<?xml")):
        return "dump"
    if path.suffix == ".csv":
        return "csv"
    if start.startswith(b"[") and path.suffix != ".jsonl":
        return "json_array"
    if start.startswith(b"{") or path.suffix in (".json", ".jsonl"):
        return "jsonl"
    if start.startswith(b"<doc "):
        return "attardi"
    if b"\n" in start and start.split(b"\n", 1)[0].rstrip().endswith(b":"):
        return "apertium"
    raise DataError(
        f"{path}: unknown format; expected JSON Lines, a JSON array, CSV, parquet, "
        "a MediaWiki dump or the text of a WikiExtractor"
    )


def read(path: Path, columns: Columns = (), notes: Counter[str] | None = None) -> Read:
    """Yields the records of `path` in whatever of the known formats it is.

    `notes` counts what is worth knowing of a table and rejects nothing: records that were decoded
    otherwise than their file, a file without checksums.

    Raises:
        DataError: The file as a whole cannot be read, or a table lacks a column.
    """
    layout = layout_of(path)
    if layout == "csv":
        return read_csv(path, columns, notes)
    if layout == "parquet":
        return read_parquet(path, columns, notes=notes)
    return _WITHOUT_COLUMNS[layout](path)
