"""The folder of an exported model: what it says of itself, and whether it is what it was.

In: a folder. Out: an `Exported`, or an error that names the file. `chatlm.export` writes such
folders. Imports neither torch nor CTranslate2.

Before the model is opened, the sums of all small files and the size of model.bin are compared with
the manifest. The sum of model.bin takes longer than opening a model may: `require_whole` makes it,
and no answer is given before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ujson

from chatlm import untrusted
from chatlm.checkpoint import manifest
from chatlm.checkpoint.paths import CT2_FILES, WEIGHTS
from chatlm.errors import CheckpointError

MODEL_FILE = "model.bin"
CONFIG_FILE = "config.json"
CT2_FILE, VOCABULARY_FILE = CT2_FILES
FORMAT_VERSION = 1
QUANTIZATIONS = (
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
    "int16",
    "float16",
    "bfloat16",
    "float32",
)
"""What the matrices may be stored as, and, behind a `_`, what is computed with between them."""
HOW_TO_EXPORT = "export it anew: python -m utils.export_model format=ct2 model=<checkpoint>"
_MOST_VOCABULARY = 1 << 27


@dataclass(frozen=True)
class Exported:
    """A folder whose small files are whole.

    Attributes:
        folder: where it is.
        entries: what each file must be.
        vocabulary: the name of each id.
        pad: the name of the id that starts an answer, and never occurs in one.
        quantization: what the matrices are stored as, one of `QUANTIZATIONS`.
    """

    folder: Path
    entries: Mapping[str, manifest.Entry]
    vocabulary: tuple[str, ...]
    pad: str
    quantization: str

    def require_whole(self) -> None:
        """Reads all of model.bin, which takes a tenth of a second for each 100 MB or so.

        Raises:
            CheckpointError: it is not what the manifest says.
        """
        try:
            found = manifest.entry_of(self.folder / MODEL_FILE)
        except OSError as error:
            raise _damaged(self.folder, f"{MODEL_FILE} cannot be read ({error})") from error
        if found != self.entries[MODEL_FILE]:
            raise _damaged(self.folder, f"{MODEL_FILE} is damaged")


def read(folder: Path) -> Exported:
    """Returns an exported model's folder, checked as far as that takes no time.

    Raises:
        CheckpointError: a file is missing or damaged, or a later ChatLM wrote them.
    """
    try:
        entries = manifest.read(folder).files
    except ValueError as error:
        raise _damaged(folder, str(error)) from error
    for name in (MODEL_FILE, CONFIG_FILE, VOCABULARY_FILE, CT2_FILE):
        if name not in entries:
            raise _damaged(folder, f"its manifest knows no {name}")
    for name, entry in entries.items():
        _require(folder, name, entry)
    quantization = _quantization(folder)
    try:
        pad = str(untrusted.read_object(folder / CONFIG_FILE)["decoder_start_token"])
        text = untrusted.read_text(folder / VOCABULARY_FILE, _MOST_VOCABULARY)
        vocabulary = tuple(map(str, ujson.loads(text)))
        return Exported(folder, entries, vocabulary, pad, quantization)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{VOCABULARY_FILE} or {CONFIG_FILE}: {error}") from error


def exported_of(checkpoint: Path, out_root: Path = Path("out")) -> Path | None:
    """Returns the newest exported model that was made of a checkpoint's very weights, or None.

    What cannot be read is passed over: it is only a hint.
    """
    try:
        mine = manifest.read(checkpoint).files[WEIGHTS[0]].sha256
    except (ValueError, KeyError):
        return None
    found = []
    for path in out_root.glob(f"*/{CT2_FILE}"):
        try:
            sources = untrusted.read_object(path).get("sources")
        except (OSError, ValueError):
            continue
        if isinstance(sources, dict) and sources.get(WEIGHTS[0]) == mine:
            found.append(path)
    found.sort(key=lambda path: path.stat().st_mtime_ns)
    return found[-1].parent if found else None


def _require(folder: Path, name: str, entry: manifest.Entry) -> None:
    path = folder / name
    if not path.is_file():
        raise _damaged(folder, f"{name} is missing")
    if path.stat().st_size != entry.bytes:
        raise _damaged(folder, f"{name} is damaged")
    if name != MODEL_FILE and manifest.entry_of(path) != entry:
        raise _damaged(folder, f"{name} is damaged")


def _quantization(folder: Path) -> str:
    """Returns what ct2.json says, if this ChatLM can read such a folder."""
    told = untrusted.read_object(folder / CT2_FILE)
    version = told.get("format")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: {CT2_FILE} has format {untrusted.shown(version)}, this ChatLM reads format "
            f"{FORMAT_VERSION}: upgrade ChatLM, or {HOW_TO_EXPORT}"
        )
    quantization = told.get("quantization")
    if quantization not in QUANTIZATIONS:
        raise _damaged(folder, f"{CT2_FILE} tells no quantization")
    return quantization


def _damaged(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{folder}: {what}; {HOW_TO_EXPORT}")
