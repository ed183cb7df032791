"""ChatGLM-6B's vocabulary: text <-> ids, without loss wherever its normaliser keeps the text.

In: the bytes of `ice_text.model`. Out: ids of texts, texts of ids; both without special tokens at
the ends. Ids are those of the file: who numbers them otherwise shifts them. Imports neither torch
nor transformers.

Line breaks, tabs and runs of spaces have pieces of their own: `<n>`, `<|tab|>`, `<|blank_2|>` to
`<|blank_80|>`. Inside, these pieces get names that no text has, and special pieces such as
`[gMASK]` match nothing: whatever looks like one of them in a text is text.

Differs from the published tokenizer in texts that hold "<n>", "[gMASK]" and the like, or the sign
U+2581, which it takes for a space: here these come back as they were.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import cached_property

import sentencepiece

from chatlm.errors import CheckpointError
from chatlm.tokenizer_training import require_utf8

MODEL_FILE = "ice_text.model"
SPACE = "\u2581"
UNKNOWN = "<unk>"
CONTROLS = (
    *("<s>", "</s>", "<pad>", "[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>"),
    *("<ENC>", "<dBLOCK>"),
)
LONGEST_BLANK = 80
BLANKS = {k: f"<|blank_{k}|>" for k in range(2, LONGEST_BLANK + 1)}
REQUIRED = (UNKNOWN, "<pad>", "<n>", "<|tab|>", "[MASK]", "[gMASK]", "<sop>", "<eop>")

# What the pieces are called inside: signs of the last private plane, by the text they stand for.
_FIRST_ALIAS = 0x10F000
_ALIASES = {
    "<n>": ("\n", chr(_FIRST_ALIAS)),
    "<|tab|>": ("\t", chr(_FIRST_ALIAS + 1)),
    **{name: (" " * k, chr(_FIRST_ALIAS + k)) for k, name in BLANKS.items()},
}
_MARKS = str.maketrans(dict(list(_ALIASES.values())[:2]))
_RUN = re.compile(f" {{2,{LONGEST_BLANK}}}")
# Signs that mean something inside; in a text they are spelt in bytes.
_TAKEN = re.compile(f"([{SPACE}{chr(_FIRST_ALIAS)}-{chr(_FIRST_ALIAS + LONGEST_BLANK)}])")
_USER_DEFINED, _CONTROL = 4, 3
# Field 3 once more, and in it add_dummy_prefix=false: what comes later in such a file counts.
_WITHOUT_PREFIX = b"\x1a\x02\x18\x00"
_BYTE_NAME = re.compile(r"<0x([0-9A-F]{2})>")


class IceText:
    """Text <-> ids.

    Attributes:
        names: The published name of each piece, in the order of ids.
        fingerprint: SHA-256 of the file, in hex.
    """

    def __init__(self, model: bytes) -> None:
        """Reads a model.

        Raises:
            CheckpointError: It is no SentencePiece model, or not ChatGLM-6B's.
        """
        self.fingerprint = hashlib.sha256(model).hexdigest()
        try:
            inside = _renamed(model)
            self._first = sentencepiece.SentencePieceProcessor(model_proto=inside)
        except (IndexError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{MODEL_FILE}: damaged, or no SentencePiece model; copy it anew"
            ) from error
        self._inside = inside
        published = {alias: name for name, (_, alias) in _ALIASES.items()}
        pieces = map(self._first.id_to_piece, range(self._first.get_piece_size()))
        self.names = [published.get(piece, piece) for piece in pieces]
        self.ids = {name: index for index, name in enumerate(self.names)}
        wanted = (*REQUIRED, *BLANKS.values(), *(f"<0x{byte:02X}>" for byte in range(256)))
        if missing := [name for name in wanted if name not in self.ids]:
            raise CheckpointError(
                f"{MODEL_FILE}: has no piece {missing[0]}; it is not the vocabulary of ChatGLM-6B"
            )
        self._controls = {self.ids[name] for name in (UNKNOWN, *CONTROLS) if name in self.ids}

    @cached_property
    def _later(self) -> sentencepiece.SentencePieceProcessor:
        """The same for what is not the beginning of a text: no space is put in front of it."""
        model = self._inside + _WITHOUT_PREFIX
        return sentencepiece.SentencePieceProcessor(model_proto=model)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text.

        Raises:
            DataError: A text holds a lone surrogate, which UTF-8 cannot encode.
        """
        texts = list(texts)
        try:
            rows: list[list[int]] = self._first.encode([_marked(text) for text in texts])
        except (RuntimeError, TypeError):
            for text in texts:
                require_utf8(text)
            raise
        for index, text in enumerate(texts):
            if _TAKEN.search(text):
                rows[index] = self._in_parts(text)
        return rows

    def decode(self, ids: Iterable[int], *, with_controls: bool = False) -> str:
        """Returns the text of the ids; bytes that are not UTF-8 become U+FFFD.

        Args:
            ids: Those that are no pieces add nothing.
            with_controls: Whether special pieces are written by their names, or left out.
        """
        parts: list[bytes] = []
        is_start = True
        for index in ids:
            if not 0 <= index < len(self.names):
                continue
            if index in self._controls:
                parts += [self.names[index].encode()] if with_controls else []
                continue
            name = self.names[index]
            # The first piece got a space in front when it was encoded.
            parts.append(_bytes_of(name[1:] if is_start and name[:1] == SPACE else name))
            is_start = False
        return b"".join(parts).decode("utf-8", "replace")

    def _in_parts(self, text: str) -> list[int]:
        """Encodes a text with signs that mean something inside: these go as bytes."""
        first, *rest = _TAKEN.split(text)
        ids: list[int] = self._first.encode(_marked(first)) if first else []
        for sign, part in zip(rest[::2], rest[1::2], strict=True):
            ids += [self.ids[f"<0x{byte:02X}>"] for byte in sign.encode()]
            ids += self._later.encode(_marked(part))
        return ids


def _marked(text: str) -> str:
    """Returns the text with its white space as the pieces are called inside."""
    text = text.translate(_MARKS) if "\n" in text or "\t" in text else text
    return _RUN.sub(lambda run: chr(_FIRST_ALIAS + len(run[0])), text) if "  " in text else text


def _bytes_of(name: str) -> bytes:
    if name[:1] == "<":
        if name in _ALIASES:
            return _ALIASES[name][0].encode()
        if byte := _BYTE_NAME.fullmatch(name):
            return bytes([int(byte[1], 16)])
    return name.replace(SPACE, " ").encode()


def _renamed(model: bytes) -> bytes:
    """Returns the model with pieces that match only what they shall.

    Source: sentencepiece_model.proto: field 1 is a piece, with 1 its text, 2 its score, 3 its kind.

    Raises:
        IndexError, ValueError: It is no such file.
    """
    new = {name.encode(): _piece(name, _CONTROL) for name in CONTROLS}
    new |= {name.encode(): _piece(alias, _USER_DEFINED) for name, (_, alias) in _ALIASES.items()}
    parts, place, copied = [], 0, 0
    while place < len(model) and model[place] == 0x0A:
        length, start = model[place + 1], place + 2
        if length >= 0x80:
            length, start = _varint(model, place + 1)
        end = start + length
        if end > len(model) or model[start] != 0x0A:
            raise ValueError("a piece has no text")
        if model[start + 2] in b"<[":  # all names that matter begin so, and are short
            name = model[start + 2 : start + 2 + model[start + 1]]
            if name in new:
                parts += [model[copied:place], new[name]]
                copied = end
        place = end
    return b"".join([*parts, model[copied:]])


def _piece(text: str, kind: int) -> bytes:
    """Returns a piece with a score of 0 as it stands in a model's file."""
    name = text.encode()
    body = b"\x0a" + bytes([len(name)]) + name + b"\x15" + bytes(4) + b"\x18" + bytes([kind])
    return b"\x0a" + bytes([len(body)]) + body


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Returns the number at a place, and where it ends.

    Raises:
        IndexError, ValueError: There is none.
    """
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
        if shift > 63:
            raise ValueError("a number does not end")
