"""A folder that appears whole or not at all, and never in the place of something else.

In: a name, and what writes the files. Out: the folder, with a manifest. It knows no format.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from os import getpid
from pathlib import Path

from chatlm.checkpoint import manifest, storage
from chatlm.checkpoint.manifest import Manifest
from chatlm.checkpoint.paths import MANIFEST, is_checkpoint
from chatlm.errors import CheckpointError, ConfigError, StorageError

CHAT_FILE = "chat.json"


def require_free(out: Path) -> None:
    """Refuses a name that is taken.

    Raises:
        ConfigError: something has it.
    """
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} exists: name another out=, or remove it first (rm -r {out})")


@contextmanager
def written(out: Path, needed: int) -> Iterator[Path]:
    """Gives an empty folder to fill; syncs it and gives it its name at the end.

    Args:
        out: that name.
        needed: bytes that it will take.

    Raises:
        ConfigError: the name is taken.
        StorageError: the disk is too small, or failed.
    """
    require_free(out)
    _require_space(out, needed)
    part = out.with_name(f".tmp-{out.name}-{getpid()}")
    with storage.guarded(out, needed):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
    try:
        yield part
        with storage.guarded(out, needed):
            storage.sync_tree(part)
            require_free(out)
            part.rename(out)
            storage.sync(out.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _require_space(out: Path, needed: int) -> None:
    """Says before anything is written that the disk is too small.

    Raises:
        StorageError: it is.
    """
    whole, free = needed + storage.SMALL_FILES, storage.free_bytes(out)
    if free < whole:
        raise StorageError(
            f"{out} needs {whole} bytes, {free} are free: free some, or name another out="
        )


def write_manifest(folder: Path, source: Path) -> None:
    """Writes the manifest of a filled folder.

    Args:
        folder: with all its other files.
        source: the checkpoint that it was made from, which says of which run it is.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    entries = {path.relative_to(folder).as_posix(): manifest.entry_of(path) for path in paths}
    of = source_manifest(source)
    made = (
        Manifest(of.step, entries, of.data, of.tokenizer, of.config) if of else Manifest(0, entries)
    )
    manifest.write(folder, made)


def source_manifest(source: Path) -> Manifest | None:
    """Returns the manifest of a checkpoint, None where it has none.

    Raises:
        CheckpointError: it is damaged.
    """
    if not (source / MANIFEST).is_file():
        return None
    try:
        return manifest.read(source)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error


def copy_file(source: Path, name: str, folder: Path) -> None:
    """Copies a file of a checkpoint, bit for bit.

    Raises:
        CheckpointError: it is not what the checkpoint's manifest says.
    """
    shutil.copyfile(source / name, folder / name)
    of = source_manifest(source)
    if of and of.files.get(name) != manifest.entry_of(folder / name):
        raise CheckpointError(f"{source}: {name} is damaged, or not in the manifest")


def require_checkpoint(folder: Path) -> None:
    """Refuses what cannot be exported.

    Raises:
        ConfigError: the folder was exported itself.
    """
    if not is_checkpoint(folder):
        raise ConfigError(
            f"{folder} is an exported model: export the checkpoint that it was made of"
        )
