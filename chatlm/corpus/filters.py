"""Reasons to drop an example, each a small function with a name.

In: an `Example` (normalised). Out: None to keep it, or the reason as a string; and `finish`, which
shortens an answer to whole sentences. Thresholds are arguments: the policy lives in the recipe.
"""

import re
from collections.abc import Callable
from typing import TypeAlias

from chatlm.corpus.example import Example
from chatlm.corpus.normalize import HAN

Filter: TypeAlias = Callable[[Example], str | None]

TRIGGERS: tuple[str, ...] = ("译", "ranslat", "TRANSLAT")
"""A prompt without one of these strings is no `translation_task`."""
TABLE_SIGNS = "|+\t"
"""A text without one of these signs is no `table`."""

CLOSERS = "”’」』）)】》〉\"'"
_SENTENCE_END = re.compile(
    f"(?:[。！？…]|[!?](?=[\\s{HAN}{CLOSERS}]|\\Z)|(?<![0-9])\\.(?=[\\s{CLOSERS}]|\\Z))[{CLOSERS}]*"
)
ENDED = re.compile(
    f"[。！？!?….；;~～^{CLOSERS}`*}}\\]>|\U0001f300-\U0001faff\u2600-\u27bf\ufe0f]\\Z"
)
DANGLING = re.compile("[，、：,（(【《「『“‘]\\Z")
# A line that is a unit of its own: an item of a list, or a Chinese line that is not indented code.
_ITEM = " {0,3}(?:[-*•·]|\\d+[.)、）])"
_WHOLE_LINE = re.compile(
    f"(?:{_ITEM}|(?! {{4}}|\t).*[{HAN}]).*[^\\s，、：；,:;{{(（\\[=+\\\\]\\s*\\Z"
)
_CODE_LINE = re.compile(
    r"^[ \t]*(?:def|class|import|from|return|print|for|while|if|else|public|static|function|var|"
    r"let|const|select|#include|</?\w+)\b|^.*[;{}]$",
    re.MULTILINE | re.IGNORECASE,
)
_MIN_CODE_LINES = 3
_PAIRS = ("“”", "‘’", "「」", "『』", "（）", "()", "《》")
# Lines of a form to fill in: the last line ends in a colon, and so does one of the two before it.
_EMPTY_FORM = re.compile("[：:][^\\n]*\\n(?:[^\\n]*\\n)?[^\\n]*[：:]\\Z")
_HAN = re.compile(f"[{HAN}]")
_LETTER = re.compile(r"[^\W\d_]")

_TRANSLATION = re.compile(
    r"(?<!被)翻译(?:成|为|到|以下|下面|下列|这|一下|该|出(?!版)|[:：])|译(?:成|为)(?:中|英|法|德|日|韩|俄|西|阿|繁)"
    r"|[把将][^。！？\n]{0,80}翻译|请(?:您|你)?(?:帮我|帮忙)?翻译|(?:中译英|英译中|英译汉|汉译英)"
    r"|\b(?:[Tt]ranslat|TRANSLAT)(?i:e|ion of)\b[^.\n]{0,200}\b(?i:to|into)\b"
    r"|^\s*(?:[Tt]ranslate|TRANSLATE)\b"
)
_TABLE_RULE = re.compile(r"^(?=[|+:\- \t]*---)[|+:\- \t]*[|+][|+:\- \t]*$", re.MULTILINE)
_TABLE_ROW = re.compile(r"^[^|\n]*\|[^|\n]*\|.*$", re.MULTILINE)
_TAB_ROW = re.compile(r"^[^\t\n]+\t[^\t\n]+\t.*$", re.MULTILINE)
_MIN_TABLE_ROWS = 3


def min_chars(prompt: int, response: int) -> Filter:
    """Drops prompts and responses that are shorter; an empty one has a reason of its own."""

    def judge(example: Example) -> str | None:
        if not example.prompt:
            return "empty_prompt"
        if not example.response:
            return "empty_response"
        if len(example.prompt) < prompt:
            return "too_short_prompt"
        return "too_short_response" if len(example.response) < response else None

    return judge


def max_chars(prompt: int, response: int) -> Filter:
    """Drops what is longer. A prompt is never cut: half a question is another question."""

    def judge(example: Example) -> str | None:
        if len(example.prompt) > prompt:
            return "too_long_prompt"
        return "too_long_response" if len(example.response) > response else None

    return judge


def identical(example: Example) -> str | None:
    """Drops answers that only repeat the question."""
    return "identical" if example.prompt == example.response else None


def min_han_share(share: float) -> Filter:
    """Drops examples of a Chinese corpus of which neither side is Chinese.

    A side is Chinese if at least `share` of its letters are Chinese characters; digits, marks and
    spaces do not count. A Chinese request for code stays, whatever the code is.
    """

    def is_chinese(text: str) -> bool:
        han = len(_HAN.findall(text))
        return han >= share * len(text) or han >= share * len(_LETTER.findall(text))

    def judge(example: Example) -> str | None:
        return None if is_chinese(example.prompt) or is_chinese(example.response) else "not_chinese"

    return judge


def translation_task(example: Example) -> str | None:
    """Drops requests to translate a text; questions about translating as a subject stay."""
    prompt = example.prompt
    if "译" in prompt or "ranslat" in prompt or "TRANSLAT" in prompt:
        return "translation_task" if _TRANSLATION.search(prompt) else None
    return None


def table(example: Example) -> str | None:
    """Drops texts that hold a drawn table; prose that mentions a table or `-----` stays."""
    for text in (example.response, example.prompt):
        if "|" in text or "+" in text:
            if _TABLE_RULE.search(text) or len(_TABLE_ROW.findall(text)) >= _MIN_TABLE_ROWS:
                return "table"
        elif "\t" in text and len(_TAB_ROW.findall(text)) >= _MIN_TABLE_ROWS:
            return "table"
    return None


def min_votes(votes: int | None, threshold: int) -> str | None:
    """Returns `low_votes` for an answer whose votes are known and too few."""
    return "low_votes" if votes is not None and votes < threshold else None


def finish(text: str, max_chars: int, min_unended_chars: int | None = None) -> str | None:
    """Returns `text` as whole sentences of at most `max_chars`, or None if too little would stay.

    A text that is too long, or that ends in a mark after which something must follow, is cut at its
    last sentence end. With `min_unended_chars`, so is a longer text whose last paragraph has
    sentence ends but does not finish with one, which is how cut-off scrapes look. At least half of
    the (allowed) text must stay. The model must never be taught to stop in mid-sentence.
    """
    if len(text) <= max_chars and not _breaks_off(text, min_unended_chars):
        return text
    if len(text) > max_chars and len(_CODE_LINE.findall(text)) >= _MIN_CODE_LINES:
        return None  # Half a program is no program.
    allowed = text[:max_chars]
    end = last_sentence_end(allowed, cut=len(text) > max_chars)
    return allowed[:end].rstrip() if end * 2 >= len(allowed) else None


def last_sentence_end(text: str, *, cut: bool) -> int:
    """Returns where the last whole sentence of `text` ends, 0 if none does.

    The end of a list line or of a Chinese line is an end too, if more lines follow; the end of a
    line of code is not. Of the ends in the second half of the text, the last that leaves no quote
    or bracket open is preferred. `cut` says that `text` goes on beyond its last character.
    """
    ends = [
        match.end()
        for match in _SENTENCE_END.finditer(text)
        # At the very edge of a cut "3." may go on as "3.14".
        if not (cut and match.end() == len(text) and match[0][0] == ".")
    ]
    newline = text.rfind("\n")
    if newline > max(ends, default=0):
        last_line = text[text.rfind("\n", 0, newline) + 1 : newline]
        if _WHOLE_LINE.match(last_line):
            ends.append(newline)
    for end in reversed(ends):
        if end * 2 < len(text):
            break
        if _is_balanced(text[:end]):
            return end
    return max(ends, default=0)


def _is_balanced(text: str) -> bool:
    return all(text.count(opener) <= text.count(closer) for opener, closer in _PAIRS)


def _breaks_off(text: str, min_unended_chars: int | None) -> bool:
    if not text:
        return False
    last = len(text) - 1
    if DANGLING.match(text, last) and not _EMPTY_FORM.search(text):
        return True
    if min_unended_chars is None or len(text) < min_unended_chars or ENDED.match(text, last):
        return False
    last_line = text[text.rfind("\n") + 1 :]
    return _SENTENCE_END.search(last_line) is not None
