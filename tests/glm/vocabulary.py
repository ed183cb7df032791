"""Vocabularies of the form of ChatGLM-6B: the published layout, and one that is trained."""

import io
import struct
from functools import cache

import sentencepiece

from chatlm.glm.pieces import BLANKS, CONTROLS

SPECIALS = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
# Golden ids of the published vocabulary, and the pieces that give them.
GOLDEN = {
    5: "▁",
    61: "#",
    89: "('",
    398: "▁world",
    594: "▁main",
    1616: "▁def",
    2274: "print",
    7283: "hello",
    25672: "▁greeting",
    74874: "你好",
    125686: "')",
    125936: "():",
}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
CORPUS = [
    "今天天气很好，我们一起去公园散步吧。",
    "The quick brown fox jumps over the lazy dog.",
    "def main():\n    print('hello world')\t# greeting",
    "问：三原色是什么？\n答：红、绿、蓝。",
    "保持健康的三个提示：1. 吃好；2. 睡好；3. 多走路！",
]


@cache
def published_layout() -> bytes:
    """Returns a model with all 130,344 pieces in the published places, most of them fillers."""
    pieces = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), ("<pad>", CONTROL)]
    pieces.append(("<n>", USER_DEFINED))
    letters = iter("".join(CORPUS) + "Round[]gMASKsopeB<>|bl0123456789")
    seen = set(GOLDEN.values())
    for index in range(len(pieces), 130_000):
        letter = next((sign for sign in letters if sign.strip() and sign not in seen), None)
        if index in GOLDEN:
            pieces.append((GOLDEN[index], NORMAL))
        elif letter:
            seen.add(letter)
            pieces.append((letter, NORMAL))
        else:
            pieces.append((f"\ue000{index}", NORMAL))
    pieces += [(name, USER_DEFINED) for name in SPECIALS]
    pieces += [("<|tab|>", USER_DEFINED), *((name, USER_DEFINED) for name in BLANKS.values())]
    pieces += [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    assert len(pieces) == 130_344
    return model_file(pieces)


@cache
def trained(rule: str = "identity") -> bytes:
    """Returns a small model that the SentencePiece trainer made."""
    model = io.BytesIO()
    own = [name for name in CONTROLS if name not in ("<s>", "</s>", "<pad>")]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in CORPUS * 4 for line in text.split("\n")]),
        model_writer=model,
        vocab_size=600,
        hard_vocab_limit=False,
        model_type="unigram",
        byte_fallback=True,
        pad_id=3,
        user_defined_symbols=["<n>", "<|tab|>", *BLANKS.values(), *own],
        normalization_rule_name=rule,
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return model.getvalue()


def model_file(pieces: list[tuple[str, int]]) -> bytes:
    """Returns a SentencePiece model; longer pieces have the better scores."""
    body = b"".join(
        _field(
            1,
            _field(1, name.encode())
            + b"\x15"
            + struct.pack("<f", -9.0 / len(name) if kind == NORMAL else 0.0)
            + _int(3, kind),
        )
        for name, kind in pieces
    )
    trainer = _int(3, 1) + _int(4, len(pieces)) + _int(35, 1) + _int(43, 3)
    normalizer = _field(1, b"identity") + _int(3, 1) + _int(4, 0) + _int(5, 1)
    return body + _field(2, trainer) + _field(3, normalizer)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _int(tag: int, value: int) -> bytes:
    return _varint(tag << 3) + _varint(value)


def _field(tag: int, payload: bytes) -> bytes:
    return _varint(tag << 3 | 2) + _varint(len(payload)) + payload
