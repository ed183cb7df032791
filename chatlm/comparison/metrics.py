r"""How near an answer is to its references, and whether it goes round in circles.

In: texts. Out: figures. It knows no model. Shapes and units: scores are 0 to 100, rates 0 to 1.

chrF and BLEU-4 are sacrebleu's. chrF is its default, chrF2 of characters up to six. BLEU cuts a
row's texts as sacrebleu does for the language of the references: `zh` where they hold a Han
character, `13a` elsewhere; one corpus score counts the n-grams of all rows together. ROUGE-L is the
F1 of the longest common subsequence of words, lower case, without punctuation, where each Han
character is a word. With several references chrF and BLEU are sacrebleu's for several, and ROUGE-L
is that of the nearest one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HAN = re.compile(f"[{HAN}]")
_PIECE = re.compile(rf"[{HAN}]|[^\W{HAN}]+|[^\w\s]")
_WORD = re.compile(rf"[{HAN}]|[^\W{HAN}]+")
NGRAM = 4
REPETITIVE_SHARE = 0.3
"""Of an answer's 4-grams that stood there before. 0.5 % of the answers in the Chinese and the
English Alpaca files have more, and they are lists and refrains."""
LOOP_TIMES, LOOP_PIECES = 4, 16
"""An answer that ends with the same words so many times, and so many pieces long, is in a loop. No
answer of the Alpaca files is."""

_ZH, _13A = TokenizerZh(), Tokenizer13a()


@dataclass(frozen=True)
class Nearness:
    """How near answers are to their references, 0 to 100."""

    chrf: float
    bleu4: float
    rouge_l: float


def is_chinese(text: str) -> bool:
    """Tells whether a text holds a Han character."""
    return bool(_HAN.search(text))


def corpus_nearness(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Nearness:
    """Returns the figures of all rows together; ROUGE-L is the mean of the rows.

    Args:
        answers: one a row, at least one.
        references: one or more a row.
    """
    streams = _streams(references)
    tokens = [_bleu_tokens(*row) for row in zip(answers, references, strict=True)]
    cut_streams = _streams([row for _, row in tokens])
    bleu = BLEU(tokenize="none", force=True)
    rouge = [rouge_l(*row) for row in zip(answers, references, strict=True)]
    return Nearness(
        CHRF().corpus_score(list(answers), streams).score,
        bleu.corpus_score([answer for answer, _ in tokens], cut_streams).score,
        sum(rouge) / len(rouge),
    )


def nearness(answer: str, references: Sequence[str]) -> Nearness:
    """Returns the figures of one row; BLEU counts the orders that a short answer can have."""
    cut, cut_references = _bleu_tokens(answer, references)
    bleu = BLEU(tokenize="none", force=True, effective_order=True)
    return Nearness(
        chrf(answer, references),
        bleu.sentence_score(cut, cut_references).score,
        rouge_l(answer, references),
    )


def chrf(answer: str, references: Sequence[str]) -> float:
    """Returns the chrF of one text."""
    return CHRF().sentence_score(answer, list(references)).score


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """Returns the F1 of the longest common subsequence with the nearest reference.

    Source: Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, section 3.
    """
    ours = _WORD.findall(answer.lower())
    best = 0.0
    for reference in references:
        theirs = _WORD.findall(reference.lower())
        if ours and theirs:
            best = max(best, 2 * common_length(ours, theirs) / (len(ours) + len(theirs)))
    return 100 * best


def common_length(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Returns the length of the longest common subsequence.

    One integer holds a row of the usual table, a bit for each place where it does not grow.

    Source: Hyyrö 2004, Bit-parallel LCS-length computation revisited.
    """
    places: dict[str, int] = {}
    for place, word in enumerate(ours):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(ours)) - 1
    row = every
    for word in theirs:
        hits = row & places.get(word, 0)
        row = (row + hits | row - hits) & every
    return len(ours) - row.bit_count()


def pieces(text: str) -> list[str]:
    """Returns Han characters, words and marks one by one, in lower case."""
    return _PIECE.findall(text.lower())


def repeated_share(text: str) -> float:
    """Returns which share of the 4-grams of pieces stood in the text before."""
    parts = pieces(text)
    grams = list(zip(*(parts[start:] for start in range(NGRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def is_repetitive(text: str) -> bool:
    """Tells whether a text ends in a loop, or repeats more than `REPETITIVE_SHARE` of itself."""
    return ends_in_loop(text) or repeated_share(text) > REPETITIVE_SHARE


def ends_in_loop(text: str) -> bool:
    """Tells whether a text ends with the same pieces again and again; the last may be cut."""
    parts = pieces(text)
    return any(
        _periodic_end(parts, period) >= max(LOOP_TIMES * period, LOOP_PIECES)
        for period in range(1, len(parts) // LOOP_TIMES + 1)
    )


def _periodic_end(parts: Sequence[str], period: int) -> int:
    """Returns how many of the last pieces are those of one period before them."""
    place = len(parts) - 1
    while place >= period and parts[place] == parts[place - period]:
        place -= 1
    return len(parts) - 1 - place + period


def _bleu_tokens(answer: str, references: Sequence[str]) -> tuple[str, list[str]]:
    cut = _ZH if any(map(is_chinese, references)) else _13A
    return cut(answer.rstrip()), [cut(reference.rstrip()) for reference in references]


def _streams(references: Sequence[Sequence[str]]) -> list[list[str]]:
    """Returns first references, second ones, and so on, as sacrebleu wants them.

    Where a row has fewer than others its last one stands again, which changes no figure.
    """
    most = max(map(len, references))
    return [[row[min(i, len(row) - 1)] for row in references] for i in range(most)]
