"""Stable keys of texts: the same on every machine, in every run, for every version of Python.

In: texts. Out: a key that two texts share when they differ only in prose marks, spaces and width,
and integers hashed from keys. Python's own `hash` is salted and never used.
"""

import hashlib
import re
import unicodedata

# Only marks of prose. Signs that change what is said (+ - * / = < > % brackets) stay, and so do
# points, commas and colons between digits: 3.14 is not 314, 12:30 not 1230.
_PROSE = re.compile(
    "[\\s\u200b，。、！？；：!?;“”‘’「」『』《》〈〉\"'…—~·]+|(?<![0-9])[.,:]+|[.,:]+(?![0-9])"
)
_SEPARATOR = "\x1f"


def prose_key(text: str) -> str:
    """Returns `text` without prose marks and spaces, with full-width forms made narrow."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _PROSE.sub("", text) or text


def stable_hash(text: str, seed: int = 0) -> int:
    """Returns an unsigned 64-bit hash of `text`, another one for each seed."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, salt=_salt(seed))
    return int.from_bytes(digest.digest(), "little")


def pair_digest(prompt: str, response: str) -> bytes:
    """Returns 16 bytes that two pairs share when their keys are the same."""
    text = f"{prose_key(prompt)}{_SEPARATOR}{prose_key(response)}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _salt(seed: int) -> bytes:
    return (seed % (1 << 64)).to_bytes(8, "little")
