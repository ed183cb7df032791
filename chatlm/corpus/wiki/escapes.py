"""The entities that XML itself has.

In: a text as XML has it. Out: the same decoded once; other entities stay text.
"""

import re

_ENTITY = re.compile(r"&(?:#([0-9]{1,7})|#[xX]([0-9a-fA-F]{1,6})|(lt|gt|quot|apos|amp));")
_LONGEST = 10
_NAMED = {"lt": "<", "gt": ">", "quot": '"', "apos": "'", "amp": "&"}


def unescaped(text: str) -> str:
    """Returns `text` with the entities that XML itself has, decoded once; others stay text."""
    if "&" not in text:
        return text
    if "&#" in text:
        return _ENTITY.sub(lambda match: _character(match[1], match[2], match[3]), text)
    for name, character in _NAMED.items():
        text = text.replace(f"&{name};", character)
    return text


def unescaped_beginning(text: str, size: int) -> tuple[str, bool]:
    """Returns the first `size` characters of `unescaped(text)`, and whether that is all of it.

    It decodes no more of a long text than it needs to.
    """
    end = size + size // 8
    while end < len(text):
        cut = text.rfind("&", max(end - _LONGEST, 0), end)
        decoded = unescaped(text[: end if cut < 0 else cut])
        if len(decoded) > size:
            return decoded[:size], False
        end *= 2
    decoded = unescaped(text)
    return decoded[:size], len(decoded) <= size


def _character(decimal: str | None, hexadecimal: str | None, name: str | None) -> str:
    if name:
        return _NAMED[name]
    code = int(decimal) if decimal else int(hexadecimal or "0", 16)
    is_valid = 0 < code < 0xD800 or 0xDFFF < code < 0x110000
    return chr(code) if is_valid else "\ufffd"
