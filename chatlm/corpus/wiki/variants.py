"""What only Chinese Wikipedia needs: language variants, placeholders, pages that are no articles.

In: title and text as a WikiExtractor wrote them. Out: a short simplified-Chinese text, or the
reason why the page is no article. It does not parse wikitext.
"""

import html
import re
from collections.abc import Sequence
from functools import cache

import opencc

from chatlm.corpus.normalize import HAN

# `-{{` is a dash before a template, `-{{{` a variant that begins with one.
_MARKUP = re.compile(r"-\{(?!\{(?!\{))((?:[^-}]++|-(?!\{(?!\{(?!\{)))|\}(?!-))*+)\}-")
_MAX_DEPTH = 16
_FLAGS = re.compile(r"\s*+([A-Za-z0-9;\-]*+)\s*+\|")
_VARIANT = re.compile(r"(?:^|;)\s*(zh(?:-[a-z]{2,4})?)\s*:")
# What a reader in mainland China is shown, best first: the wiki's own order of fallbacks.
_PREFERRED = ("zh-cn", "zh-hans", "zh-sg", "zh-my", "zh", "zh-tw", "zh-hant", "zh-hk", "zh-mo")
# These flags declare a rule for the rest of the page or remove one; they show no text themselves.
_SILENT_FLAGS = frozenset("HT-")

ENOUGH_CHARS = 640
"""Of an article; more than any answer keeps (512), since cleaning makes a text shorter."""
_SENTENCE_END = re.compile(r"[。！？\n]")
_PLACEHOLDER = re.compile(r"(?:formula|codice)_\d+")
_SENTENCE_START = re.compile(r"(?:.*[。！？\n])?", re.DOTALL)
# Templates in brackets leave them empty; `main()` in a text about programming is no such case.
_EMPTY_BRACKETS = re.compile(r"（[\s，。；：、,;:·]*）")
_EMPTY_ASCII_BRACKETS = re.compile(f"(?<=[{HAN}])\\([\\s，。；：、,;:·]*\\)")
_BRACKET_START = re.compile(r"（[\s，；：、,;:]+")
_BRACKET_EDGE = " \t\n，；：、,;:"

# 著 stays in words for writing and renown: 著名, 显著, 著作, 原著, 所著.
_PARTICLE = re.compile(
    f"著(?<=[{HAN}]著)(?<![显原巨土编名专拙论译遗合所新卓撰昭较执大代旧共]著)"
    f"(?=[{HAN}])(?![名作称者书述有录译于成与及和])"
)

# Left by links and templates. It begins with what is rare, to be found fast.
_LEFT_SPACE = re.compile(f" (?<=[{HAN}] ) *(?=[{HAN}])")
# XML and HTML have no such character, not even as an entity.
_SEPARATOR = "\x01"

_TITLE_NOTE = re.compile(r" *\((.*)\)$")
_DISAMBIGUATION_TITLE = re.compile(r"[（(]消歧[义義][)）]\s*$")
_DISAMBIGUATION_TEXT = re.compile(
    r"^[^\n。]{0,40}(?:可以|可能|通常)?(?:是)?指(?:的是)?(?:下列|以下)?[^\n。]{0,8}[：:]\s*(?:\n|$)"
)
_LIST_TITLE = re.compile(r"(?:列表|年表|一览|索引)$")
_REDIRECT = re.compile(r"^\s*#\s*(?:redirect|重定向)", re.IGNORECASE)


def resolve_variants(text: str) -> str:
    """Returns `text` with `-{...}-` markup replaced by what mainland readers are shown.

    `-{zh-hans:接;zh-hant:線}-` gives 接, `-{A}-` gives A, rules such as `-{H|...}-` give nothing.
    Nested markup is resolved from the inside.
    """
    for _ in range(_MAX_DEPTH):
        if "-{" not in text:
            break
        resolved = _MARKUP.sub(lambda match: _shown(match[1]), text)
        if resolved == text:
            break
        text = resolved
    return text


def simplified(text: str) -> str:
    """Returns `text` in simplified characters (OpenCC `t2s`, and the particle 著 as 着).

    Articles mix both scripts, so the conversion must leave simplified text alone. `tw2s` does not:
    it makes 显着 of 显著 and 是幺 of 是么; `tw2sp` also makes 进程 of 程序. `t2s` does, and changes
    characters, not words; but it keeps 著 where traditional text writes the particle so.
    """
    text = opencc_converter().convert(text)
    return _PARTICLE.sub("着", text) if "著" in text else text


def beginning(text: str, enough: int = ENOUGH_CHARS) -> str:
    """Returns whole sentences of at least `enough` characters from the beginning of `text`."""
    end = _SENTENCE_END.search(text, enough)
    return text[: end.end() if end else 4 * enough].rstrip()


def clean_text(title: str, text: str) -> tuple[str, str]:
    """Returns (title, text) unescaped, in simplified characters, without extraction leftovers.

    Everything from the first sentence with a `formula_1` or `codice_1` on is cut: the formula is
    lost, and a text that refers to it teaches nonsense.
    """
    return clean_texts([(title, text)])[0]


def clean_texts(pages: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns what `clean_text` returns for each of `pages`, with one conversion for all."""
    parts = [part for title, text in pages for part in before_conversion(title, text)]
    converted = iter(simplified_all(parts))
    return [
        (_TITLE_NOTE.sub("（\\1）", title.strip()), _LEFT_SPACE.sub("", text).strip())
        for title, text in zip(converted, converted, strict=True)
    ]


def simplified_all(texts: Sequence[str]) -> list[str]:
    """Returns `simplified` of each text.

    No word of the converter's has the separator in it, so that none reaches over it.
    """
    if any(_SEPARATOR in text for text in texts):
        return [simplified(text) for text in texts]
    return simplified(_SEPARATOR.join(texts)).split(_SEPARATOR) if texts else []


def before_conversion(title: str, text: str) -> tuple[str, str]:
    """Returns both parts of a page as they are before they are converted."""
    title = resolve_variants(html.unescape(title)).replace("_", " ")
    text = resolve_variants(html.unescape(text))
    placeholder = _PLACEHOLDER.search(text) if "_" in text else None
    if placeholder:
        before = _SENTENCE_START.match(text, 0, placeholder.start())
        text = before[0] if before else ""
    return title, _without_empty_brackets(text)


def no_article(title: str, text: str) -> str:
    """Returns why a cleaned page is no article: "" if it is one."""
    if not text:
        return "empty_article"
    if _REDIRECT.match(text):
        return "redirect"
    if _DISAMBIGUATION_TITLE.search(title) or _DISAMBIGUATION_TEXT.match(text):
        return "disambiguation"
    if _LIST_TITLE.search(title):
        return "list_article"
    return ""


def _without_empty_brackets(text: str) -> str:
    """Removes brackets that templates left empty, and marks at the edges inside of brackets."""
    if "(" in text:
        text = _EMPTY_ASCII_BRACKETS.sub("", text)
    if "（" not in text:
        return text
    text = _BRACKET_START.sub("（", _EMPTY_BRACKETS.sub("", text))
    *parts, last = text.split("）")
    return "）".join([*(part.rstrip(_BRACKET_EDGE) for part in parts), last])


def _shown(inside: str) -> str:
    """Returns the text that one innermost `-{inside}-` shows."""
    flags = _FLAGS.match(inside)
    if flags:
        if _SILENT_FLAGS & set(flags[1]):
            return ""
        inside = inside[flags.end() :]
    marks = list(_VARIANT.finditer(inside))
    if not marks:
        return inside
    ends = [mark.start() for mark in marks[1:]] + [len(inside)]
    forms = {
        mark[1]: inside[mark.end() : end].strip().rstrip(";").strip()
        for mark, end in zip(marks, ends, strict=True)
    }
    return next((forms[name] for name in _PREFERRED if name in forms), "")


@cache
def opencc_converter() -> opencc.OpenCC:
    """Returns the one converter of this process."""
    return opencc.OpenCC("t2s")
