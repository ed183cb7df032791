"""The two engines behind a tokenizer: SentencePiece for our own, `tokenizers` for any other.

In: a vocabulary in the engine's form. Out: ids, texts, streaming decoders. Both treat text that
looks like a special token as text and add nothing at the ends. They do not know files.
"""

import codecs
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import sentencepiece
import tokenizers

from chatlm.tokenizer_training import SCORE_UNIT, Kind, Piece

# SentencePiece charges this much more than the worst piece for a character that it does not know.
UNKNOWN_PENALTY = 10.0
FLOAT32_MANTISSA = 2**24

FlatIds: TypeAlias = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]
"""The ids of several texts in one array, and how many of them each text has."""

UNFINISHED = "\ufffd"
MOST_UNFINISHED = 8
"""A character has four bytes; where more than so many are no text, nothing will make them one."""


class StreamDecoder(Protocol):
    """Turns ids into text one by one, whole characters only.

    The concatenation of all that `push` and the final `flush` return is `decode` of all ids.
    """

    def push(self, token_id: int) -> str:
        """Returns the text that became complete with this id; often none for a byte."""
        ...

    def flush(self) -> str:
        """Returns what is left; an unfinished character becomes U+FFFD."""
        ...


class Engine(Protocol):
    """What a tokenizer needs of an engine."""

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        ...

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Returns the ids of every text.

        Raises:
            RuntimeError, TypeError: a text is no string that UTF-8 can encode.
        """
        ...

    def encode_flat(self, texts: list[bytes]) -> FlatIds:
        """Returns the ids of texts in valid UTF-8, the same as `encode_batch`, without lists."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of the ids."""
        ...

    def stream(self) -> StreamDecoder:
        """Returns a new streaming decoder."""
        ...


class LibraryEngine:
    """Any tokenizer.json, through the `tokenizers` library."""

    def __init__(self, definition: str) -> None:
        self.backend = tokenizers.Tokenizer.from_str(definition)
        self.backend.encode_special_tokens = True  # "</s>" typed by a user is four characters
        self.backend.no_truncation()
        self.backend.no_padding()

    @property
    def vocab_size(self) -> int:
        """The number of ids, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Returns the ids of every text."""
        rows = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [row.ids for row in rows]

    def encode_flat(self, texts: list[bytes]) -> FlatIds:
        """Returns the ids of texts in UTF-8."""
        rows = self.encode_batch([text.decode() for text in texts])
        return flat([np.array(row, np.int32) for row in rows])

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of the ids, special tokens skipped."""
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def stream(self) -> StreamDecoder:
        """Returns a new streaming decoder."""
        return WindowStream(self.decode)


class SentencePieceEngine:
    """Our own vocabulary: fast, and with the ids that `definition` gives in Hugging Face's library.

    Differs from SentencePiece itself in long texts: its float32 sums are exact only below 2^14 (the
    scores are multiples of 2^-10), so longer texts are cut at newlines and, where that is not
    enough, encoded in float64.
    """

    def __init__(self, model: bytes, definition: str) -> None:
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._definition = definition
        self.pieces = read_pieces(self._processor)
        self._bytes = [_piece_bytes(piece) for piece in self.pieces]
        self._newline = self.pieces.index(Piece("\n", 0.0, Kind.NORMAL))
        self._max_exact_tokens = _max_exact_tokens(self.pieces)

    @cached_property
    def _float64(self) -> LibraryEngine:
        return LibraryEngine(self._definition)

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return len(self.pieces)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Returns the ids of every text."""
        rows: list[list[int]] = self._processor.encode(texts)
        for index, ids in enumerate(rows):
            if len(ids) > self._max_exact_tokens:
                rows[index] = self._encode_long(texts[index])
        return rows

    def encode_flat(self, texts: list[bytes]) -> FlatIds:
        """Returns the ids of texts in UTF-8; the time is spent outside Python's lock."""
        rows = self._processor.encode(texts, return_type="numpy", num_threads=1)
        ids, lengths = flat(rows)
        too_long = np.flatnonzero(lengths > self._max_exact_tokens).tolist()
        if not too_long:
            return ids, lengths
        for index in too_long:
            rows[index] = np.array(self._encode_long(texts[index].decode()), np.int32)
        return flat(rows)

    def _encode_long(self, text: str) -> list[int]:
        """Encodes by lines: no piece but the newline contains one, so lines are independent."""
        lines = text.split("\n")
        rows: list[list[int]] = self._processor.encode(lines)
        ids: list[int] = []
        for line, row in zip(lines, rows, strict=True):
            exact = len(row) <= self._max_exact_tokens
            ids += row if exact else self._float64.encode_batch([line])[0]
            ids.append(self._newline)
        return ids[:-1]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of the ids.

        Control ids, and ids beyond the vocabulary, add nothing; bytes that are not UTF-8 become
        U+FFFD.
        """
        return b"".join(map(self._bytes_of, ids)).decode("utf-8", "replace")

    def _bytes_of(self, token_id: int) -> bytes:
        return self._bytes[token_id] if 0 <= token_id < len(self._bytes) else b""

    def stream(self) -> StreamDecoder:
        """Returns a new streaming decoder."""
        return _ByteStream(self._bytes_of)


def flat(rows: list[npt.NDArray[np.int32]]) -> FlatIds:
    """Returns the rows in one array, and their lengths."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.concatenate([np.zeros(0, np.int32), *rows]), lengths


class _ByteStream:
    """Streaming for vocabularies whose every id stands for fixed bytes."""

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        return self._utf8.decode(self._bytes_of(token_id))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class WindowStream:
    """Streaming for vocabularies whose text depends on neighbours (a leading space, for example).

    Decodes a window that starts one emission earlier, and emits what it has more than was said of
    it, up to where a character is unfinished. Bytes that are no text may come out as another number
    of U+FFFD than `decode` of all ids gives: libraries look at their neighbours.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []
        self._pending: list[int] = []
        self._said = 0  # characters of the window's text that are out

    def push(self, token_id: int) -> str:
        """Returns the text that became complete with this id."""
        self._pending.append(token_id)
        text = self._decode(self._context + self._pending)
        whole = text.rstrip(UNFINISHED)
        if len(text) - len(whole) > MOST_UNFINISHED:
            whole = text
        new = whole[self._said :]
        self._said = max(self._said, len(whole))
        if new and whole == text:
            self._context, self._pending = self._pending, []
            self._said = len(self._decode(self._context))
        return new

    def flush(self) -> str:
        """Returns what is left."""
        new = self._decode(self._context + self._pending)[self._said :]
        self._context, self._pending, self._said = [], [], 0
        return new


def read_pieces(processor: sentencepiece.SentencePieceProcessor) -> list[Piece]:
    """Returns the pieces of a loaded model in id order."""

    def kind(index: int) -> Kind:
        if processor.is_control(index):
            return Kind.CONTROL
        if processor.is_unknown(index):
            return Kind.UNKNOWN
        return Kind.BYTE if processor.is_byte(index) else Kind.NORMAL

    return [
        Piece(processor.id_to_piece(index), processor.get_score(index), kind(index))
        for index in range(processor.get_piece_size())
    ]


def _piece_bytes(piece: Piece) -> bytes:
    if piece.kind is Kind.NORMAL:
        return piece.text.encode()
    return bytes([int(piece.text[1:-1], 16)]) if piece.kind is Kind.BYTE else b""


def _max_exact_tokens(pieces: Sequence[Piece]) -> int:
    """Returns how many tokens a text may have so that all its float32 sums were exact.

    The best sum at any position is at most one piece away from the path that was chosen.
    """
    normal = [piece for piece in pieces if piece.kind is Kind.NORMAL]
    worst = max(-piece.score for piece in normal) + UNKNOWN_PENALTY
    longest = max(len(piece.text) for piece in normal)
    return int(FLOAT32_MANTISSA * SCORE_UNIT / worst) - longest - 1


def model_bytes(pieces: Iterable[Piece]) -> bytes:
    """Returns the pieces as a SentencePiece model file.

    Written here, field by field, because the trainer's own file cannot hold spaces as spaces and
    records paths and thread counts, which would change its hash.

    Source: sentencepiece_model.proto of the SentencePiece project; the numbers are its field tags.
    """
    pieces = list(pieces)
    body = b"".join(
        _field(
            1, _field(1, p.text.encode()) + b"\x15" + struct.pack("<f", p.score) + _int(3, p.kind)
        )
        for p in pieces
    )
    trainer = (
        _int(3, 1)  # model_type: unigram
        + _int(4, len(pieces))
        + _int(35, 1)  # byte_fallback
        + b"".join(
            _int(tag, i) for tag, i in ((40, 2), (41, -1), (42, 1), (43, 0))
        )  # unk bos eos pad
        + _field(45, pieces[2].text.encode())
        + _field(47, pieces[1].text.encode())
        + _field(48, pieces[0].text.encode())
    )
    # No dummy prefix, no removal of whitespace, and a space stays a space.
    normalizer = _field(1, b"identity") + _int(3, 0) + _int(4, 0) + _int(5, 0)
    return body + _field(2, trainer) + _field(3, normalizer)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _int(tag: int, value: int) -> bytes:
    return _varint(tag << 3) + _varint(value)


def _field(tag: int, payload: bytes) -> bytes:
    return _varint(tag << 3 | 2) + _varint(len(payload)) + payload
