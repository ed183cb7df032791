"""Text in, the same text without scraping noise out.

In: a text. Out: the text in NFC with LF line breaks, no control characters, no runs of one
repeated mark. Deterministic and idempotent. It keeps what carries meaning: letters, digits,
brackets and quotes in pairs, decimal points, English spacing, indentation, code operators,
full-width marks as such. It does not decode HTML (that is not idempotent; see `decode_html`, used
once per corpus that needs it) and does not judge the text.

Each rule is `str -> str` and returns its argument itself when there is nothing to do, so that the
pipeline can count what each rule changed.
"""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable

HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Chinese characters, as the inside of a regex class."""

WIDE_MARKS = (
    "\u3001\u3002\u3008-\u3011\u3014-\u301b\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
)
"""Full-width marks, which bring their own space. The quotes “” are not among them: English text
uses them with spaces around."""

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Zero-width joiners stay: emoji are made with them.
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffc\ufffe\uffff]"
)
_WIDE_SPACES = "\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
# Prose is indented with ideographic spaces; no-break spaces at a line start are copied code.
_WIDE_INDENT = re.compile(f"^[ \t{_WIDE_SPACES[:-1]}]*\u3000[ \t{_WIDE_SPACES}]*", re.MULTILINE)
WIDE_SPACE = re.compile(f"[{_WIDE_SPACES}]")
# (?<! ) keeps a run of spaces that leads nowhere from being tried again at each of its spaces.
_SPACED_MARK = re.compile(
    f"(?<! ) +(?=[{WIDE_MARKS}])|(?<=[{WIDE_MARKS}]) +(?=[{HAN}{WIDE_MARKS}])"
)
_SPACED_HAN = re.compile(f"(?<=[{HAN}])  +(?=[{HAN}])")

_FULL_STOPS = re.compile("。{3,}")
# A double colon is no noise: analogies (猫：鱼：：狗：骨头) and code set in full width have it.
_WIDE_RUN = re.compile("([。！？，、；～])\\1+")
_ELLIPSES = re.compile("…{3,}")
_DASHES = re.compile("—{3,}")
# ASCII marks are operators in code: `!!x`, `a ?? b`, `...`, `;;`, `x?.y`. Only a run that ends a
# word and is followed by a space, a line end, Chinese or a closing mark is a raised voice.
_ASCII_RUN = re.compile(f"(?<=[\\w{WIDE_MARKS}’”)])([!?])\\1++(?=[\\s{HAN}{WIDE_MARKS}’”!?]|\\Z)")
_ASCII_DOTS = re.compile(f"(?<=[{HAN}{WIDE_MARKS}”])\\.{{4,}}")
_ASCII_TILDES = re.compile(f"(?<=[{HAN}{WIDE_MARKS}”])~{{3,}}")

_RUN = re.compile("([。！？，、；～…—!?.~])\\1")

_TRAILING = re.compile("(?<![ \t])[ \t]+$", re.MULTILINE)
_BLANK_LINES = re.compile("\n{3,}")

_BREAK_TAG = re.compile(r"<br\s*/?>|</p>\s*<p>|</?p>", re.IGNORECASE)


def line_ends(text: str) -> str:
    """Makes every line end LF; a bare CR is the only paragraph mark that some corpora have."""
    return _LINE_ENDS.sub("\n", text)


def invisible(text: str) -> str:
    """Removes control and formatting characters and stray byte order marks."""
    return INVISIBLE.sub("", text)


def compose(text: str) -> str:
    """Returns NFC. Not NFKC, which would turn `，！？：（）` into ASCII and `²` into `2`."""
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def wide_spaces(text: str) -> str:
    """Removes indentation by ideographic spaces; other special spaces become plain ones."""
    if "\u3000" in text:
        text = _WIDE_INDENT.sub("", text)
    return WIDE_SPACE.sub(" ", text)


def spaced_marks(text: str) -> str:
    """Removes spaces around full-width marks; several spaces between Chinese words become one.

    One space stays between two Chinese characters: in questions, headlines and lists it is the
    only separator there is.
    """
    if " " not in text:
        return text
    return _SPACED_HAN.sub(" ", _SPACED_MARK.sub("", text))


def repeated_marks(text: str) -> str:
    """Collapses runs of the same mark; different marks in a row stay, as do pairs and operators."""
    if not _RUN.search(text):
        return text
    text = _FULL_STOPS.sub("……", text)
    text = _WIDE_RUN.sub("\\1", text)
    text = _ELLIPSES.sub("……", text)
    text = _DASHES.sub("——", text)
    text = _ASCII_RUN.sub("\\1", text)
    text = _ASCII_DOTS.sub("...", text)
    return _ASCII_TILDES.sub("~", text)


def blank_space(text: str) -> str:
    """Removes spaces at line ends, more than one blank line in a row, and blanks at both ends."""
    if " \n" in text or "\t\n" in text:
        text = _TRAILING.sub("", text)
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip(" \t\n")


Rule = Callable[[str], str]

RULES: tuple[tuple[str, Rule], ...] = (
    ("line_ends", line_ends),
    ("invisible", invisible),
    ("compose", compose),
    ("wide_spaces", wide_spaces),
    ("spaced_marks", spaced_marks),
    ("repeated_marks", repeated_marks),
    ("blank_space", blank_space),
)
"""The order matters: composing comes after removal, which can bring two characters together."""


def normalize(text: str, changed: Counter[str] | None = None) -> str:
    """Returns `text` after all rules; `changed` counts the rules that did something."""
    for name, rule in RULES:
        result = rule(text)
        if changed is not None and result != text:
            changed[name] += 1
        text = result
    return text


def decode_html(text: str) -> str:
    """Returns `text` with `<br>` and paragraph tags as line ends and entities decoded, once."""
    if "<" in text:
        text = _BREAK_TAG.sub("\n", text)
    return html.unescape(text) if "&" in text else text
