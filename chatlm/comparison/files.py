"""The files of a comparison.

In: a `Comparison` and a folder. Out: comparison.json and comparison.html in it, each whole or not
at all. The same comparison gives the same bytes.
"""

import json
from pathlib import Path

from chatlm.comparison.page import render
from chatlm.comparison.result import Comparison
from chatlm.comparison.settings import CompareConfig
from chatlm.corpus.store import replacing

JSON_FILE, PAGE_FILE = "comparison.json", "comparison.html"
OUT_ROOT = Path("out")


def folder_of(config: CompareConfig, model: Path) -> Path:
    """Returns where the files go: out=, or a folder named after the run and what was asked."""
    if config.out:
        return Path(config.out)
    whole = model.resolve()
    run = whole.parent.name if whole.name.startswith("step_") else whole.name
    asked = Path(config.data or config.questions or "questions").stem
    return OUT_ROOT / f"compare-{run}-{asked}"


def write(comparison: Comparison, folder: Path) -> tuple[Path, Path]:
    """Writes both files and returns their paths; those of an earlier comparison are replaced.

    Raises:
        DataError: the folder cannot be written.
    """
    table, page = folder / JSON_FILE, folder / PAGE_FILE
    text = json.dumps(comparison.as_dict(), ensure_ascii=False, indent=1, sort_keys=True)
    with replacing(table) as file:
        file.write(f"{text}\n".encode("utf-8", "replace"))
    with replacing(page) as file:
        file.write(render(comparison).encode("utf-8", "replace"))
    return table, page
