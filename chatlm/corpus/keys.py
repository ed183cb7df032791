"""Stable keys of texts: the same on every machine, in every run, for every version of Python.

In: texts. Out: a key that two texts share when they differ only in prose marks, spaces and width;
the folded text that near duplicates are measured on; integers hashed from keys; and the same rules
as tables of code points for compiled loops. Python's own `hash` is salted and never used.
"""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Only marks of prose. Signs that change what is said (+ - * / = < > % brackets) stay, and so do
# points, commas and colons between digits: 3.14 is not 314, 12:30 not 1230.
_MARKS = "\\s\u200b，。、！？；：!?;“”‘’「」『』《》〈〉\"'…—~·"
_POINTS = ".,:"
_PROSE = re.compile(f"[{_MARKS}]+|(?<![0-9])[{_POINTS}]+|[{_POINTS}]+(?![0-9])")
_LOOSE_POINT = re.compile(f"(?<![0-9])[{_POINTS}]|[{_POINTS}](?![0-9])")
_MARK = re.compile(f"[{_MARKS}]")
_SEPARATOR = "\x1f"
_SIGNS = frozenset("-*/%&#@\\^")
"""Marks in Unicode's eyes that change what is said, beside the mathematical and money signs. The
low line is not one of them: in questions it is a blank to fill."""

NUM_CODE_POINTS = 0x110000
CODE_POINT = (1 << 21) - 1
"""Of an entry of `FoldTables.key`: the bits that hold the code point."""
DROPPED, POINT, UNCERTAIN, SPREAD = 1 << 21, 1 << 22, 1 << 23, 1 << 24


def prose_key(text: str) -> str:
    """Returns `text` without prose marks and spaces, with full-width forms made narrow."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _PROSE.sub("", text) or text


def folded(text: str) -> str:
    """Returns what near duplicates are compared by: the prose key in lower case, without brackets.

    Kept are letters and digits of every script, with their combining marks, signs that change what
    is said, and points, commas and colons between digits.
    """
    return folded_key(prose_key(text))


def folded_key(key: str) -> str:
    """Returns the folded text that belongs to a prose key."""
    return _LOOSE_POINT.sub("", key).translate(_FOLDED)


def stable_hash(text: str, seed: int = 0) -> int:
    """Returns an unsigned 64-bit hash of `text`, another one for each seed."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, salt=_salt(seed))
    return int.from_bytes(digest.digest(), "little")


def pair_digest(prompt: str, response: str) -> bytes:
    """Returns 16 bytes that two pairs share when their keys are the same."""
    text = f"{prose_key(prompt)}{_SEPARATOR}{prose_key(response)}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class FoldTables:
    """`prose_key` and `folded`, one entry for each code point.

    A loop that follows the tables reads several characters for one marked `SPREAD`, drops one
    marked `DROPPED`, keeps one marked `POINT` only between two whose entries are ASCII digits, and
    replaces every other one. It must hand a text to `prose_key` if it meets an `UNCERTAIN`
    character (one that changes beside others) or keeps nothing.

    Attributes:
        key: uint32, (NUM_CODE_POINTS,): the character in the prose key, with its marks. Of one
            marked `SPREAD`, the place in `spread`, where the number of characters stands and then
            they.
        low: uint32, (NUM_CODE_POINTS,): of a character of a prose key, the one in the folded text;
            0 where it has none. Points are not in it: they stay if the prose key has them.
        spread: uint32, flat: see `key`. A character has at most twice as many as bytes in UTF-8.
    """

    key: NDArray[np.uint32]
    low: NDArray[np.uint32]
    spread: NDArray[np.uint32]


@functools.cache
def fold_tables() -> FoldTables:
    """Returns the tables; the first call takes a tenth of a second."""
    identity = np.arange(NUM_CODE_POINTS, dtype=np.uint32)
    key, low = identity.copy(), np.zeros_like(identity)
    for start, end in _SAME_LETTERS:
        low[start:end] = identity[start:end]
    spread = list[int]()
    for code in _unlike_codes():
        key[code] = _key_entry(chr(code), spread)
        lowered = _lowered(chr(code))
        low[code] = ord(lowered) if lowered else 0
    for start, end in _jamo():
        key[start:end] |= np.uint32(UNCERTAIN)
    key.flags.writeable = low.flags.writeable = False
    return FoldTables(key, low, np.array(spread, np.uint32))


# Han and Hangul, which no rule changes; planes 2 and 3 belong to Han, assigned yet or not.
_SAME_LETTERS = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0x20000, 0x40000))
_UNUSED = ((0xD800, 0xF900), (0x40000, 0xE0000), (0xE1000, NUM_CODE_POINTS))
_COMPATIBLE_HAN = (0x2F800, 0x2FA20)


def _unlike_codes() -> Iterator[int]:
    """Yields the code points that have to be looked at one by one."""
    start = 0
    for skip_start, skip_end in sorted((*_SAME_LETTERS, *_UNUSED)):
        yield from range(start, skip_start)
        start = max(start, skip_end)
    yield from range(*_COMPATIBLE_HAN)


def _jamo() -> Iterator[tuple[int, int]]:
    yield 0x1160, 0x1200


@functools.cache
def _joining() -> frozenset[str]:
    """Returns the characters that NFC joins to the one before."""
    pairs = (unicodedata.decomposition(chr(code)).split() for code in _unlike_codes())
    return frozenset(
        chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2 and not pair[0].startswith("<")
    )


def _key_entry(char: str, spread: list[int]) -> int:
    narrow = unicodedata.normalize("NFKC", char)
    if any(unicodedata.combining(one) or one in _joining() for one in char + narrow):
        return ord(char) | UNCERTAIN
    if not narrow.strip("."):
        # Several points (an ellipsis) are never kept; one is judged by its neighbours.
        return ord(".") | (POINT if len(narrow) == 1 else DROPPED)
    if len(narrow) > 1:
        if len(narrow) > 2 * len(char.encode()):
            return ord(char) | UNCERTAIN
        spread += [len(narrow), *map(ord, narrow)]
        return len(spread) - len(narrow) - 1 | SPREAD
    if _MARK.match(narrow):
        return ord(narrow) | DROPPED
    return ord(narrow) | (POINT if narrow in _POINTS else 0)


@functools.cache
def _lowered(char: str) -> str:
    """Returns the lower-case form if the character counts in a folded text, else nothing."""
    code, category = ord(char), unicodedata.category(char)
    is_letter = category[0] in "LNM" or 0x20000 <= code < 0x40000
    if _MARK.match(char) or not (is_letter or category in ("Sm", "Sc") or char in _SIGNS):
        return ""
    lowered = char.lower()
    return lowered if len(lowered) == 1 else char


class _Folded(dict[int, str]):
    """Code point to what stands for it in a folded text, for `str.translate`."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = found = char if char in _POINTS else _lowered(char)
        return found


_FOLDED = _Folded()


def _salt(seed: int) -> bytes:
    return (seed % (1 << 64)).to_bytes(8, "little")
