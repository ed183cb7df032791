"""The articles of a MediaWiki dump (`<mediawiki>` XML, plain or bzip2).

In: a path, and perhaps a span of its streams. Out: records with the fields `title` and `article`
(its clean beginning; see `articles`), and every other page with the reason why it is no article.

A page belongs to the stream in which its tag begins, also where it ends in the next one, so that
the pages of all spans together are the pages of the file. Its position is the offset of that
stream plus its number within it, from 1: the same however the file was cut into spans. It is the
page's number in a file of one stream. It is unique as long as no stream has more pages than bytes.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from chatlm.corpus.records import Read, Record, Rejected, excerpt_of
from chatlm.corpus.wiki.articles import cleaned
from chatlm.corpus.wiki.escapes import unescaped
from chatlm.corpus.wiki.piece import Piece
from chatlm.corpus.wiki.streams import Span, grouped, pieces, streams
from chatlm.errors import DataError

__all__ = ["Span", "grouped", "read_pages", "read_wikitext", "streams"]

MAX_TEXT_BYTES = 16 * 1024 * 1024
_MAX_PAGE_BYTES = MAX_TEXT_BYTES + 1024 * 1024
_MAX_HEADER_BYTES = 64 * 1024
_KEPT_BYTES = 64

_PAGE, _PAGE_END = b"<page>", b"</page>"
_DUMP, _DUMP_END = b"<mediawiki", b"</mediawiki>"
_DTD = re.compile(rb"<!(?:DOCTYPE|ENTITY)")
_HEAD = re.compile(
    rb"\s*<title>([^<]*)</title>\s*<ns>(-?[0-9]+)</ns>\s*<id>[0-9]+</id>\s*(<redirect\b)?"
)
_TEXT = re.compile(rb"<text\b(?:[^<>]*[^<>/])?>")
_TEXT_END = re.compile(rb"</text>\s*(?:<[^<>]*>[^<]*)*\Z")
_NO_TEXT = re.compile(rb"<text\b[^<>]*/>")
_ARTICLES = b"0"

_REDIRECT = re.compile(r"\s*[#＃]\s*(?:redirect|重定向|重新[導导]向)", re.IGNORECASE)
_DISAMBIGUATION_TITLE = re.compile(r"[（(]消歧[义義][)）]\s*\Z")
_DISAMBIGUATION = re.compile(
    r"\{\{\s*(?:(?:人名|地名|姓氏)?消歧[义義]|disambig(?:uation)?|dab|hndis|geodis)\s*[|}]",
    re.IGNORECASE,
)


def read_pages(path: Path, span: Span | None = None) -> Read:
    """Yields the articles whose pages begin in `span` (None: in the file), and rejected places.

    Pages are dropped as other_namespace, redirect, disambiguation, malformed_page, page_not_closed,
    text_too_long, invalid_utf8, lost_formula; text between pages as text_outside_page. A part of
    the file that is damaged is one reject whose reason is in `reasons.DAMAGED`; the pages around it
    are kept, none of them from a block whose checksum is wrong.

    Raises:
        DataError: The file cannot be read, is no MediaWiki dump, or declares a document type or
            entities, which no dump does.
    """
    return cleaned(_read_escaped(path, span), str(path))


def read_wikitext(path: Path, span: Span | None = None) -> Read:
    """Yields the same, but for lost_formula, with all of their `wikitext` instead of `article`."""
    for one in _read_escaped(path, span):
        if isinstance(one, Record):
            fields = {"title": one.fields["title"], "wikitext": unescaped(str(one.fields["raw"]))}
            yield Record(one.position, fields)
        else:
            yield one


def _read_escaped(path: Path, span: Span | None) -> Read:
    return _Pages(str(path), span).read(pieces(path, span.start if span else 0))


class _Pages:
    """The state of reading one span: what was seen and belongs to no finished page yet."""

    def __init__(self, path: str, span: Span | None) -> None:
        self.path = path
        self.start, self.end = (span.start, span.end) if span else (0, None)
        self.rest = b""
        self.is_open = False  # `rest` begins with the tag of a page that has not ended
        self.is_skipping = self.start > 0  # `rest` is the end of something that is not ours
        self.is_rest_ours = self.in_header = self.start == 0
        self.stream = self.position = self.start

    def read(self, parts: Iterator[Piece]) -> Read:
        is_lost, is_ours = False, True
        for piece in parts:
            is_ours = self.end is None or piece.stream < self.end
            if not is_ours and not self._goes_on():
                return
            is_lost = bool(piece.damage)
            if is_lost:
                yield from self._give_up()
                if is_ours:
                    self._enter(piece.stream)
                    yield self._reject("damaged_stream", piece.damage)
            else:
                yield from self._split(piece, is_ours)
        self._check_header()
        is_closed = self._is_closed()
        yield from self._give_up()
        if is_ours and not is_closed and not is_lost:
            yield self._reject("damaged_stream", "the file ends without </mediawiki>")

    def _split(self, piece: Piece, is_ours: bool) -> Read:
        """Yields the pages that are complete with this piece."""
        known = len(self.rest)
        data = self.rest + piece.data if known else piece.data
        self._refuse_dtd(data)
        before, *chunks = data.split(_PAGE)
        if not self.is_open:
            yield from self._before_pages(before, piece.stream, is_last=not chunks)
        at = len(before)
        for chunk in chunks[:-1]:
            if not self._begin(at >= known, piece.stream, is_ours):
                return
            at += len(_PAGE) + len(chunk)
            page, end, rest = chunk.partition(_PAGE_END)
            self.is_open = False
            yield self._page(page) if end else self._reject("page_not_closed", page)
            if rest.strip():
                yield self._reject("text_outside_page", rest)
        if chunks and self._begin(at >= known, piece.stream, is_ours):
            page, end, self.rest = chunks[-1].partition(_PAGE_END)
            self.is_open = not end
            yield from [self._page(page)] if end else self._keep_open(page)
        self.is_rest_ours = is_ours or (self.is_rest_ours and not piece.data)
        if is_ours and not self.is_open:
            self._enter(piece.stream)
        elif chunks and not self.is_open:
            self.rest = b""

    def _begin(self, is_new: bool, stream: int, is_ours: bool) -> bool:
        """Gives the page at hand its position; returns False if it is not ours."""
        if self.is_open:
            return True
        if not is_ours and (is_new or not self.is_rest_ours):
            self.rest = b""
            return False
        if is_new:
            self._enter(stream)
        self.position += 1
        return True

    def _keep_open(self, page: bytes) -> Read:
        self.rest = _PAGE + page
        if len(page) > _MAX_PAGE_BYTES:
            yield self._reject("text_too_long", page[:4096])
            self.rest, self.is_open, self.is_skipping = b"", False, True

    def _before_pages(self, before: bytes, stream: int, *, is_last: bool) -> Read:
        """Judges what stands before a page, or keeps its end if no page follows yet."""
        if self.in_header and (not is_last or len(before) > _MAX_HEADER_BYTES):
            self.rest = before
            self._check_header()
        if is_last:
            self.in_header = self.in_header and len(before) <= _MAX_HEADER_BYTES
            self.rest = before if self.in_header else before[-_KEPT_BYTES:]
            return
        is_inside = not self.in_header and not self.is_skipping and self.stream == stream
        if is_inside and before.strip():
            yield self._reject("text_outside_page", before)
        self.in_header = self.is_skipping = False

    def _check_header(self) -> None:
        if self.in_header and _DUMP not in self.rest:
            raise DataError(
                f"{self.path}: is no MediaWiki dump (no <mediawiki> before its first page); "
                "expected pages-articles XML, plain or bzip2"
            )

    def _refuse_dtd(self, data: bytes) -> None:
        if b"<!" in data and _DTD.search(data):
            raise DataError(
                f"{self.path}: declares a document type or entities, which no MediaWiki dump does; "
                "it is not read, get the dump from its publisher"
            )

    def _goes_on(self) -> bool:
        """Returns whether a page of ours, its tag or the header may go on behind our streams."""
        ends = any(self.rest.endswith(_PAGE[:length]) for length in range(1, len(_PAGE)))
        return self.is_open or self.in_header or ends

    def _give_up(self) -> Read:
        """Forgets what was begun; what follows begins with the next page."""
        if self.is_open:
            yield self._reject("page_not_closed", self.rest[len(_PAGE) :])
        self.rest, self.is_open, self.is_skipping, self.in_header = b"", False, True, False

    def _is_closed(self) -> bool:
        """Returns whether the file ends as a dump does.

        A span without a page may begin within the last tag, where streams end anywhere.
        """
        tail = self.rest.rstrip()
        is_part = self.start > 0 and self.is_skipping and _DUMP_END.endswith(tail)
        return tail.endswith(_DUMP_END) or is_part

    def _enter(self, stream: int) -> None:
        if stream != self.stream:
            self.stream = self.position = stream

    def _reject(self, reason: str, excerpt: bytes | str) -> Rejected:
        return Rejected(self.path, self.position, reason, excerpt_of(excerpt))

    def _page(self, page: bytes) -> Record | Rejected:
        head = _HEAD.match(page)
        if head is None:
            return self._reject("malformed_page", page)
        raw_title, namespace, redirect = head.groups()
        if namespace != _ARTICLES or redirect:
            reason = "redirect" if namespace == _ARTICLES else "other_namespace"
            return self._reject(reason, raw_title)
        start = page.find(b"<text", head.end())
        raw = _text(page, start) if start >= 0 else None
        if raw is None:
            return self._reject("malformed_page", page)
        if len(raw) > MAX_TEXT_BYTES:
            return self._reject("text_too_long", raw_title)
        try:
            title, text = unescaped(raw_title.decode()), raw.decode()
        except UnicodeDecodeError:
            return self._reject("invalid_utf8", raw_title)
        reason = _no_article(title, text)
        if reason:
            return self._reject(reason, raw_title)
        return Record(self.position, {"title": title, "raw": text})


def _text(page: bytes, start: int) -> bytes | None:
    """Returns what the element `text` holds that begins at `start`; None if it is malformed."""
    tag = _TEXT.match(page, start)
    if tag is None:
        return b"" if _NO_TEXT.match(page, start) else None
    end = page.find(b"<", tag.end())
    return page[tag.end() : end] if end >= 0 and _TEXT_END.match(page, end) else None


def _no_article(title: str, raw: str) -> str:
    """Returns why a page of the main namespace is no article: "" if it is one."""
    # Nothing of what is looked for has a character that is always escaped.
    wikitext = unescaped(raw) if "&#" in raw else raw
    if _REDIRECT.match(wikitext):
        return "redirect"
    if _DISAMBIGUATION_TITLE.search(title):
        return "disambiguation"
    return "disambiguation" if _DISAMBIGUATION.search(wikitext) else ""
