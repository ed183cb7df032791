"""Text that is safe to print: a model, a file or a stranger may have written it.

In: any text, also in pieces. Out: the same text without what drives a terminal or hides characters:
control characters except newline and tab, escape sequences, bidirectional overrides, and invisible
characters outside emoji. It does not judge what the text says.
"""

import re
import unicodedata

# What shows nothing by itself: Unicode's Default_Ignorable_Code_Point (bidirectional controls are
# among them) and the marks of interlinear notes.
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
JOINER = "\u200d"  # joins emoji; elsewhere it only hides
# One of them may choose the form of the character before it: of an emoji, or of 汉字.
_VARIATION = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# Flags of regions are a black flag, their letters as tags, and an end; more could carry a message.
_BLACK_FLAG = "\U0001f3f4"
_TAG = re.compile("[\U000e0030-\U000e0039\U000e0061-\U000e007a]")
_END_OF_TAGS = "\U000e007f"
_MOST_TAGS = 6
LINE_BREAKS = frozenset("\u2028\u2029")
# An unfinished command string must not swallow the rest of an answer.
MAX_SEQUENCE_CHARS = 256

_TEXT, _ESCAPE, _CSI, _STRING, _STRING_END = range(5)
_STRING_OPENERS = frozenset("]PX^_")  # after ESC: OSC, DCS, SOS, PM, APC
_STRING_C1 = frozenset("\x9d\x90\x98\x9e\x9f")
_PLAIN = re.compile(
    r"[\n\t -~\u00a1-\u00ac\u2010-\u2027\u3000-\u3163\u3165-\ud7ff\uff00-\uff9f\uffa1-\uffef]*\Z"
)


def sanitize(text: str) -> str:
    """Returns a whole text, made safe."""
    return Sanitizer().push(text)


class Sanitizer:
    """The same for a text that arrives in pieces; a sequence may be split between them.

    The pieces' results, joined, are `sanitize` of the pieces, joined.
    """

    def __init__(self) -> None:
        self._state = _TEXT
        self._length = 0  # characters of the sequence so far
        self._last = ""
        self._tags = -1  # of a flag that is not complete; -1: there is none

    def push(self, piece: str) -> str:
        """Returns what of this piece may be printed."""
        if self._state == _TEXT and piece and _PLAIN.match(piece):
            self._last, self._tags = piece[-1], -1
            return piece
        return "".join(map(self._character, piece))

    def _character(self, char: str) -> str:
        if self._state == _TEXT or not self._consumes(char):
            return self._text(char)
        return ""

    def _consumes(self, char: str) -> bool:
        """Advances inside an escape sequence; False when `char` is not part of one."""
        self._length += 1
        if char == "\x1b" and self._state not in (_STRING, _STRING_END):
            self._enter(_ESCAPE)
            return True
        if self._state == _ESCAPE:
            return self._after_escape(char)
        if self._state == _CSI:
            if "\x40" <= char <= "\x7e":
                self._state = _TEXT
                return True
            return self._continue_if("\x20" <= char <= "\x3f")
        if self._state == _STRING_END and char == "\\":
            self._state = _TEXT
            return True
        if char in "\x07\x9c":
            self._state = _TEXT
            return True
        self._state = _STRING_END if char == "\x1b" else _STRING
        return self._continue_if(char != "\n" and self._length < MAX_SEQUENCE_CHARS)

    def _after_escape(self, char: str) -> bool:
        if char == "[":
            self._enter(_CSI)
        elif char in _STRING_OPENERS:
            self._enter(_STRING)
        elif "\x30" <= char <= "\x7e":  # the final character of a short sequence
            self._state = _TEXT
        else:
            return self._continue_if("\x20" <= char <= "\x2f")
        return True

    def _continue_if(self, inside: bool) -> bool:
        if not inside:
            self._state = _TEXT
        return inside

    def _enter(self, state: int) -> None:
        self._state, self._length = state, 0

    def _text(self, char: str) -> str:
        """Returns a character outside of sequences as it may be printed."""
        if char == "\x1b":
            self._enter(_ESCAPE)
            return ""
        if char == "\x9b":
            self._enter(_CSI)
            return ""
        if char in _STRING_C1:
            self._enter(_STRING)
            return ""
        shown = self._tag(char) or _shown(char, self._last)
        if shown:
            self._last = shown
            if not _is_tag(char):
                self._tags = 0 if char == _BLACK_FLAG else -1
        return shown

    def _tag(self, char: str) -> str:
        """Returns a tag that belongs to a flag, or nothing."""
        if not _is_tag(char) or not 0 <= self._tags <= _MOST_TAGS:
            return ""
        is_end = char == _END_OF_TAGS
        if self._tags == (0 if is_end else _MOST_TAGS):
            return ""
        self._tags = -1 if is_end else self._tags + 1
        return char


def _is_tag(char: str) -> bool:
    return char == _END_OF_TAGS or bool(_TAG.match(char))


def _shown(char: str, last: str) -> str:
    if char in "\n\t":
        return char
    if char in LINE_BREAKS:
        return "\n"
    if char == JOINER:
        return char if _is_emoji(last) else ""
    if _VARIATION.match(char):
        return char if last and not last.isspace() and not INVISIBLE.match(last) else ""
    if INVISIBLE.match(char):
        return ""
    category = unicodedata.category(char)
    if category == "Cs":
        return "\ufffd"
    return "" if category == "Cc" else char


def _is_emoji(char: str) -> bool:
    """Tells whether a joiner after this character can be part of an emoji."""
    return bool(char) and (
        unicodedata.category(char) == "So"
        or char == "\ufe0f"
        or "\U0001f3fb" <= char <= "\U0001f3ff"
    )
