"""What happened to the rows of one stage.

In: single events. Out: `Counts`, which balance: rows in = rows kept + rows dropped by reason.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Counts:
    """The book of one stage.

    `rows_in` counts raw records plus the further examples that a record gave (a conversation gives
    one for each answer). `modified` counts, for each rule, the texts that it changed.
    """

    rows_in: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    modified: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Counts") -> None:
        """Adds the book of another shard."""
        self.rows_in += other.rows_in
        self.kept += other.kept
        self.dropped.update(other.dropped)
        self.modified.update(other.modified)

    def check(self, stage: str) -> None:
        """Raises `RuntimeError`, a defect of this program, if rows appeared or vanished."""
        accounted = self.kept + self.dropped.total()
        if self.rows_in != accounted:
            raise RuntimeError(
                f"{stage}: {self.rows_in} rows in, but {self.kept} kept and "
                f"{self.dropped.total()} dropped"
            )

    def as_dict(self) -> dict[str, object]:
        """Returns the book for a manifest, reasons by name."""
        return {
            "rows_in": self.rows_in,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
            "modified": dict(sorted(self.modified.items())),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Counts":
        """Returns the book that `as_dict` wrote."""
        return cls(
            content["rows_in"],
            content["kept"],
            Counter(content["dropped"]),
            Counter(content["modified"]),
        )
