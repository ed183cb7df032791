"""The first paragraphs of an article, from its wikitext.

In: wikitext as a dump has it. Out: its lead as plain text: paragraphs, one a line, with character
entities and in the script in which they were written (see `variants.clean_text`). It is no parser:
a few passes of regexes over as short a beginning of the article as gives enough text.
"""

import re
from collections.abc import Callable
from functools import cache

from chatlm.corpus.wiki.templates import LOST, known_name, shown
from chatlm.corpus.wiki.variants import ENOUGH_CHARS, beginning, resolve_variants

# The beginning that is looked at; a longer one only if its lead turns out too short.
PREFIX_CHARS = (4096, 24_576, 131_072)
_MAX_DEPTH = 16  # of templates, links and tables in each other; articles have at most six

_TEMPLATE = re.compile(r"\{\{((?:[^{}]++|\{(?!\{)|\}(?!\}))*+)\}\}")
_TABLE = re.compile(r"\{\|(?:[^{|]++|\{(?!\|)|\|(?!\}))*+\|\}")
_LINK = re.compile(r"\[\[((?:[^\[\]]++|\[(?!\[)|\](?!\]))*+)\]\]")
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:)?//[^\s\[\]]++ *+([^\[\]\n]*+)\]")
_FILE = "file|image|media|文件|檔案|档案|圖像|图像|圖片|图片|媒體|媒体"
_NOT_SHOWN = re.compile(
    f"(?:{_FILE}|category|分类|分類|ar|ca|cs|da|de|el|en|eo|es|fa|fi|fr|he|hu|id|it|ja|ko|la|ms|nl|"
    r"no|pl|pt|ro|ru|simple|sv|th|tr|uk|vi|yue|zh-yue|zh-classical|zh-min-nan|wuu|gan|hak)\s*:",
    re.IGNORECASE,
)
_INTERWIKI = re.compile(r"\A:?(?:[a-z][a-z\-]{0,12}:)+(?=\S)")

_EXTENSION = re.compile(
    r"<(?:!--|(/?)(ref|references|nowiki|math|chem|ce|score|hiero|code|pre|source|"
    r"syntaxhighlight|gallery|timeline|imagemap|mapframe|maplink|graph|templatestyles|section|"
    r"indicator|langconvert|inputbox|includeonly)\b([^<>]*)>)",
    re.IGNORECASE,
)
_LOST_TAGS = frozenset(("math", "chem", "ce", "score", "hiero"))
_CODE_TAGS = frozenset(("code", "pre", "source", "syntaxhighlight"))
_LOST_CODE = "codice_1"
_ACTIVE = re.compile(r"[\[\]{}<>'|=_*#:;~\-]")

_BREAK = re.compile(r"<br\b[^<>]*>|</?(?:p|div|blockquote|center|poem|li|dd|tr)\b[^<>]*>", re.I)
_TAG = re.compile(
    r"</?(?:span|small|big|sub|sup|b|i|u|s|em|strong|tt|kbd|samp|var|cite|del|ins|font|ruby|rb|rp|"
    r"rt|abbr|bdi|bdo|dfn|mark|q|time|wbr|nowiki|noinclude|onlyinclude|ul|ol|dl|dt|table|td|th|hr|"
    r"references)\b[^<>]*>",
    re.IGNORECASE,
)
_QUOTES = re.compile(r"'{2,}")
_MAGIC_WORD = re.compile(r"__[A-Za-z\u4e00-\u9fff]{2,20}__")
_LIST_MARKS = re.compile(r"[*#:;]+\s*")
_HATNOTE = re.compile(r":+\s*''")

_OPENER = re.compile(r"\{\{|\[\[|\{\||-\{|<!--|<(?:ref|nowiki|math|code|pre|gallery)\b", re.I)
_MARKUP = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{\||<!--|<ref\b")


def lead(wikitext: str, enough: int = ENOUGH_CHARS) -> str:
    """Returns the text before the first heading, or whole sentences of at least `enough` of it.

    Time is linear in the prefix that is looked at, whatever stands in it. `has_markup` tells
    whether brackets were left over.
    """
    return lead_of(lambda size: (wikitext[:size], len(wikitext) <= size), enough)


def lead_of(prefix_of: Callable[[int], tuple[str, bool]], enough: int = ENOUGH_CHARS) -> str:
    """Returns the same from a function that gives a prefix, and whether it is all there is."""
    text = ""
    for size in PREFIX_CHARS:
        prefix, is_all = prefix_of(size)
        heading = _heading(prefix)
        text = _paragraphs(_plain(prefix[:heading]))
        is_whole = heading < len(prefix) or is_all
        if heading < len(prefix) and _opener(text):
            # The heading stands inside a comment or a template.
            text = _plain(prefix)
            text = _paragraphs(text[: _heading(text)])
            is_whole = is_all
        if not is_whole:
            opener = _opener(text)
            text = text[: opener.start()] if opener else text
        if is_whole or len(text) > 2 * enough:
            break
    return beginning(text, enough)


def lead_before_heading(wikitext: str) -> str | None:
    """Returns the lead that a heading ends; None if the heading may stand inside of something."""
    text = _paragraphs(_plain(wikitext))
    return None if _opener(text) else beginning(text)


def has_markup(text: str) -> bool:
    """Returns whether `text` still has brackets of wikitext."""
    return any(sign in text for sign in "{}[]<") and _MARKUP.search(text) is not None


def _opener(text: str) -> re.Match[str] | None:
    return _OPENER.search(text) if any(sign in text for sign in "{[<") else None


def _heading(text: str) -> int:
    """Returns where the first line that is a heading begins, or the length of `text`."""
    if text.startswith("=="):
        return 0
    found = text.find("\n==")
    return found if found >= 0 else len(text)


def _plain(text: str) -> str:
    """Returns `text` without markup, as far as its brackets are closed."""
    if "<" in text:
        text = _without_extensions(text)
    text = resolve_variants(text)
    text = _inner_first(_TEMPLATE, "{{", _shown_template, text)
    text = _inner_first(_TABLE, "{|", lambda _: "", text)
    text = _inner_first(_LINK, "[[", _shown_link, text)
    if "//" in text:
        text = _EXTERNAL.sub("\\1", text)
    if "<" in text:
        text = _TAG.sub("", _BREAK.sub("\n", text))
    if "__" in text:
        text = _MAGIC_WORD.sub("", text)
    return text


def _paragraphs(text: str) -> str:
    """Returns the lines that are not blank, without list marks, hatnotes and quotes for fonts."""
    lines = list[str]()
    for line in text.split("\n"):
        line = line.strip()
        if line[:1] in ("*", "#", ":", ";"):
            if _HATNOTE.match(line):
                continue
            mark = "- " if line[0] in "*#" else ""
            content = _LIST_MARKS.sub("", line, count=1)
            line = f"{mark}{content}" if content else ""
        if "''" in line:
            line = _QUOTES.sub("", line)
        if line and line.strip("-"):
            lines.append(line)
    return "\n".join(lines)


def _inner_first(pattern: re.Pattern[str], opener: str, show, text: str) -> str:
    """Replaces the innermost matches, then those that have become innermost, and so on."""
    for _ in range(_MAX_DEPTH):
        if opener not in text:
            break
        text, num_found = pattern.subn(show, text)
        if not num_found:
            break
    return text


def _shown_template(match: re.Match[str]) -> str:
    inside = match[1]
    name = inside.partition("|")[0]
    if "[[" not in name and not known_name(name):
        return ""
    return shown(_inner_first(_LINK, "[[", _shown_link, inside))


def _shown_link(match: re.Match[str]) -> str:
    """Returns what a link shows: its label, or its target; nothing for files and categories."""
    target, bar, label = match[1].partition("|")
    if ":" not in target:
        return label if bar and label.strip() else target.strip()
    if _NOT_SHOWN.match(target.lstrip()):
        return ""
    if bar and label.strip():
        return label
    return _INTERWIKI.sub("", target.strip(), count=1).removeprefix(":")


def _without_extensions(text: str) -> str:
    """Returns `text` without comments, footnotes and the like, in one pass over their tags.

    Formulas and code leave a sign that they are lost. What is not closed is left from its tag on.
    """
    kept, at = list[str](), 0
    start = text.find("<")
    while start >= 0:
        tag = _EXTENSION.match(text, start)
        if tag is None:
            start = text.find("<", start + 1)
            continue
        name, inside, end = (tag[2] or "").lower(), "", tag.end()
        if not name:
            end = text.find("-->", end) + 3
            if end < 3:
                break
        elif not tag[1] and not tag[3].rstrip().endswith("/"):
            closed = _closing(name).search(text, end)
            if closed is None:
                break
            inside, end = _instead_of(name, text[end : closed.start()]), closed.end()
        kept += text[at:start], inside
        at = end
        start = text.find("<", end)
    kept.append(text[at:])
    return "".join(kept)


@cache
def _closing(name: str) -> re.Pattern[str]:
    return re.compile(f"</{name}\\b[^<>]*>", re.IGNORECASE)


def _instead_of(tag: str, inside: str) -> str:
    if tag in _LOST_TAGS:
        return LOST
    if tag in _CODE_TAGS:
        return _LOST_CODE
    if tag == "nowiki":
        return _ACTIVE.sub(lambda match: f"&#{ord(match[0])};", inside)
    return ""
