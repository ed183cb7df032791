"""Which of two encodings the bytes of a Chinese table are in, for the file and for each record.

In: bytes. Out: their text, or the reason why there is none. GB18030 accepts most UTF-8 in silence,
so whether bytes can be decoded is not the question: which reading is the plausible one is. What is
certain to be neither, or could be both, is refused rather than guessed. It knows nothing of tables.

A damaged byte of GB18030 that happens to give another assigned character cannot be seen by anyone;
one that breaks the code, shifts the pairs after it into unassigned places, or leaves U+FFFD is.
"""

import codecs
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from chatlm.corpus.read_json import open_binary, refuse_utf16
from chatlm.errors import DataError

UTF8, GB18030 = "utf-8-sig", "gb18030"
_BLOCK_BYTES = 1 << 17
# GB18030 text breaks the rules of UTF-8 within a few characters. A file that kept them for so long
# is UTF-8 with a damaged byte, and reading it as GB18030 would turn all of it into rubbish.
_SURELY_UTF8_CHARS = 100

_UTF8_START = re.compile(rb"[\x00-\x7f]*+[\xc2-\xf4][\x80-\xbf]")
_UTF8_HAN = re.compile(rb"[\xe3-\xe9\xef][\x80-\xbf]{2}")
# The usual characters (GB2312) have no such byte, nearly every Chinese character of UTF-8 has one.
_UTF8_RUN = re.compile(rb"(?:[\xe3-\xe9\xef][\x80-\xbf]{2}){2}")
_SAME = bytes(range(256))
_USUAL = bytes(byte for byte in range(256) if byte and not 0x80 <= byte <= 0xA0)
_UNASSIGNED = re.compile("[\ue000-\uf8ff\ufffd\U000f0000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Encoding:
    """The encoding of a file; `pure` says that every byte of it was found to be UTF-8."""

    name: str
    pure: bool


def sniff(path: Path) -> Encoding:
    """Returns which encoding the bytes of the file obey, read to their end if that is UTF-8.

    Raises:
        DataError: The file is missing, empty or UTF-16.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    wide_chars = 0
    with open_binary(path) as file:
        block = file.read(_BLOCK_BYTES)
        if not block.strip():
            raise DataError(f"{path}: is empty; expected a CSV file with a header line")
        refuse_utf16(path, block)
        while True:
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                sound = error.object[: error.start].decode("utf-8", errors="ignore")
                wide_chars += _num_wide(sound)
                name = UTF8 if wide_chars >= _SURELY_UTF8_CHARS else GB18030
                return Encoding(name, pure=False)
            if not block:
                return Encoding(UTF8, pure=True)
            if wide_chars < _SURELY_UTF8_CHARS:
                wide_chars += _num_wide(text)
            block = file.read(_BLOCK_BYTES)


class Decoder:
    """Decodes the records of one file; those in the other encoding are counted in `notes`."""

    def __init__(self, encoding: Encoding, notes: Counter[str]) -> None:
        self._is_utf8, self._is_pure = encoding.name == UTF8, encoding.pure
        self._notes = notes

    def text(self, raw: bytes) -> str | None:
        """Returns the text of one record, or None if there is none to be sure of."""
        if self._is_utf8:
            return None if b"\x00" in raw else self._from_utf8(raw)
        if _UTF8_START.match(raw):
            text = _strict(raw, "utf-8")
            if text is not None and _UTF8_HAN.search(raw) and b"\x00" not in raw:
                self._notes["decoded_as_utf8"] += 1
                return text
        return _from_gb(raw)

    def reason(self, raw: bytes) -> str:
        """Returns why `raw`, which `text` refused, has no text."""
        if b"\x00" in raw:
            return "nul_byte"
        gb = _strict(raw, GB18030)
        if gb is None or _UNASSIGNED.search(gb) or (self._is_utf8 and not _could_be_both(raw)):
            return "undecodable_bytes"
        return "mixed_encoding"

    def excerpt(self, raw: bytes) -> str:
        """Returns `raw` readable, for a person who looks at rejects."""
        name = "utf-8" if self._is_utf8 else GB18030
        return raw[:800].decode(name, errors="replace")

    def _from_utf8(self, raw: bytes) -> str | None:
        text = _strict(raw, "utf-8")
        if self._is_pure:
            return None if text is None or "\ufffd" in text else text
        if text is not None:
            return None if "\ufffd" in text or _could_be_both(raw) else text
        text = _from_gb(raw) if _surely_gb(raw) else None
        if text is None:
            return None
        self._notes["decoded_as_gb18030"] += 1
        return text


def _num_wide(text: str) -> int:
    return 0 if text.isascii() else len(text) - len(text.encode("ascii", errors="ignore"))


def _strict(raw: bytes, name: str) -> str | None:
    try:
        return raw.decode(name)
    except UnicodeDecodeError:
        return None


def _could_be_both(raw: bytes) -> bool:
    """Whether bytes that UTF-8 allows, without one Chinese character in them, are GB18030 too."""
    if raw.isascii() or _UTF8_HAN.search(raw):
        return False
    return _strict(raw, "utf-8") is not None and _strict(raw, GB18030) is not None


def _utf8_share(raw: bytes) -> tuple[int, int]:
    """Returns how many Chinese characters of UTF-8 `raw` holds, and how many broken places."""
    text = raw.decode("utf-8", errors="replace")
    return len(_UTF8_HAN.findall(text.encode())) - text.count("\ufffd"), text.count("\ufffd")


def _from_gb(raw: bytes) -> str | None:
    """Returns the text of bytes of GB18030 in which nothing looks like UTF-8."""
    text = _strict(raw, GB18030)
    # What is not printable may just be a line break; the quick question comes first.
    if text is None or not (text.isprintable() or not _UNASSIGNED.search(text)):
        return None
    if unusual := raw.translate(_SAME, _USUAL):
        return None if b"\x00" in unusual or "\ufffd" in text or _has_utf8(raw) else text
    return text


def _has_utf8(raw: bytes) -> bool:
    """Whether `raw`, which GB18030 can read, is in part or, but for damage, as a whole UTF-8.

    Of 126,000 texts in GB18030 none held two usual Chinese characters of UTF-8 in a row. One that
    stands alone cannot be told, nor can a few that have none of the bytes that GB2312 lacks.
    """
    sound, broken = _utf8_share(raw)
    if sound * 2 > broken:
        return True
    return any(_are_usual(run[0].decode("utf-8", "replace")) for run in _UTF8_RUN.finditer(raw))


def _are_usual(text: str) -> bool:
    """Whether all characters are among the 3,755 usual ones of GB2312, or its marks."""
    try:
        leads = text.encode("gb2312")[::2]
    except UnicodeEncodeError:
        return False
    return all(0xB0 <= lead <= 0xD7 or 0xA1 <= lead <= 0xA3 for lead in leads)


def _surely_gb(raw: bytes) -> bool:
    """Whether `raw` in a file of UTF-8 is GB18030, rather than UTF-8 with a damaged byte."""
    sound, broken = _utf8_share(raw)
    return broken > 4 and sound * 8 < broken
