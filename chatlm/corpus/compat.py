"""How Chat-LM-small cleaned its corpora, byte for byte, to be compared with and for nothing else.

In: fields of raw records. Out: the prompt and response that its `raw_data_process.py` would have
written, or None where it dropped the row. Its defects are kept on purpose: the letter s and the
backslash count as punctuation, every space becomes a comma, of marks in a row only the first stays,
paragraphs are glued together. The corrected rules are in `normalize` and `filters`.
"""

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from chatlm.corpus.records import Fields

Pair: TypeAlias = tuple[str, str]
Clean: TypeAlias = Callable[[Fields], Pair | None]

PUNCTUATION = frozenset(
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~.,;《》？！“”‘’@#￥%…&×（）——+【】{};；●，。&～、|\\s:：\n"
)
"""Its set of marks. The s is there because `\\s` was meant as a regex and is none."""
MIN_DICE = 0.90
MIN_STARS = 5
_COMMA = "，"
_RUN = re.compile("(?<=[{0}])[{0}]+".format("".join(map(re.escape, sorted(PUNCTUATION)))))
_QUOTES = re.compile("[「」｢｣『』]")
_CHINESE_MARKS = str.maketrans(",().!;:", "，（）。！；：")
_TRANSLATIONS = ("翻译", "英译", "译英", "中译", "译中", "汉译", "译汉")


def collapse(text: str) -> str:
    """Returns `text` with spaces as full-width commas and only the first of marks in a row."""
    return _RUN.sub("", text.replace(" ", _COMMA).replace("\u3000", _COMMA))


def dice(first: str, second: str) -> float:
    """Returns the Dice similarity of the sets of characters; 0 for two empty texts."""
    one, other = set(first), set(second)
    total = len(one) + len(other)
    return 2 * len(one & other) / total if total else 0.0


def webtext2019zh(fields: Fields, min_chars: int = 15) -> Pair | None:
    """Title and content of an answer with at least five stars; `desc` is not looked at."""
    content = _text(fields, "content")
    stars = fields["star"]
    if not isinstance(stars, int) or stars < MIN_STARS or len(content) < min_chars:
        return None
    return collapse(_text(fields, "title")), collapse(content)


def baike_qa2019(fields: Fields, min_chars: int = 15) -> Pair | None:
    """Title and desc in one, or the title alone where the two share their characters."""
    title, desc, answer = (_text(fields, name) for name in ("title", "desc", "answer"))
    return _joined(title, desc, title, answer, len(answer), min_chars, 3)


def medical(line: str, min_chars: int = 15) -> Pair | None:
    """One line of a repaired CSV file, cut at commas; department, title, ask, answer.

    Quotes are not undone, and the line end belongs to the answer, as it did.
    """
    item = line.split(",")
    if len(item) < 4:
        return None
    return _joined(item[1], item[2], item[2], "".join(item[3:]), len(item[3]), min_chars, 3)


def finance(line: str, min_prompt_chars: int = 10, min_chars: int = 15) -> Pair | None:
    """One line of a repaired CSV file: title, question, reply, is_best (not looked at)."""
    item = line.split(",")
    if len(item) < 4 or len(item[0]) + len(item[1]) < min_prompt_chars:
        return None
    return _joined(item[0], item[1], item[1], item[2], len(item[2]), min_chars, min_prompt_chars)


def repair_row(row: list[str]) -> list[str]:
    """Returns the fields of a CSV row as they were written again before being cut at commas."""
    return [field.replace("\n", "\\n").replace(",", _COMMA) for field in row]


def zhihu_kol(fields: Fields, min_prompt_chars: int = 4, min_chars: int = 10) -> Pair | None:
    """Instruction and response; votes are not looked at."""
    prompt = collapse(_text(fields, "INSTRUCTION").replace("\r", ""))
    response = collapse(_text(fields, "RESPONSE").replace("\r", ""))
    too_short = len(prompt) < min_prompt_chars or len(response) < min_chars
    return None if too_short else (prompt, response)


def belle(fields: Fields, min_chars: int = 15) -> Pair | None:
    """Instruction and output for pre-training: no translation, no table, marks collapsed."""
    prompt, response = _text(fields, "instruction"), _text(fields, "output")
    if "翻译" in prompt or _has_english_task_or_table(prompt, response):
        return None
    if len(response) < min_chars:
        return None
    prompt, response = collapse(prompt), collapse(response)
    return None if len(response) < min_chars else (prompt, response)


def belle_finetune(fields: Fields, max_chars: int = 320) -> Pair | None:
    """Instruction and output for fine-tuning: unchanged, and neither longer than `max_chars`."""
    prompt, response = _text(fields, "instruction"), _text(fields, "output")
    if any(word in prompt for word in _TRANSLATIONS):
        return None
    if _has_english_task_or_table(prompt, response):
        return None
    return None if max(len(prompt), len(response)) > max_chars else (prompt, response)


def wiki_line(line: str) -> str:
    """Returns a line of simplified Chinese wiki text with all ASCII marks made Chinese."""
    line = _QUOTES.sub('"', line)
    line = re.sub("，）|；）", "）", line)
    line = re.sub(r"（，|\(，", "（", line)
    return collapse(line.translate(_CHINESE_MARKS))


CLEANERS: Mapping[str, Clean] = {
    "webtext2019zh": webtext2019zh,
    "baike_qa2019": baike_qa2019,
    "zhihu_kol": zhihu_kol,
    "belle": belle,
}
"""The corpora whose records are fields; the CSV corpora were read as lines."""


def _joined(
    title: str,
    detail: str,
    alone: str,
    answer: str,
    answer_chars: int,
    min_chars: int,
    min_prompt_chars: int,
) -> Pair | None:
    if answer_chars < min_chars:
        return None
    prompt = alone if dice(title, detail) >= MIN_DICE else f"{title}{detail}"
    prompt = collapse(prompt.replace("\r", ""))
    response = collapse(answer.replace("\r", ""))
    too_short = len(prompt) < min_prompt_chars or len(response) < min_chars
    return None if too_short else (prompt, response)


def _has_english_task_or_table(prompt: str, response: str) -> bool:
    if "translate" in prompt.lower():
        return True
    return "表格" in prompt or "-----" in prompt or "-----" in response


def _text(fields: Fields, name: str) -> str:
    """Returns a field that must be there as a text; the original stopped where it was not."""
    value = fields[name]
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a text, found {type(value).__name__}")
    return value
