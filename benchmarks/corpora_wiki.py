"""Pages of a made-up zhwiki dump, as wikitext in the XML of MediaWiki.

In: a pool of sentences and the number of a chunk of pages. Out: the bytes of its bz2 streams, 100
pages each, and how many pages of each kind there are. Half of the pages are in traditional script.
"""

import bz2
from collections import Counter
from xml.sax.saxutils import escape

import numpy as np
from corpora_rows import CHUNK_ROWS, Pool, generator, join_sentences, num_sentences

STREAM_PAGES = 100
MEAN_CHARS = 420
HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://www.mediawiki.org/xml/export-0.11/ \
http://www.mediawiki.org/xml/export-0.11.xsd" version="0.11" xml:lang="zh">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <dbname>zhwiki</dbname>
    <base>https://zh.wikipedia.org/wiki/Wikipedia:%E9%A6%96%E9%A1%B5</base>
    <generator>MediaWiki 1.41.0-wmf.24</generator>
    <case>first-letter</case>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="1" case="first-letter">Talk</namespace>
      <namespace key="4" case="first-letter">Wikipedia</namespace>
      <namespace key="10" case="first-letter">Template</namespace>
      <namespace key="14" case="first-letter">Category</namespace>
    </namespaces>
  </siteinfo>
"""
TAIL = "</mediawiki>\n"
_PAGE = """  <page>
    <title>{title}</title>
    <ns>{ns}</ns>
    <id>{page}</id>
{redirect}    <revision>
      <id>{revision}</id>
      <parentid>{parent}</parentid>
      <timestamp>2023-08-{day:02d}T0{hour}:12:34Z</timestamp>
      <contributor>
        <username>Bot{bot}</username>
        <id>{bot}</id>
      </contributor>
      <model>wikitext</model>
      <format>text/x-wiki</format>
      <text bytes="{size}" xml:space="preserve">{text}</text>
      <sha1>phoiac9h4m842xq45sp7s6u21eteeq{hour}</sha1>
    </revision>
  </page>
"""
# Shares of the kinds of pages; the rest are articles.
_REDIRECT, _OTHER_SPACE, _DISAMBIGUATION, _STUB = 0.10, 0.14, 0.16, 0.22
_SPACES = ((4, "Wikipedia"), (10, "Template"), (14, "Category"), (100, "Portal"))


def header_stream() -> bytes:
    """Returns the first stream of a dump."""
    return bz2.compress(HEAD.encode())


def tail_stream() -> bytes:
    """Returns the last stream of a dump."""
    return bz2.compress(TAIL.encode())


def chunk_streams(
    pool: Pool, seed: int, file_number: int, chunk: int, count: int
) -> tuple[bytes, dict[str, int]]:
    """Returns the streams of `count` pages and the number of pages of each kind."""
    kinds: Counter[str] = Counter()
    streams = []
    for start in range(0, count, STREAM_PAGES):
        block = chunk * CHUNK_ROWS // STREAM_PAGES + start // STREAM_PAGES
        pages = min(STREAM_PAGES, count - start)
        rng = generator(seed, file_number, block)
        xml = _pages(pool, rng, pages, chunk * CHUNK_ROWS + start, kinds)
        streams.append(bz2.compress(xml.encode(), 9))
    return b"".join(streams), dict(kinds)


def _pages(
    pool: Pool, rng: np.random.Generator, count: int, first_page: int, kinds: Counter[str]
) -> str:
    counts = num_sentences(rng, MEAN_CHARS / pool.mean_chars, count * 4)
    picks = rng.integers(len(pool.sentences), size=sum(counts)).tolist()
    clauses = rng.integers(len(pool.clauses), size=(count, 4)).tolist()
    numbers = rng.integers(1 << 30, size=count).tolist()
    chances = rng.random(count).tolist()
    breaks = rng.random(count * 4).tolist()
    # Four sections a page, together of the wanted mean length.
    counts = [max(1, number // 4) for number in counts]
    simplified = join_sentences(pool.sentences, counts, picks, "\n\n", breaks)
    traditional = join_sentences(pool.traditional, counts, picks, "\n\n", breaks)
    pages = []
    for index in range(count):
        sections = (traditional if numbers[index] % 2 else simplified)[index * 4 : index * 4 + 4]
        names = [pool.clauses[clause] for clause in clauses[index]]
        kind, space, title, text = _page(chances[index], numbers[index], names, sections)
        kinds[kind] += 1
        page, number = first_page + index + 13, numbers[index]
        target = f'    <redirect title="{escape(names[1], _QUOTE)}" />\n'
        pages.append(
            _PAGE.format(
                title=escape(title),
                ns=space,
                page=page,
                redirect=target if kind == "redirect" else "",
                revision=70_000_000 + page,
                parent=60_000_000 + page,
                day=number % 28 + 1,
                hour=number % 10,
                bot=number % 5000,
                size=len(text.encode()),
                text=escape(text, _QUOTE),
            )
        )
    return "".join(pages)


_QUOTE = {'"': "&quot;"}


def _page(
    chance: float, number: int, names: list[str], sections: list[str]
) -> tuple[str, int, str, str]:
    """Returns (kind, namespace, title, wikitext) of one page."""
    title = names[0] if number % 3 else f"{names[0][:4]}{names[1][:4]}"
    if number % 17 == 0:
        title = f"{title}：{names[2][:5]}" if number % 2 else f"{title} ({1900 + number % 120}年)"
    if chance < _REDIRECT:
        word = ("#REDIRECT", "#重定向", "#redirect")[number % 3]
        return "redirect", 0, title, f"{word} [[{names[1]}]]"
    if chance < _OTHER_SPACE:
        space, prefix = _SPACES[number % len(_SPACES)]
        return "other_space", space, f"{prefix}:{title}", f"<noinclude>{sections[0]}</noinclude>"
    if chance < _DISAMBIGUATION:
        mark = ("{{disambig}}", "{{消歧義}}", "{{Disambig|Cat=人名}}")[number % 3]
        listed = "\n".join(f"* [[{name}]]，{name}" for name in names)
        suffix = " (消歧义)" if number % 2 else ""
        return "disambiguation", 0, title + suffix, f"'''{title}'''可以指：\n{listed}\n{mark}\n"
    lead = _lead(title, number, names, sections[0])
    if chance < _STUB:
        return "stub", 0, title, f"{lead}\n\n{{{{小作品}}}}\n[[Category:{names[2]}]]\n"
    return "article", 0, title, lead + _body(number, names, sections)


def _lead(title: str, number: int, names: list[str], text: str) -> str:
    """Returns infobox, language variants and the first paragraphs."""
    box = ""
    if number % 5 < 2:
        box = (
            f"{{{{Infobox settlement\n| name = {names[1]}\n| image = [[File:Example{number}.jpg|"
            f"250px]]\n| population = {number % 9_000_000:,}{{{{increase}}}}\n| area = "
            f"{{{{convert|{number % 5000}|km2|sqmi|abbr=on}}}}\n}}}}\n"
        )
    notes = f"{{{{NoteTA|G1=IT|1=zh-hans:{names[3]};zh-hant:{names[2]};}}}}\n"
    variant = f"-{{zh-hans:{names[2]};zh-hant:{names[3]};}}-"
    if number % 7 == 0:
        variant = f"-{{{names[2]}}}-"
    foreign = ("{{lang-en|Example place}}，", "{{lang|ja|例}}；", "", "")[number % 4]
    return (
        f"{notes if number % 11 == 0 else ''}{box}'''{title}'''（{foreign}{1000 + number % 1020}年"
        f"{number % 12 + 1}月－）是[[{names[1]}]]的[[{names[2]}|{names[3]}]]"
        f"{variant if number % 3 == 0 else ''}，{_linked(text)}"
        f'<ref name="a{number % 9}">{{{{cite web|url=http://www.example.org/{number}|title='
        f"{names[3]}|accessdate=2023-08-01}}}}</ref>"
    )


def _linked(text: str) -> str:
    """Returns the text with some of its words turned into links, as wikitext has them."""
    parts = text.split("，", 3)
    return "，".join(
        f"[[{part[:4]}]]{part[4:]}" if len(part) > 6 and "\n" not in part[:4] else part
        for part in parts
    )


def _body(number: int, names: list[str], sections: list[str]) -> str:
    """Returns the sections, a table, a list, references and categories."""
    table = ""
    if number % 4 == 0:
        rows = "\n".join(f"|-\n| {name} || {number % 997 + i}" for i, name in enumerate(names))
        table = f'{{| class="wikitable"\n! 名称 !! 数量\n{rows}\n|}}\n'
    listed = "\n".join(f"* [[{name}]]" for name in names) if number % 3 == 0 else ""
    formula = "<math>E = mc^2</math>，" if number % 50 == 0 else ""
    return (
        f"\n\n== 历史 ==\n{_linked(sections[1])}<ref>{names[0]}，第{number % 400}页</ref>\n\n"
        f"{table}== {names[1]} ==\n[[File:Map {number % 999}.svg|thumb|{names[2]}]]\n"
        f"{formula}{sections[2]}\n\n"
        f"=== 评价 ===\n{{{{main|{names[3]}}}}}\n{_linked(sections[3])}\n\n"
        f"== 参见 ==\n{listed}\n\n== 参考文献 ==\n{{{{reflist|2}}}}\n<!-- 待补充 -->\n"
        f"{{{{DEFAULTSORT:{names[0]}}}}}\n[[Category:{names[2]}]]\n[[分類:{names[3]}]]\n"
    )
