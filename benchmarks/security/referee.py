"""An independent terminal that judges: what did these bytes do to it?

In: the bytes that a program sent to a terminal. Out: the state they leave, apart from the text, and
the text itself. The emulator is pyte, which knows nothing of ours; the bytes are also judged
without it, because it cannot know every terminal's sequences.
"""

import re
from dataclasses import dataclass
from typing import Any

import pyte

COLUMNS, LINES = 100, 40
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)")
# What joins emoji and chooses their forms changes no state; pyte drops the text that follows it.
_FORMS = re.compile("[\u200d\ufe00-\ufe0f\U000e0000-\U000e0fff]")
_FLAG = re.compile("\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,6}\U000e007f?")
_NOTHING = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b\u200c\u200e\u200f\u2060-\u206f\ufeff"
)
_HIDDEN = re.compile(
    f"[{_NOTHING}\U000e0000-\U000e00ff]|[{_NOTHING}\u200d\ufe00-\ufe0f\U000e0100-\U000e0fff]{{3,}}"
)
_BIDIRECTIONAL = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Judgement:
    """What bytes did: the state as it is now, differences from a fresh terminal, the text."""

    changed: tuple[str, ...]
    text: str
    row: int
    column: int


def judge(sent: bytes) -> Judgement:
    """Returns what bytes do to a fresh terminal."""
    screen = pyte.Screen(COLUMNS, LINES)
    text = _FORMS.sub("", sent.decode("utf-8", "surrogateescape"))
    pyte.ByteStream(screen).feed(text.encode("utf-8", "surrogateescape"))
    state = _state(screen)
    changed = tuple(name for name in state if state[name] != _FRESH[name])
    cells = [cell for line in screen.buffer.values() for cell in line.values()]
    if any(_look(cell) != _look(screen.default_char) for cell in cells):
        changed = (*changed, "look of a character")
    rows = [_row(screen.buffer[number]) for number in range(screen.cursor.y + 1)]
    return Judgement(changed, "\n".join(rows), screen.cursor.y, screen.cursor.x)


def hidden(sent: bytes) -> str:
    """Returns characters in these bytes that show nothing and stand where no emoji needs them."""
    text = _FLAG.sub("", sent.decode("utf-8", "surrogateescape"))
    found = _HIDDEN.search(text)
    return found[0] if found else ""


def without_controls(sent: bytes) -> bytes:
    """Returns the plain text among these bytes."""
    text = sent.decode("utf-8", "surrogateescape")
    return _CONTROLS.sub("", text).encode("utf-8", "surrogateescape")


def _row(line: Any) -> str:
    """Returns the text of a row; the second half of a wide character is empty."""
    return "".join(line[column].data for column in range(max(line, default=-1) + 1)).rstrip()


def forbidden(sent: bytes) -> list[str]:
    """Returns the characters in these bytes that change a terminal, or the way a line reads."""
    text = sent.decode("utf-8", "surrogateescape")
    found = [*_CONTROLS.findall(text), *_BIDIRECTIONAL.findall(text)]
    return [f"U+{ord(char):04X}" for char in found]


def _state(screen: pyte.Screen) -> dict[str, Any]:
    """Returns everything about a terminal that is not text or the place of the cursor."""
    return {
        "attributes of the cursor": _look(screen.cursor.attrs),
        "hidden cursor": screen.cursor.hidden,
        "modes": frozenset(screen.mode),
        "title": screen.title,
        "icon name": screen.icon_name,
        "charset": (screen.charset, screen.g0_charset, screen.g1_charset),
        "margins": screen.margins,
        "saved cursors": len(screen.savepoints),
        "tab stops": frozenset(screen.tabstops),
        "size": (screen.columns, screen.lines),
    }


def _look(char: Any) -> tuple[Any, ...]:
    return tuple(char)[1:]


_FRESH = _state(pyte.Screen(COLUMNS, LINES))
