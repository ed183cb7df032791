"""Small files that a stranger may have written, read so that nothing in them can surprise.

In: a path, and how many bytes a file of this kind may have. Out: its text, or the JSON or YAML that
it holds. What is no regular file is not read (a pipe would never end), nothing is read beyond the
limit, and all that can be wrong is an OSError or a ValueError of one line. What the values mean is
the caller's. Imports no torch.
"""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 24
"""Of a file of settings; ours have some kilobytes."""
MOST_YAML_BYTES = 1 << 18
_SHOWN = 80
_LONGEST_REASON = 200
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}"
_NAME = re.compile(_PART)
_INSIDE = re.compile(rf"{_PART}(/{_PART})*")
_RIGHTS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def read_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Returns the content of a file.

    Raises:
        OSError: it cannot be opened or read.
        ValueError: it is no regular file, or larger than `most_bytes`.
    """
    descriptor = os.open(path, _RIGHTS)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        content = b"" if found.st_size > most_bytes else file.read(most_bytes + 1)
        if found.st_size > most_bytes or len(content) > most_bytes:
            raise ValueError(f"it has {found.st_size} bytes, expected at most {most_bytes}")
        return content


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """Returns the text of a file; raises as `read_bytes`, or ValueError where it is not UTF-8."""
    return read_bytes(path, most_bytes).decode("utf-8")


def parsed(text: str | bytes | bytearray) -> dict[str, Any]:
    """Returns the JSON object that a text holds.

    Raises:
        ValueError: it holds no JSON, no object, or is nested too deeply.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    return content


def read_object(path: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Returns the JSON object in a file; raises as `read_text` and `parsed`."""
    return parsed(read_text(path, most_bytes))


def shown(value: object) -> str:
    """Returns a value as it may stand in a message: printable, on one line, and not too long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def is_name(text: object) -> bool:
    """Tells whether this is the name of a file, and can be nothing else: no path, no `..`."""
    return isinstance(text, str) and bool(_NAME.fullmatch(text))


def is_inside(text: object) -> bool:
    """Tells whether this is a relative path that cannot lead out of the folder it is taken from."""
    return isinstance(text, str) and bool(_INSIDE.fullmatch(text))


def format_of(path: Path) -> str:
    """Returns what a file is that is not what its name says, as far as its first bytes tell."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError:
        return ""
    if head == b"PK\x03\x04":
        return "a zip archive, as torch.save writes one around a pickle"
    return "a pickle" if head[:1] == b"\x80" and head[1:2] <= b"\x05" else ""


def read_yaml(path: Path, most_bytes: int = MOST_YAML_BYTES) -> Any:
    """Returns what a YAML file holds: plain values, and no aliases, which can grow without end.

    Raises:
        OSError: it cannot be opened or read.
        ValueError: it is no YAML, of another kind, too large, or nested too deeply.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it has an alias (*name), which is not read")
            return super().compose_node(parent, index)

    try:
        return yaml.load(read_text(path, most_bytes), Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def reason(error: BaseException) -> str:
    """Returns what an error says, on one line and not too long; a library may quote the file."""
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."
