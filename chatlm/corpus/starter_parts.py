"""The starter corpus as train, valid and test.

In: the starter tables. Out: the three parquet files and a manifest. Its phrasings, not draws, say
what validates and tests; hand-written texts that a filter refuses are errors, not drops.
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from chatlm import log
from chatlm.corpus import starter, store
from chatlm.corpus.cleaning import clean_example
from chatlm.corpus.counts import Counts
from chatlm.corpus.example import Example
from chatlm.corpus.keys import pair_digest, prose_key
from chatlm.corpus.recipe import Recipe
from chatlm.corpus.shuffle import mix
from chatlm.corpus.split import PARTS
from chatlm.errors import DataError

OPEN_REPEATS = 6
"""Open questions of the starter corpus (greetings, advice) train this often an epoch: their answers
are long and each has few phrasings, while a closed table teaches one pattern with all its rows."""
# Written by hand: it speaks of itself as an assistant and names service numbers on purpose.
_RECIPE = Recipe(
    min_prompt_chars=1, min_response_chars=1, quality=(), boilerplate=False, mask=False
)


def prepare_starter(starter_dir: Path, out_dir: Path) -> None:
    """Writes the three parts of the starter corpus.

    Raises:
        DataError: A table is malformed, a text does not pass the filters, or a question of one part
            is asked in another part too.
    """
    by_part = {part: _cleaned(starter_dir, part) for part in PARTS}
    _refuse_leaks(by_part)
    by_part["train"] += _open_ones(by_part["train"]) * (OPEN_REPEATS - 1)
    counts = {part: len(examples) for part, examples in by_part.items()}
    with ExitStack() as stack:
        for part, examples in by_part.items():
            writer = stack.enter_context(store.PairWriter(out_dir / f"{part}.parquet"))
            digests = np.frombuffer(
                b"".join(pair_digest(one.prompt, one.response) for one in examples), np.uint64
            )
            order = np.argsort(mix(digests[::2], 0), kind="stable")
            writer.write([examples[index] for index in order])
    store.write_json(out_dir / "manifest.json", {"sources": ["starter"], "parts": counts})
    named = ", ".join(f"{part} {num_rows}" for part, num_rows in counts.items())
    log.info(f"starter: {named} rows in {out_dir}")


def _cleaned(folder: Path, part: str) -> list[Example]:
    """Returns the starter's examples of one part; a hand-written text that fails is an error."""
    counts = Counts()
    judges = _RECIPE.filters()
    cleaned = list[Example]()
    for example in starter.expand(folder, part):
        result = clean_example(example, _RECIPE, counts)
        reason = result if isinstance(result, str) else None
        if isinstance(result, Example):
            reason = next(filter(None, (judge(result) for judge in judges)), None)
            cleaned.append(result)
        if reason is not None:
            raise DataError(
                f"{example.source}: the pair {example.prompt!r} -> {example.response!r} is "
                f"{reason}; mend it in its table"
            )
    if not cleaned:
        raise DataError(f"{folder}: the starter tables give no {part} rows")
    return cleaned


def _open_ones(examples: list[Example]) -> list[Example]:
    return [one for one in examples if one.source.startswith(starter.SOURCE["open"])]


def _refuse_leaks(by_part: dict[str, list[Example]]) -> None:
    asked = dict[str, tuple[str, Example]]()
    for part in PARTS:
        for example in by_part[part]:
            known_part, known = asked.setdefault(prose_key(example.prompt), (part, example))
            if known_part != part:
                raise DataError(
                    f"{example.source}: the {part} question {example.prompt!r} is asked in "
                    f"{known_part} too ({known.source}: {known.prompt!r}); phrase it otherwise"
                )
