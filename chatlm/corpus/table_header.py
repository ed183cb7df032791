"""The columns that a table must have.

In: names. Out: the one error that says which of them a file lacks. It reads no file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from chatlm.errors import DataError

Columns: TypeAlias = Sequence[Sequence[str]]
"""Each group names one column by its possible names; one of the group must be in the file."""

CONVERSATION_NAMES = ("messages", "conversations")
"""The columns that hold a list of messages where others hold a text."""

_SHOWN = 20


def require_columns(path: Path, found: Sequence[str], columns: Columns) -> None:
    """Raises the `DataError` for missing columns, beside those that the file has, and for doubles.

    A column that is there twice could be read as either; which one is meant nobody can tell.
    """
    missing = [group for group in columns if not any(name in found for name in group)]
    if missing:
        has = ", ".join(name[:40] for name in found[:_SHOWN]) or "no columns"
        raise DataError(f"{path}: no column {names_of(missing)}; the file has {has}")
    twice = [name for group in columns for name in group if list(found).count(name) > 1]
    if twice:
        raise DataError(f"{path}: column {twice[0]} is there twice; remove or rename one of them")


def names_of(columns: Columns) -> str:
    """Returns the groups for an error message."""
    return ", ".join(" or ".join(group) for group in columns) or "a header"
