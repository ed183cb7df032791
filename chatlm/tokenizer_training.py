"""Training of the vocabulary: texts in, scored pieces out.

In: any iterable of texts. Out: `Piece`s in id order: pad 0, eos 1, unk 2, newline 3, tab 4, the 256
bytes, then what the corpus taught and printable ASCII. Memory is bounded by `max_chars`, not by the
corpus. It does not know files; `chatlm.tokenizer` writes them and encodes with them.
"""

import heapq
import io
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

import sentencepiece

from chatlm import log
from chatlm.errors import ConfigError, DataError

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
SPACE = "▁"  # SentencePiece's stand-in for a space while it trains
SCORE_UNIT = 2.0**-10
# Always pieces, whatever the corpus holds: a space, of which cleaned Chinese has few, and what the
# names of controls and bytes are spelt with. In Hugging Face's library "<pad>" and "<0x41>" in a
# text would else beat a row of unknown characters and become a control or a byte.
REQUIRED_CHARS = SPACE + "".join(map(chr, range(0x21, 0x7F)))
FIXED_PIECES = 3 + 2 + 256 + len(REQUIRED_CHARS)  # controls, newline and tab, bytes, characters
# A sum over threads depends on their number in its last bits, and so, rarely, do the pieces. It is
# therefore a constant of the recipe and not a property of the machine.
NUM_THREADS = 8
CHUNK_CHARS = 4096
CLAUSE = re.compile(r"[^\n\t，。！？；：、,.!?;:]*[，。！？；：、,.!?;:]*")


class Kind(IntEnum):
    """What a piece is, numbered as in a SentencePiece model file."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    BYTE = 6


class Piece(NamedTuple):
    """One entry of the vocabulary; its position is its id."""

    text: str
    score: float  # log probability, a multiple of SCORE_UNIT; 0 where kind is not NORMAL
    kind: Kind


def sample_texts(texts: Iterable[str], max_chars: int, seed: int) -> list[str]:
    """Returns a uniform sample of the texts that holds at most `max_chars` characters.

    Long texts are cut into chunks of `CHUNK_CHARS` first, so that none can fill the sample alone.
    The result is a pure function of the texts, their order and the seed.
    """
    rng = random.Random(seed)
    kept: list[tuple[float, int, str]] = []
    total = 0
    for index, chunk in enumerate(_chunks(texts)):
        heapq.heappush(kept, (-rng.random(), index, chunk))
        total += len(chunk)
        while total > max_chars:
            total -= len(heapq.heappop(kept)[2])
    return [chunk for _, _, chunk in sorted(kept, key=lambda entry: entry[1])]


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for start in range(0, len(text), CHUNK_CHARS):
            yield text[start : start + CHUNK_CHARS]


def count_clauses(texts: Iterable[str]) -> Counter[str]:
    """Counts the clauses of the texts, each with its closing punctuation.

    A piece never joins punctuation to letters, so cutting here loses nothing, and what is said
    often is looked at once in every round of the training.

    Raises:
        DataError: a text holds a lone surrogate, which no UTF-8 file can hold.
    """
    clauses: Counter[str] = Counter()
    for text in texts:
        require_utf8(text)
        clauses.update(CLAUSE.findall(text))
    # The stand-in for a space must not be learnt from texts that really contain that character.
    return Counter({text: n for text, n in clauses.items() if text and SPACE not in text})


def require_utf8(text: str) -> None:
    """Refuses a text that UTF-8 cannot encode.

    Raises:
        DataError: with the position of the first lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise DataError(
            f"character {error.start} of a text is the lone surrogate U+{code:04X}, which UTF-8 "
            "cannot encode: remove it, or decode the input with errors='replace'"
        ) from error


def train_pieces(
    texts: Iterable[str], vocab_size: int, *, max_chars: int, seed: int, num_threads: int
) -> list[Piece]:
    """Trains a SentencePiece unigram vocabulary with byte fallback.

    Raises:
        ConfigError: `vocab_size` cannot hold the fixed pieces and the characters of the corpus.
        DataError: the texts are empty.

    Source: Kudo 2018, Subword Regularization, https://arxiv.org/abs/1804.10959, section 3.2.
    """
    if vocab_size <= FIXED_PIECES:
        raise ConfigError(
            f"vocab_size={vocab_size} is too small: controls, bytes, ASCII take {FIXED_PIECES} ids"
        )
    clauses = count_clauses(sample_texts(texts, max_chars, seed))
    if not clauses:
        raise DataError("there is no text to train a tokenizer on: every text is empty")
    chars = sum(len(text) * count for text, count in clauses.items())
    processor = _run_sentencepiece(_lines(clauses), vocab_size, num_threads)
    pieces = [_piece(processor, index) for index in range(processor.get_piece_size())]
    if len(pieces) < vocab_size:
        log.warning(
            f"the vocabulary has {len(pieces)} pieces, not {vocab_size}: "
            f"a corpus of {chars:,} characters does not hold more"
        )
    return pieces


def _lines(clauses: Counter[str]) -> Iterator[str]:
    """Yields the trainer's input and empties `clauses`, which would double its memory.

    Sorted, so that the order of the corpus leaves no trace in the floating-point sums.
    """
    rows = sorted(clauses.items(), reverse=True)
    clauses.clear()
    while rows:
        text, count = rows.pop()
        yield f"{text}\t{count}"


def _run_sentencepiece(
    lines: Iterator[str], vocab_size: int, num_threads: int
) -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            input_format="tsv",
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=0.9995,
            required_chars=REQUIRED_CHARS,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            user_defined_symbols=["\n", "\t"],
            max_sentence_length=1 << 20,  # bytes; longer lines would be dropped without a word
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            num_threads=num_threads,
            minloglevel=2,
        )
    except RuntimeError as error:
        sizes = re.search(r"smaller than required_chars\. (\d+) vs (\d+)", str(error))
        if sizes is None:
            raise
        raise ConfigError(
            f"vocab_size={vocab_size} is too small: the characters of this corpus need {sizes[2]}"
        ) from error
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def _piece(processor: sentencepiece.SentencePieceProcessor, index: int) -> Piece:
    """Returns one trained piece, in the form that encodes alike everywhere.

    Scores are rounded because SentencePiece adds them in float32 and Hugging Face in float64: sums
    of multiples of 2^-10 are exact in both, so ties are broken alike. Newline and tab become plain
    pieces, since a user-defined one gets a bonus that is no such multiple; nothing else contains
    them, so they still stand alone. A space is written as a space, which leaves '▁' free to mean
    itself.
    """
    text = processor.id_to_piece(index)
    if processor.is_control(index):
        return Piece(text, 0.0, Kind.CONTROL)
    if processor.is_unknown(index):
        return Piece(text, 0.0, Kind.UNKNOWN)
    if processor.is_byte(index):
        return Piece(text, 0.0, Kind.BYTE)
    if text in ("\n", "\t"):
        return Piece(text, 0.0, Kind.NORMAL)
    score = round(processor.get_score(index) / SCORE_UNIT) * SCORE_UNIT
    return Piece(text.replace(SPACE, " "), score, Kind.NORMAL)
