"""What a reader has to know before he believes a figure, in the two languages of the report.

In: nothing. Out: `Note`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """One line, in Chinese for the terminal, in both for the files."""

    zh: str
    en: str
