"""What is asked of the examples of one corpus: thresholds and named filters.

In: numbers and names. Out: `Recipe`, and the filters that it stands for. Which corpus gets which
recipe is policy and stands in `utils/raw_data_process.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatlm.corpus import filters, quality
from chatlm.corpus.filters import Filter
from chatlm.errors import DataError

_NAMED_FILTERS: dict[str, Filter] = {
    "identical": filters.identical,
    "table": filters.table,
    "translation_task": filters.translation_task,
}
QUALITY: dict[str, Filter] = {
    "mojibake": quality.mojibake,
    "as_an_ai": quality.as_an_ai,
    "advertisement": quality.advertisement,
    "points_elsewhere": quality.points_elsewhere,
    "no_prose": quality.no_prose,
    "markup": quality.markup,
    "repetition": quality.repetition,
}
"""The filters of scraped and of generated text, in the order in which they judge."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is asked of the examples of one corpus.

    `drop` names further filters: identical, table, translation_task. `quality` names those of
    `QUALITY`; `boilerplate` removes stock openings and closings of answers, `wishes` good wishes at
    their end too; `mask` puts placeholders for private data. `min_unended_chars` is the length from
    which an answer without a final mark counts as cut off (None: never). A `policy` says why a
    corpus is read but not used; all its examples are then dropped with that reason. `compat` asks
    for the rules of Chat-LM-small instead of all these, for comparison only (see `compat`).
    """

    min_prompt_chars: int = 2
    max_prompt_chars: int = 512
    min_response_chars: int = 1
    max_response_chars: int = 512
    min_han_share: float = 0.0
    min_votes: int | None = None
    min_unended_chars: int | None = None
    drop: tuple[str, ...] = ("identical",)
    quality: tuple[str, ...] = tuple(QUALITY)
    boilerplate: bool = True
    wishes: bool = False
    mask: bool = True
    policy: str | None = None
    compat: bool = False

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Recipe":
        """Returns the recipe that `dataclasses.asdict` and JSON made into `content`."""
        lists = {name: tuple(content[name]) for name in ("drop", "quality") if name in content}
        return cls(**{**content, **lists})

    def filters(self) -> list[Filter]:
        """Returns the filters in the order in which they judge.

        Raises:
            DataError: `drop` or `quality` names an unknown filter.
        """
        for names, known in ((self.drop, _NAMED_FILTERS), (self.quality, QUALITY)):
            unknown = [name for name in names if name not in known]
            if unknown:
                raise DataError(
                    f"recipe: no filter {', '.join(unknown)}; there are {', '.join(known)}"
                )
        chosen = [
            filters.min_chars(self.min_prompt_chars, self.min_response_chars),
            filters.max_chars(self.max_prompt_chars, self.max_response_chars),
        ]
        if self.min_han_share:
            chosen.append(filters.min_han_share(self.min_han_share))
        chosen += [_NAMED_FILTERS[name] for name in self.drop]
        return chosen + [judge for name, judge in QUALITY.items() if name in self.quality]
