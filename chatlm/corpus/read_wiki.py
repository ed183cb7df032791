"""The two text formats that the WikiExtractors write.

In: a path. Out: records with the fields `title` and `text`, exactly as the file has them (still
escaped, still in either script). It does not clean; see `zhwiki`.
"""

import re
from pathlib import Path

from chatlm.corpus.read_json import open_binary
from chatlm.corpus.records import Read, Record, Rejected, excerpt_of

_DOC = re.compile(r'<doc id="[^"]*".* title="(?P<title>.*)">\s*\Z')
_END = "</doc>"


def read_attardi(path: Path) -> Read:
    """Yields the articles of a `<doc ... title="...">` file of attardi/wikiextractor.

    The text may hold bare `"`, `<` and `&`, so this is no XML and only whole lines count as tags.

    Raises:
        DataError: The file cannot be read.
    """
    title, start, body = "", 0, list[str]()
    for number, line in _text_lines(path):
        match = _DOC.match(line) if line.startswith("<doc ") else None
        if match or (start and line.rstrip() == _END):
            if match and start:
                yield Rejected(str(path), start, "article_not_closed", excerpt_of(title))
            elif start:
                yield Record(start, {"title": title, "text": _without_title(body, title)})
            title, start, body = (match["title"], number, []) if match else ("", 0, [])
        elif start:
            body.append(line)
        elif line.strip():
            yield Rejected(str(path), number, "text_outside_article", excerpt_of(line))
    if start:
        yield Rejected(str(path), start, "article_not_closed", excerpt_of(title))


def read_apertium(path: Path) -> Read:
    """Yields the articles of apertium's WikiExtractor: blank line, `title:`, paragraphs.

    A title is the line after a blank line (or the first line) that ends in the only ASCII colon it
    has: this extractor drops titles with a colon inside. Every other line is text, also one that
    ends in a colon.

    Raises:
        DataError: The file cannot be read.
    """
    title, start, body = "", 0, list[str]()
    after_blank = True
    for number, line in _text_lines(path):
        is_title = after_blank and line.find(":") == len(line) - 1 and len(line) > 1
        after_blank = not line.strip()
        if is_title:
            if start:
                yield Record(start, {"title": title, "text": "\n".join(body).strip("\n")})
            title, start, body = line[:-1], number, []
        elif start:
            body.append(line)
        elif line.strip():
            yield Rejected(str(path), number, "text_outside_article", excerpt_of(line))
    if start:
        yield Record(start, {"title": title, "text": "\n".join(body).strip("\n")})


def _text_lines(path: Path):
    """Yields (number, line without its end); undecodable bytes become U+FFFD."""
    with open_binary(path) as file:
        for number, raw in enumerate(file, start=1):
            line = raw.decode("utf-8", errors="replace").rstrip("\r\n")
            yield number, line.removeprefix("\ufeff") if number == 1 else line


def _without_title(body: list[str], title: str) -> str:
    """Joins the lines of an article; the first one repeats the title."""
    lines = body[1:] if body and body[0].strip() == title.strip() else body
    return "\n".join(lines).strip("\n")
