"""What is asked of the examples of one corpus: thresholds and named filters.

In: numbers and names. Out: `Recipe`, and the filters that it stands for. Which corpus gets which
recipe is policy and stands in `utils/raw_data_process.py`.
"""

from dataclasses import dataclass

from chatlm.corpus import filters
from chatlm.corpus.filters import Filter
from chatlm.errors import DataError

_NAMED_FILTERS: dict[str, Filter] = {
    "identical": filters.identical,
    "table": filters.table,
    "translation_task": filters.translation_task,
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is asked of the examples of one corpus.

    `drop` names further filters: identical, table, translation_task. `min_unended_chars` is the
    length from which an answer without a final mark counts as cut off (None: never). A `policy`
    says why a corpus is read but not used; all its examples are then dropped with that reason.
    """

    min_prompt_chars: int = 2
    max_prompt_chars: int = 512
    min_response_chars: int = 1
    max_response_chars: int = 512
    min_han_share: float = 0.0
    min_votes: int | None = None
    min_unended_chars: int | None = None
    drop: tuple[str, ...] = ("identical",)
    policy: str | None = None

    def filters(self) -> list[Filter]:
        """Returns the filters in the order in which they judge.

        Raises:
            DataError: `drop` names an unknown filter.
        """
        unknown = [name for name in self.drop if name not in _NAMED_FILTERS]
        if unknown:
            raise DataError(
                f"recipe: no filter {', '.join(unknown)}; there are {', '.join(_NAMED_FILTERS)}"
            )
        chosen = [
            filters.min_chars(self.min_prompt_chars, self.min_response_chars),
            filters.max_chars(self.max_prompt_chars, self.max_response_chars),
        ]
        if self.min_han_share:
            chosen.append(filters.min_han_share(self.min_han_share))
        return chosen + [_NAMED_FILTERS[name] for name in self.drop]
