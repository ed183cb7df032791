"""What counts as a duplicate.

In: nothing. Out: the settings of the stage, and the closed list of what can become of a row.
"""

from dataclasses import dataclass

from chatlm.corpus.kernels.alike import MILLION
from chatlm.errors import ConfigError

REASONS = ("kept", "exact_duplicate", "near_duplicate", "in_evaluation_set")
"""What can become of a row, in the order of the codes in `reasons.npy`."""
KEPT, EXACT, NEAR, EVALUATED = range(4)


@dataclass(frozen=True, slots=True)
class DuplicateSettings:
    """What counts as a duplicate.

    Two rows are exact duplicates if the prose keys of their prompts and of their responses are the
    same. They are near duplicates if the sets of 3-grams of their folded texts (`keys.folded`,
    prompt and response with a separator between) have a Jaccard similarity of `threshold` or more,
    those of their responses alone one of `response_threshold`, and the texts do not differ in
    numbers only. Texts with fewer than three letters and digits have exact duplicates only.

    Attributes:
        near: Whether near duplicates are dropped. Like questions stay in one part of the split
            either way.
        threshold: Jaccard similarity from which two texts are alike.
        response_threshold: Jaccard similarity that responses must have by themselves, so that two
            questions about one long text are both kept. Responses without a 3-gram must be equal;
            rows with responses under 20 characters may differ in no more than ten 3-grams in all. 0
            switches all this off.
        respect_digits: Whether rows are both kept if every 3-gram that only one of them has holds a
            digit, a numeral or a sign of arithmetic. Questions are alike even so: their answers
            would be no test.
        pair_bands: Bands of the signature of a row; more find more and cost more.
        pair_band_rows: Hashes a band; fewer find more and cost more. 20 bands of 6 are the careful
            choice.
        question_bands: As `pair_bands`, for questions.
        question_band_rows: As `pair_band_rows`, for questions.
        eval_dir: Folder of evaluation sets whose questions must not be trained on; "" for none.
        min_contained_chars: Kept characters from which a question that stands inside a prompt, or a
            prompt that stands inside a question, is a hit.
    """

    near: bool = True
    threshold: float = 0.85
    response_threshold: float = 0.5
    respect_digits: bool = True
    pair_bands: int = 16
    pair_band_rows: int = 8
    question_bands: int = 20
    question_band_rows: int = 6
    eval_dir: str = ""
    min_contained_chars: int = 13

    def __post_init__(self) -> None:
        if not 0.5 <= self.threshold <= 1.0:
            raise ConfigError(f"threshold={self.threshold}: expected 0.5 to 1.0")
        if not 0.0 <= self.response_threshold <= 1.0:
            raise ConfigError(f"response_threshold={self.response_threshold}: expected 0.0 to 1.0")
        for name in ("pair_bands", "pair_band_rows", "question_bands", "question_band_rows"):
            if not 1 <= getattr(self, name) <= 64:
                raise ConfigError(f"{name}={getattr(self, name)}: expected 1 to 64")
        if self.min_contained_chars < 4:
            raise ConfigError(f"min_contained_chars={self.min_contained_chars}: expected 4 or more")

    @property
    def signature(self) -> dict[str, int]:
        """The settings on which signatures depend."""
        return {
            "pair_bands": self.pair_bands,
            "pair_band_rows": self.pair_band_rows,
            "question_bands": self.question_bands,
            "question_band_rows": self.question_band_rows,
        }

    @property
    def pair_lanes(self) -> int:
        """Hashes in the signature of a row."""
        return self.pair_bands * self.pair_band_rows

    @property
    def question_lanes(self) -> int:
        """Hashes in the signature of a question."""
        return self.question_bands * self.question_band_rows

    @property
    def millionths(self) -> int:
        """The threshold as an integer."""
        return round(self.threshold * MILLION)

    @property
    def response_millionths(self) -> int:
        """The threshold of responses as an integer."""
        return round(self.response_threshold * MILLION)
