"""A multistream dump for `wiki.py`: made-up pages around given sentences.

In: sentences, a number of pages, a seed. Out: a file like `pages-articles-multistream.xml.bz2`,
100 pages a stream: 25% redirects, 17% templates, 3% disambiguations, and 55% articles with
infoboxes, footnotes, tables, language variants; half of the articles in traditional characters as
given. An article and its share of the other pages have 7.6 kB of XML (the dump: 11 GB for 1.4
million articles, 7.9 kB), and articles are as uneven: half of them have less than 5.2 kB, one in
ten more than 13 kB, one in a hundred more than 38 kB. With more text behind the leads the ratio
would be larger, as the other side looks at all of it.
"""

import bz2
import random
import re
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import opencc

_HEADER = (
    '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="zh">\n'
    "  <siteinfo>\n    <sitename>Wikipedia</sitename>\n    <dbname>zhwiki</dbname>\n"
    "    <base>https://zh.wikipedia.org/wiki/Wikipedia</base>\n    <namespaces>\n"
    '      <namespace key="0" case="first-letter" />\n'
    '      <namespace key="10" case="first-letter">Template</namespace>\n'
    '      <namespace key="14" case="first-letter">Category</namespace>\n'
    "    </namespaces>\n  </siteinfo>\n"
)
_PAGE = """  <page>
    <title>{title}</title>
    <ns>{ns}</ns>
    <id>{id}</id>
{redirect}    <revision>
      <id>{revision}</id>
      <timestamp>2026-01-0{day}T00:00:00Z</timestamp>
      <contributor>
        <username>User{id}</username>
        <id>{id}</id>
      </contributor>
      <model>wikitext</model>
      <format>text/x-wiki</format>
      <text bytes="{bytes}" sha1="x" xml:space="preserve">{text}</text>
      <sha1>x</sha1>
    </revision>
  </page>
"""
_MAX_SECTIONS = 40
_SENTENCE = re.compile(r"[^。！？\n]{10,120}[。！？]")
_WORD = re.compile(r"[\u4e00-\u9fff]{2,5}")


def sentences_of(paths: list[Path]) -> list[str]:
    """Returns the sentences of text files, tags of WikiExtractors left out."""
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
    return [one for one in _SENTENCE.findall(text) if "<" not in one and "{" not in one]


def made_up_sentences(seed: int) -> list[str]:
    """Returns sentences of random common characters, for where there is no text at hand."""
    draw = random.Random(seed)
    characters = (
        "這個國家的城市是為了學習歷史與文化而建設發展電影書籍山水東西南北人們在中來去開關車"
    )
    return [
        "，".join("".join(draw.choices(characters, k=draw.randint(5, 14))) for _ in range(3)) + "。"
        for _ in range(3000)
    ]


def write_dump(path: Path, sentences: list[str], num_pages: int, seed: int) -> int:
    """Writes the dump; returns the bytes of its XML."""
    size = len(_HEADER)
    with path.open("wb") as file:
        file.write(bz2.compress(_HEADER.encode()))
        pages = _pages(sentences, num_pages, random.Random(seed))
        for _ in range(0, num_pages, 100):
            xml = "".join(next(pages, "") for _ in range(100)).encode()
            size += len(xml)
            file.write(bz2.compress(xml))
        file.write(bz2.compress(b"</mediawiki>\n"))
    return size


def _pages(sentences: list[str], num_pages: int, draw: random.Random) -> Iterator[str]:
    converter = opencc.OpenCC("t2s")
    both = (sentences, [converter.convert(one) for one in sentences])
    words = [word for one in sentences[:5000] for word in _WORD.findall(one)]
    for number in range(1, num_pages + 1):
        title, chance = f"{draw.choice(words)}{number}", draw.random()
        namespace, redirect = 0, ""
        if chance < 0.25:
            text = f"#REDIRECT [[{draw.choice(words)}]]"
            redirect = f'    <redirect title="{draw.choice(words)}" />\n'
        elif chance < 0.42:
            namespace, title = 10, f"Template:{title}"
            text = f"<noinclude>{draw.choice(sentences)}</noinclude>{{{{{{1|}}}}}}"
        elif chance < 0.45:
            text = f"'''{title}'''可以指：\n* [[{draw.choice(words)}]]\n{{{{disambig}}}}"
        else:
            text = _article(title, both[number % 2], words, draw)
        yield _PAGE.format(
            title=escape(title),
            ns=namespace,
            id=number,
            redirect=redirect,
            revision=number * 7,
            day=number % 9 + 1,
            bytes=len(text.encode()),
            text=escape(text, {'"': "&quot;"}),
        )


def _article(title: str, sentences: list[str], words: list[str], draw: random.Random) -> str:
    parts = list[str]()
    if draw.random() < 0.3:
        parts.append(
            f"{{{{NoteTA|G1=IT|1=zh-cn:{draw.choice(words)};zh-tw:{draw.choice(words)}}}}}"
        )
    if draw.random() < 0.5:
        rows = "\n".join(
            f"| {word} = [[{draw.choice(words)}]]<ref>{draw.choice(words)}</ref>{{{{increase}}}}"
            for word in draw.sample(words, draw.randint(4, 20))
        )
        parts.append(f"{{{{Infobox thing\n| image = [[File:{title}.jpg|thumb|圖]]\n{rows}\n}}}}")
    opening = f"'''{title}'''（{{{{lang-en|Thing of {len(parts)}}}}}）是"
    parts.append(opening + _prose(sentences, words, draw, 1, 8))
    for _ in range(draw.randint(0, 2)):
        parts.append("\n" + _prose(sentences, words, draw, 2, 6))
    for _ in range(min(int(draw.lognormvariate(0.66, 1.0)), _MAX_SECTIONS)):
        parts.append(f"\n== {draw.choice(words)} ==\n" + _prose(sentences, words, draw, 3, 20))
        if draw.random() < 0.15:
            cells = "\n".join(
                f"|-\n| {a} || {b}" for a, b in zip(words[:9], words[9:18], strict=True)
            )
            parts.append(f'{{| class="wikitable"\n{cells}\n|}}')
        if draw.random() < 0.1:
            parts.append("面積是<math>a^2</math>。")
    parts.append(f"\n== 參考 ==\n{{{{reflist}}}}\n[[Category:{draw.choice(words)}]]")
    return "\n".join(parts)


def _prose(sentences: list[str], words: list[str], draw: random.Random, low: int, top: int) -> str:
    """Returns sentences with links, footnotes and variants in them."""
    found = list[str]()
    for sentence in draw.choices(sentences, k=draw.randint(low, top)):
        chance, middle = draw.random(), len(sentence) // 2
        start, linked, end = (
            sentence[: middle - 3],
            sentence[middle - 3 : middle],
            sentence[middle:],
        )
        if chance < 0.5:
            sentence = f"{start}[[{linked}]]{end}"
        elif chance < 0.7:
            sentence = f"{start}[[{draw.choice(words)}|{linked}]]{end}"
        elif chance < 0.75:
            sentence = f"{start}-{{zh-hans:{linked};zh-hant:{linked}}}-{end}"
        if chance < 0.2:
            cited = f"{{{{cite web|url=http://example.org/{middle}|title={linked}|date=2020}}}}"
            sentence += f'<ref name="r{middle}">{cited}</ref>'
        found.append(sentence)
    return "".join(found)
