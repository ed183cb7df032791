"""A part of the contents of a dump, as the readers of bzip2 hand it on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """Contents that follow those of the piece before.

    `stream` is where their stream begins in the file (0 in a plain file). With `damage`, the rest
    of that stream is lost, and `damage` says why.
    """

    stream: int
    data: bytes
    damage: str = ""
