"""Reads hostile files as `clean` would and says of each, on a line of JSON, what became of it.

    python -m tests.corpus.survive <source> <every n-th> <seconds for each>

A file that takes longer ends the process; a crash does so by itself.
"""

import faulthandler
import json
import sys
import tempfile
from itertools import islice
from pathlib import Path

from chatlm.corpus import readers
from chatlm.corpus.cleaning import clean_batch
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.sources import SOURCES
from chatlm.errors import DataError

from .bad_inputs import items
from .bad_rows import GOOD_PROMPTS, Item
from .bad_wiki import TITLES
from .memory import peak_kib

RECIPE = Recipe(
    min_prompt_chars=1,
    min_han_share=0.1,
    min_unended_chars=50,
    drop=("identical", "translation_task", "table"),
)


def outcome(item: Item, folder: Path) -> dict[str, object]:
    """Returns what became of one file; `wrong` is empty if that was as it should be."""
    path = folder / item.file_name
    path.write_bytes(item.content)
    source = SOURCES[item.source]
    try:
        records = list(readers.read(path, source.columns))
        done = clean_batch(records, str(path), source, RECIPE)
    except DataError as error:
        wrong = "" if item.is_file else f"DataError: {error}"
        return {"wrong": wrong, "dropped": {}, "kept": 0}
    kept = [example.prompt for example in done.examples]
    for example in done.examples:
        (example.prompt + example.response).encode()
    wrong = ""
    good = TITLES if item.source == "zhwiki" else GOOD_PROMPTS
    lost = [text for text in good if not any(text in prompt for prompt in kept)]
    counts = done.counts
    if lost and not item.is_file:
        wrong = f"lost {lost}"
    elif counts.rows_in != counts.kept + counts.dropped.total():
        wrong = "rows in are not rows kept and dropped"
    elif counts.rows_in < item.num_rows + len(good) and not item.is_file:
        wrong = f"only {counts.rows_in} rows in"
    return {"wrong": wrong, "dropped": dict(counts.dropped), "kept": counts.kept}


def main(source: str, step: int, seconds: int) -> None:
    """Reports on every `step`-th file of a corpus."""
    with tempfile.TemporaryDirectory() as folder:
        known = set[str]()
        for item in islice(items(source), 0, None, step):
            # The first file of its kind may have to wait until loops are compiled.
            patience = 1 if item.file_name in known else 12
            known.add(item.file_name)
            faulthandler.dump_traceback_later(seconds * patience, exit=True)
            report = outcome(item, Path(folder))
            faulthandler.cancel_dump_traceback_later()
            usage = peak_kib()
            print(json.dumps({"name": item.name, **report, "mib": usage // 1024}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
