"""The manifest of a checkpoint: what each file must be, byte for byte, and whose it is.

In: sums of files, or a folder. Out: MANIFEST.json, which is written last and sums up itself too,
so that no bit of a checkpoint can change unnoticed. It judges no folder; `verify` does. Imports no
torch.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ujson

from chatlm import __version__, untrusted
from chatlm.checkpoint.paths import MANIFEST
from chatlm.errors import CheckpointError

FORMAT_VERSION = 2
"""1: DeepSpeed's own files could lie in a checkpoint, and the manifest had no sum of its own."""
_OWN_SUM = "sha256"
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Entry:
    """What a file must be."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """All files of a checkpoint but the manifest itself, and what the run was made of.

    Attributes:
        step: Optimizer steps taken.
        files: Relative path -> what the file must be.
        data: sha256 of the training pairs.
        tokenizer: The tokenizer's fingerprint.
        config: sha256 of the settings that alter the result.
        chatlm: The version that wrote it.
        format: The version of the format.
    """

    step: int
    files: Mapping[str, Entry]
    data: str = ""
    tokenizer: str = ""
    config: str = ""
    chatlm: str = __version__
    format: int = field(default=FORMAT_VERSION)


def write(folder: Path, manifest: Manifest) -> None:
    """Writes MANIFEST.json."""
    content = {
        "format": manifest.format,
        "step": manifest.step,
        "chatlm": manifest.chatlm,
        "data": manifest.data,
        "tokenizer": manifest.tokenizer,
        "config": manifest.config,
        "files": {
            name: {"sha256": entry.sha256, "bytes": entry.bytes}
            for name, entry in sorted(manifest.files.items())
        },
    }
    (folder / MANIFEST).write_text(summed(content), encoding="utf-8")


def read(folder: Path) -> Manifest:
    """Returns a folder's manifest.

    Raises:
        ValueError: it is missing or damaged; `NewerFormat`, which is one, if a later ChatLM wrote
            it. The message says what is wrong.
    """
    path = folder / MANIFEST
    try:
        text = untrusted.read_text(path)
    except FileNotFoundError as error:
        raise ValueError(f"{MANIFEST} is missing") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{MANIFEST} is unreadable ({error})") from error
    try:
        return _parsed(text)
    except NewerFormat:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        what = f"{type(error).__name__}: {untrusted.reason(error)}"
        raise ValueError(f"{MANIFEST} is damaged ({what})") from error


def expected(folder: Path, file: str) -> Entry | None:
    """Returns what a file of a checkpoint must be; None where there is no manifest.

    Raises:
        CheckpointError: the manifest is damaged, or does not know the file.
    """
    if not (folder / MANIFEST).is_file():
        return None
    try:
        return read(folder).files[file]
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: {error}") from error


class NewerFormat(ValueError):
    """A later ChatLM wrote it: it is whole, and cannot be read."""


def _parsed(text: str) -> Manifest:
    content = ujson.loads(text)
    version = content["format"]
    if version != 1:
        own = content.pop(_OWN_SUM)
        if not isinstance(own, str) or summed(content) != text:
            raise ValueError("it does not fit its own sum")
    if version > FORMAT_VERSION:
        by = content.get("chatlm", "a later one")
        raise NewerFormat(
            f"format {version}, written by ChatLM {by}, is newer than this ChatLM "
            f"({__version__}, format {FORMAT_VERSION}): upgrade ChatLM"
        )
    if version < 1:
        raise ValueError(f"format {version} does not exist")
    files = {name: _entry(name, entry) for name, entry in content["files"].items()}
    names = ("data", "tokenizer", "config", "chatlm")
    made_of = {name: str(content.get(name, "")) for name in names}
    step = content["step"]
    if type(step) is not int or step < 0:
        raise ValueError(f"step {untrusted.shown(step)} does not exist")
    return Manifest(step, files, format=version, **made_of)


def _entry(name: str, entry: Mapping[str, Any]) -> Entry:
    """Returns what a manifest says of a file; it must lie in the manifest's folder."""
    if not untrusted.is_inside(name):
        raise ValueError(f"{untrusted.shown(name)} is no file of a checkpoint")
    made = Entry(**entry)
    if not isinstance(made.sha256, str) or type(made.bytes) is not int:
        raise ValueError(f"{name} has no sum or no size")
    return made


def summed(content: Mapping[str, Any]) -> str:
    """Returns the text of a manifest: the content, and the sha256 of the content's text."""
    own = hashlib.sha256(_text(content).encode()).hexdigest()
    return _text({**content, _OWN_SUM: own})


def _text(content: Mapping[str, Any]) -> str:
    return ujson.dumps(content, indent=1, ensure_ascii=False, escape_forward_slashes=False) + "\n"


def entry_of(path: Path) -> Entry:
    """Returns what a file is now."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        buffer = memoryview(bytearray(_CHUNK))
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            size += count
    return Entry(digest.hexdigest(), size)
