"""One raw record of a corpus into examples.

In: the fields of a record. Out: a list of examples, and of what of the record is in none, or the
reason (a string) why it gives nothing.
Each function knows the published schema of its corpus and nothing else; cleaning and judging come
later. HTML is decoded here, because whether a text is HTML is a fact about its corpus.
"""

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

from chatlm.corpus.conversation import render
from chatlm.corpus.example import Example, Skipped
from chatlm.corpus.keys import prose_key, stable_hash
from chatlm.corpus.messages import examples_of
from chatlm.corpus.normalize import HAN, WIDE_MARKS, decode_html, normalize
from chatlm.corpus.records import Fields
from chatlm.corpus.table_header import CONVERSATION_NAMES
from chatlm.corpus.wiki import variants as wiki
from chatlm.corpus.wiki import wikitext

Convert: TypeAlias = Callable[[Fields], "Sequence[Example | Skipped] | str"]

PROMPT_NAMES = ("prompt", "instruction", "question", "query")
RESPONSE_NAMES = ("response", "output", "answer", "target", "reply", "completion")
_NOTHING = frozenset(("", "无", "None", "none", "null", "NaN", "nan"))

_PARAGRAPH = re.compile(f"((?:[。！？…]|[!?~](?= +[{HAN}{WIDE_MARKS}“‘]))[”’」』）)]*) +")
_VOTES = re.compile(r"([\d.,]+)\s*(万|[kK])?")
# What the writers of Alpaca put where there was nothing to put.
_NO_INPUT = re.compile(r"\s*<?\s*(?:no ?input|none|无输入)\.?\s*>?\s*\Z", re.IGNORECASE)
_NO_OUTPUT = re.compile(r"\s*<?\s*(?:no ?output\b|无输出)", re.IGNORECASE)
_SCRIPT = re.compile(r"^[^\S\n]*(?:Alice|Bob)\s*[:：]", re.MULTILINE)
_SPEAKER = re.compile(r"(?:^|\n)(Human|Assistant)[:：]")

WIKI_PROMPTS = (
    "介绍一下{}。",
    "请介绍一下{}。",
    "请简单介绍{}。",
    "说说{}吧。",
    "关于{}，你知道些什么？",
    "请给我讲讲{}。",
    "我想了解{}。",
    "你了解{}吗？请介绍一下。",
)
"""A title can name a person, a place or an idea, so no phrasing asks "what is" or "who is"."""
# The text of a WikiExtractor still has variants and entities, which become shorter.
_WIKI_CHARS = 2 * wiki.ENOUGH_CHARS


def webtext2019zh(fields: Fields) -> list[Example] | str:
    """`title` and what `desc` adds to it; `content` is HTML text."""
    prompt = question(fields, "title", "desc")
    return _pair(decode_html(prompt), _html(fields, "content"), "webtext2019zh")


def baike_qa2019(fields: Fields) -> list[Example] | str:
    """`title` and what `desc` adds to it; paragraphs of `answer` are split by two bare CRs."""
    prompt = question(fields, "title", "desc")
    return _pair(decode_html(prompt), _html(fields, "answer"), "baike_qa2019")


def medical(fields: Fields) -> list[Example] | str:
    """`title` and what `ask` (`question` in some copies) adds to it; 无 stands for nothing."""
    detail = "ask" if "ask" in fields else "question"
    return _pair(question(fields, "title", detail), text_of(fields, "answer"), "medical")


def finance(fields: Fields) -> list[Example] | str:
    """`title` and what `question` adds to it; only replies that the asker chose."""
    if str(fields.get("is_best", "")).strip() not in ("1", "1.0", "True"):
        return "not_best_answer"
    prompt = question(fields, "title", "question")
    return _pair(decode_html(prompt), _html(fields, "reply"), "finance")


def zhihu_kol(fields: Fields) -> list[Example] | str:
    """`INSTRUCTION` and `RESPONSE`; the crawler joined paragraphs with a space."""
    response = _PARAGRAPH.sub("\\1\n", text_of(fields, "RESPONSE"))
    return _pair(text_of(fields, "INSTRUCTION"), response, "zhihu_kol")


def belle(fields: Fields) -> Sequence[Example | Skipped] | str:
    """All releases: instruction/output, input/target, conversations, Human/Assistant scripts."""
    if "conversations" in fields:
        return examples_of(fields["conversations"], "belle")
    if "target" in fields and "input" in fields:
        # The first releases wrote a line break as the two characters \ and n.
        prompt, response = (text_of(fields, name) for name in ("input", "target"))
        return _pair(prompt.replace("\\n", "\n"), response.replace("\\n", "\n"), "belle")
    prompt = _with_input(fields, "instruction")
    response = text_of(fields, "output")
    if len(_SCRIPT.findall(response)) > 1:
        return "scripted_dialogue"
    if prompt.startswith(("Human:", "Human：")):
        return _human_assistant(prompt, response)
    return _pair(prompt, response, "belle")


def alpaca(source: str) -> Convert:
    """Returns the converter of an Alpaca-like corpus: instruction, input, output."""

    def convert(fields: Fields) -> list[Example] | str:
        if "instruction" not in fields or "output" not in fields:
            return "missing_field"
        if _NO_OUTPUT.match(text_of(fields, "output")):
            return "no_output"
        return _pair(_with_input(fields, "instruction"), text_of(fields, "output"), source)

    return convert


def zhwiki(fields: Fields) -> list[Example] | str:
    """A question about the title, answered by the beginning of the article.

    `article` is that beginning, clean as the reader of dumps leaves it; `wikitext` is the whole as
    a dump has it, `text` as a WikiExtractor left it.
    """
    name = next((name for name in ("article", "wikitext") if name in fields), "text")
    if not isinstance(fields.get("title"), str) or not isinstance(fields.get(name), str):
        return "missing_field"
    raw_title, raw_text = text_of(fields, "title"), text_of(fields, name)
    if name == "article":
        title, text = raw_title, raw_text
    else:
        if name == "wikitext":
            raw_text = wikitext.lead(raw_text)
        else:
            raw_text = raw_text.removeprefix(f"{raw_title}\n").lstrip("\n")
            raw_text = wiki.beginning(raw_text, _WIKI_CHARS)
        title, text = wiki.clean_text(raw_title, raw_text)
    reason = wiki.no_article(title, text)
    if reason:
        # A text that lost everything to a formula was no empty article.
        return "lost_formula" if reason == "empty_article" and raw_text.strip() else reason
    if wikitext.has_markup(text):
        return "markup_left"
    phrasing = WIKI_PROMPTS[stable_hash(title) % len(WIKI_PROMPTS)]
    return [Example(phrasing.format(title), text, "zhwiki")]


def pairs(fields: Fields) -> Sequence[Example | Skipped] | str:
    """Any two columns with a usual name, an `input` that completes the prompt, a `source`.

    Or, whatever else is there, a conversation: `messages` or `conversations`.
    """
    source = fields.get("source")
    name = source if isinstance(source, str) and source else "pairs"
    for conversation in CONVERSATION_NAMES:
        if fields.get(conversation) is not None:
            return examples_of(fields[conversation], name)
    prompt_name = next((name for name in PROMPT_NAMES if name in fields), None)
    response_name = next((name for name in RESPONSE_NAMES if name in fields), None)
    if prompt_name is None or response_name is None:
        return "missing_field"
    return _pair(_with_input(fields, prompt_name), text_of(fields, response_name), name)


def zhihu_votes(fields: Fields) -> int | None:
    """Returns the votes in METADATA's button label: 赞同, 赞同 15, 赞同 1.2 万; None if unknown."""
    match = re.search(r'"upvotes":\s*"([^"]*)"', text_of(fields, "METADATA"))
    if match is None:
        return None
    number = _VOTES.search(match[1])
    if number is None:
        return 0
    factor = {"万": 10_000, "k": 1_000, "K": 1_000}.get(number[2], 1)
    try:
        return round(float(number[1].replace(",", "")) * factor)
    except ValueError:
        return None


def webtext_votes(fields: Fields) -> int | None:
    """Returns `star`, the votes of the answer; None if it is not a number."""
    star = fields.get("star")
    return star if isinstance(star, int) else None


def text_of(fields: Fields, name: str) -> str:
    """Returns the text of a field; null, a missing field and a non-text count as no text."""
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def question(fields: Fields, title_name: str, detail_name: str) -> str:
    """Returns title and detail as two lines, or one of them where it holds the other.

    Holding is tested on the texts in order, without marks and spaces, so that a long detail that
    happens to use the same characters is not lost.
    """
    title = text_of(fields, title_name).strip()
    detail = text_of(fields, detail_name).strip()
    if detail in _NOTHING:
        return "" if title in _NOTHING else title
    if title in _NOTHING:
        return detail
    title_key, detail_key = prose_key(title), prose_key(detail)
    if detail_key in title_key:
        return title
    return detail if title_key in detail_key else f"{title}\n{detail}"


def _html(fields: Fields, name: str) -> str:
    return decode_html(text_of(fields, name))


def _pair(prompt: str, response: str, source: str) -> list[Example] | str:
    if response.strip() in ("None", "NaN", "nan", "null"):
        response = ""
    if not prompt.strip():
        return "empty_prompt"
    if not response.strip():
        return "empty_response"
    return [Example(prompt, response, source)]


def _with_input(fields: Fields, prompt_name: str) -> str:
    """Returns the instruction, with its input (if any) on the next line."""
    prompt, extra = text_of(fields, prompt_name).strip(), text_of(fields, "input").strip()
    if not extra or extra in prompt or _NO_INPUT.match(extra):
        return prompt
    return f"{prompt}\n{extra}"


def _human_assistant(prompt: str, response: str) -> list[Example] | str:
    """The answer to a prompt of `Human:` and `Assistant:` lines that ends in `Assistant:`."""
    parts = _SPEAKER.split(prompt)[1:]
    speakers, texts = parts[::2], [normalize(text) for text in parts[1::2]]
    expected = [("Human", "Assistant")[number % 2] for number in range(len(speakers))]
    if speakers != expected or len(speakers) % 2 or texts[-1] or not all(texts[:-1]):
        return "malformed_conversation"
    past = list(zip(texts[:-2:2], texts[1:-2:2], strict=True))
    return _pair(render(past, texts[-2]), response, "belle")
