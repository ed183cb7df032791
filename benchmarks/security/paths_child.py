"""Names from outside, at every place where one becomes a path; a program to be watched by strace.

In: a folder, a seed and how many names. Out: `results.json` in it: one entry for each case, with
what was raised. Before each case `stat` is called on a path that does not exist, `/case/<number>`,
by which the log of the kernel's calls can be told apart.
"""

import contextlib
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.security import path_names
from chatlm.checkpoint import manifest, paths, retention, verify, weights
from chatlm.corpus import clean_stage, download
from chatlm.errors import ChatLMError, DataError
from chatlm.model import hf
from chatlm.server.config import MODEL_ID
from chatlm.tokenizer import Tokenizer
from tests.checkpoint import tiny_snapshot

STEP = "step_000005"
LINKS = ("link_file", "link_folder")


@dataclass(frozen=True)
class Spot:
    """A place where a name becomes a path: `act` uses the name inside `root`."""

    name: str
    act: Callable[[Path, str], None]
    is_sealed: bool = False
    follows_links: bool = False

    def can_hold(self, name: str) -> bool:
        """Tells whether a name can come to this place, and what it does there is ours.

        A sum is over UTF-8; where links are followed, they are the user's own: folders of raw data
        on other disks, and the Hub's cache, which is made of links.
        """
        is_text = all(not "\ud800" <= char <= "\udfff" for char in name)
        is_link = self.follows_links and any(link in name for link in LINKS)
        return (is_text or not self.is_sealed) and not is_link


def _manifest_of_a_run(root: Path, name: str) -> None:
    folder = root / STEP
    entries = {"model.safetensors": _ENTRY, name: _ENTRY}
    manifest.write(folder, manifest.Manifest(5, entries))
    wrong = verify.problem(folder)
    retention.prune(root, 2, 5)
    if wrong is None:
        raise AssertionError("the checkpoint counts as whole")
    raise DataError(wrong)


def _manifest_of_weights(root: Path, name: str) -> None:
    folder = root / STEP
    manifest.write(folder, manifest.Manifest(5, {name: _ENTRY}))
    weights.load_model(folder)


def _index_of_shards(root: Path, name: str) -> None:
    folder = root / STEP
    (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / "MANIFEST.json").unlink(missing_ok=True)
    content = {"weight_map": {"shared.weight": name}}
    (folder / hf.INDEX_FILE).write_text(json.dumps(content))
    hf.load_pretrained(folder)


def _best(root: Path, name: str) -> None:
    (root / "best").write_text(name, encoding="utf-8", errors="surrogatepass")
    found = paths.resolve_model(root)
    if found != root / STEP:
        raise AssertionError(f"the best checkpoint is {found}")
    raise DataError("not followed")


def _config_names(root: Path, name: str) -> None:
    """Names that Hugging Face's files may hold, which ours must not follow."""
    folder = root / STEP
    for file in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / file).read_text())
        keys = ("_name_or_path", "name_or_path", "tokenizer_file", "vocab_file", "chat_template")
        content |= dict.fromkeys(keys, name)
        (folder / file).write_text(json.dumps(content))
    (folder / "MANIFEST.json").unlink(missing_ok=True)
    hf.load_pretrained(folder)
    Tokenizer.load(folder)
    raise DataError("not followed")


def _shards_of_a_corpus(root: Path, name: str) -> None:
    folder = root / "clean" / "belle"
    folder.mkdir(parents=True, exist_ok=True)
    shards = [{"rows": {"name": name}, "rejects": {"name": name}, "counts": {}, "file": 0}]
    content = {"source": "belle", "shards": shards, "counts": {}, "files": []}
    (folder / "manifest.json").write_text(json.dumps(content))
    corpus = clean_stage.open_clean(root / "clean", "belle")
    for path in [*corpus.shards, *corpus.rejects]:
        if path.is_file():
            path.read_bytes()
    raise DataError("a name of a file, which is not there")


def _name_of_a_corpus(root: Path, name: str) -> None:
    folder = root / "clean" / "belle"
    folder.mkdir(parents=True, exist_ok=True)
    content = {"source": name, "shards": [], "counts": {}, "files": []}
    (folder / "manifest.json").write_text(json.dumps(content))
    clean_stage.open_clean(root / "clean", "belle")
    raise DataError("a name, and nothing in it")


def _names_on_a_hub(root: Path, name: str) -> None:
    facts = download.HubFile("owner/name", "*", num_files=1)
    found = download._matching(facts, [download._Wanted("owner/name", name, (), "")], "the hub")
    path = root / found[0].name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open("ab").close()
    raise DataError("a name of a file")


def _names_of_shards_on_a_hub(root: Path, name: str) -> None:
    _names_on_a_hub(root, f"data/{name}")


def _model_id(root: Path, name: str) -> None:
    if MODEL_ID.fullmatch(name):
        (root / "models" / name).open("ab").close()
    raise DataError("no name of a model, or one without a folder in it")


SPOTS = [
    Spot("MANIFEST.json, at a resume", _manifest_of_a_run, is_sealed=True),
    Spot("MANIFEST.json, at a load", _manifest_of_weights, is_sealed=True),
    Spot("index of shards", _index_of_shards),
    Spot("best", _best),
    Spot("names in configs", _config_names),
    Spot("shards of a clean corpus", _shards_of_a_corpus),
    Spot("name of a clean corpus", _name_of_a_corpus),
    Spot("names of a hub's listing", _names_on_a_hub, follows_links=True),
    Spot("names of a hub's folder", _names_of_shards_on_a_hub, follows_links=True),
    Spot("id of a model over HTTP", _model_id),
]
_ENTRY = manifest.Entry("0" * 64, 3)


def main() -> None:
    """Tries every name at every spot."""
    folder, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    outside = folder / "outside"
    outside.mkdir()
    (outside / path_names.SECRET).write_bytes(b"abc")
    valid = tiny_snapshot.save(folder / "valid", 5)
    names = path_names.names(outside)
    cases = [(spot, name) for spot in SPOTS for name in names if spot.can_hold(name)]
    if count < len(cases):
        cases = random.Random(seed).sample(cases, count)
    # What Python reads at first use is read now.
    for spot in SPOTS:
        _case(spot, "..", folder / "warm", valid, outside)
    results: list[dict[str, Any]] = []
    for number, (spot, name) in enumerate(cases):
        root = folder / "root"
        _lay_out(root, valid, outside)
        with contextlib.suppress(OSError):
            os.stat(f"/case/{number}")  # noqa: PTH116
        raised = _act(spot, root, name)
        with contextlib.suppress(OSError):
            os.stat("/case/-1")  # noqa: PTH116
        results.append({"spot": spot.name, "name": name, "raised": raised})
    (folder / "results.json").write_text(json.dumps(results))


def _case(spot: Spot, name: str, root: Path, valid: Path, outside: Path) -> None:
    _lay_out(root, valid, outside)
    _act(spot, root, name)


def _act(spot: Spot, root: Path, name: str) -> str:
    """Returns "" for a clean refusal, "accepted", or what else was raised."""
    try:
        spot.act(root, name)
    except ChatLMError:
        return ""
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:150]}"
    return "accepted"


def _lay_out(root: Path, valid: Path, outside: Path) -> None:
    """Makes a run with one checkpoint, and links that lead out of it."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(valid, root / STEP)
    (root / "models").mkdir()
    (root / "data").mkdir()
    for place in (root, root / STEP, root / "clean" / "belle"):
        place.mkdir(parents=True, exist_ok=True)
        (place / LINKS[0]).symlink_to(outside / path_names.SECRET)
        (place / LINKS[1]).symlink_to(outside)


if __name__ == "__main__":
    main()
