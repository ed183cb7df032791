"""The lead of an article: what each kind of markup leaves, and where the lead ends."""

import pytest

from chatlm.corpus.convert import zhwiki
from chatlm.corpus.example import Example
from chatlm.corpus.records import Record
from chatlm.corpus.sources import SOURCES, files_of
from chatlm.corpus.wiki.templates import LOST
from chatlm.corpus.wiki.wikitext import has_markup, lead

from .dumps import FOOTER, HEADER, packed, page, write

MARKUP = [
    ("甲<!-- 註\n釋 -->乙", "甲乙"),
    ('甲<ref>丙{{cite|a=[[b]]}}</ref>乙<ref name=x/>丁<REF name="y" />', "甲乙丁"),
    ("甲<ref>丙<!-- </ref> --></ref>乙", "甲 -->乙"),
    ("<nowiki>[[甲]]</nowiki>", "&#91;&#91;甲&#93;&#93;"),
    ("{{NoteTA|1=zh-cn:甲;zh-tw:乙}}丙", "丙"),
    ("{{Infobox|名={{lang|en|a}}|圖=[[File:b.jpg|[[c]]]]\n|d={ e } }}丙", "丙"),
    ("（{{lang-en|Tower Bridge|links=no}}）", "（英语：Tower Bridge）"),
    ("（{{Lang-ja|橋|[[a]]}}）", "（日语：橋）"),
    ("{{lang-en}}{{lang-xx|甲}}{{langx|en|a}}{{langx|}}{{langx|a=b}}", "甲英语：a"),
    ("{{tsl|en|Foo||甲}}{{tsl|en|Foo|乙}}{{tsl|en|Foo|丙|}}", "甲乙丙"),
    ("{{lang|ja|[[橋|はし]]}}", "はし"),
    (
        "{{link-en|甲|A|乙}}、{{link-en|甲|A}}、{{le|丙|C|}}、{{Internal link helper/en|丁|D}}",
        "乙、甲、丙、丁",
    ),
    ("{{tsl|en|A|甲}}{{nowrap|{{color|red|乙}}}}{{lang|1=de|2=丙}}", "甲乙丙"),
    ("高{{convert|828|m|ft|abbr=on}}，{{cvt|3|parsec}}", f"高828米，{LOST}"),
    (
        "甲（{{bd|1900年|1月1日|1950年|2月2日|catIdx=A}}）是人",
        "甲（1900年1月1日—1950年2月2日）是人",
    ),
    ("甲（{{BD|1900年|1月1日}}）是人{{bd||}}", "甲（1900年1月1日—）是人"),
    ("於{{start date|1950|01|2|df=y}}有{{formatnum:12345}}人", "於1950年1月2日有12345人"),
    ("身高{{height|m=1.8}}", f"身高{LOST}"),
    ("{{frac|1|2}}{{·}}{{fact|time=2020}}", "1/2·"),
    ("{{math|x}}與{{val|5}}", f"{LOST}與{LOST}"),
    ("連-{zh-hans:接;zh-hant:線}-與{{lang|zh|-{zh-cn:甲;zh-tw:乙}-}}", "連接與甲"),
    ("1990-{{lang|en|a}}", "1990-a"),
    ('甲\n{| class="x"\n|-\n| a || {| b |}\n|}\n乙', "甲\n乙"),
    (
        "[[甲]]、[[甲|乙]]、[[甲 (丙)|]]、[[Re:從零]]、[[:en:A|丁]]、[[wikt:b]]",
        "甲、乙、甲 (丙)、Re:從零、丁、b",
    ),
    ("[[File:a.jpg|thumb|圖[[乙]]說{{c}}]]甲[[分類:丙]][[Category:丁|戊]][[en:A]]", "甲"),
    ("[http://a.b 甲 乙]、[//c.d]、[1]", "甲 乙、、[1]"),
    ('甲<br />乙<span style="x">丙</span>H<sub>2</sub>O，1<2且3>2', "甲\n乙丙H2O，1<2且3>2"),
    ("'''甲'''''乙'''''丙''丁''，it's", "甲乙丙丁，it's"),
    ("__NOTOC__甲__无目录__", "甲"),
    (":''本條目關於乙。關於丙，見丁。''\n甲", "甲"),
    ("甲：\n* [[乙]]\n** 丙\n# 丁\n;戊\n: 己\n*\n----", "甲：\n- 乙\n- 丙\n- 丁\n戊\n己"),
    ("式<math>a<b</math>，碼<code>x</code>，譜<score>y</score>", f"式{LOST}，碼codice_1，譜{LOST}"),
    ("甲<gallery>\nFile:a.jpg|乙\n</gallery>\n<timeline>丙</timeline>丁", "甲\n丁"),
    ("甲&nbsp;乙", "甲&nbsp;乙"),
]


@pytest.mark.parametrize(("wikitext", "text"), MARKUP)
def test_each_kind_of_markup_leaves_its_text(wikitext, text):
    assert lead(wikitext) == text
    assert not has_markup(text)


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("甲。\n== 乙 ==\n丙", "甲。"),
        ("== 乙 ==\n丙", ""),
        ("甲。<!--\n== 乙 ==\n-->丙。\n== 丁 ==", "甲。丙。"),
        ("{{a|\n== 乙 ==\n}}丙。\n== 丁 ==\n戊", "丙。"),
        ("甲 == 乙", "甲 == 乙"),
    ],
)
def test_the_first_heading_ends_the_lead(wikitext, text):
    assert lead(wikitext) == text


def test_no_more_is_kept_than_is_needed_and_it_ends_with_a_sentence():
    text = lead("第一句話在這裡。" * 1000)
    assert 640 <= len(text) < 660
    assert text.endswith("。")
    assert (
        lead("第一段。\n" * 1000, enough=20) == "第一段。\n第一段。\n第一段。\n第一段。\n第一段。"
    )


@pytest.mark.parametrize("length", [10, 4_000, 4_090, 4_095, 4_096, 20_000, 100_000])
def test_a_long_box_before_the_text_costs_no_text(length):
    box = "{{Infobox|a=" + "[[b|c]]<ref>d</ref>" * (length // 20) + "e" * (length % 20) + "}}\n"
    assert lead(box + "甲是乙。\n\n" + "丙。" * 10 + "\n== 丁 ==\n") == "甲是乙。\n" + "丙。" * 10


@pytest.mark.parametrize("wikitext", ["甲{{乙", "甲]]乙", "甲[[乙", "甲<ref>乙", "甲}}", "{|\n甲"])
def test_an_article_with_markup_left_is_dropped(wikitext):
    assert zhwiki({"title": "甲", "wikitext": wikitext}) == "markup_left"


def test_markup_behind_what_is_kept_does_no_harm():
    found = zhwiki({"title": "甲", "wikitext": "甲是很長的條目。" * 200 + "{{乙"})
    assert isinstance(found, list)
    assert set(found[0].response.split("。")) == {"甲是很长的条目", ""}


def test_a_dump_gives_simplified_pairs(tmp_path):
    name = "zhwiki-20260101-pages-articles-multistream.xml.bz2"
    (tmp_path / "zhwiki").mkdir()
    articles = page(
        "隧道 (交通)", "'''隧道'''（{{lang-en|tunnel}}）是建於地下的[[道路|通道]]。\n== 歷史 =="
    )
    redirect = page("舊名", "#REDIRECT [[隧道]]", 2, redirect="隧道")
    write(tmp_path / "zhwiki" / name, packed([HEADER, articles + redirect, FOOTER]))
    write(tmp_path / "zhwiki" / name.replace(".xml", "-index.txt"), packed(["1:2:隧道"]))
    source = SOURCES["zhwiki"]
    (path,) = files_of(source, tmp_path)
    from chatlm.corpus import readers

    records = [one for one in readers.read(path) if isinstance(one, Record)]
    (example,) = [one for record in records for one in source.convert(record.fields)]
    assert isinstance(example, Example)
    assert "隧道（交通）" in example.prompt
    assert example.response == "隧道（英语：tunnel）是建于地下的通道。"


def test_a_text_that_lost_its_formula_is_cut_before_the_sentence():
    found = zhwiki({"title": "圓", "wikitext": "圓是曲線。面積是<math>\\pi r^2</math>。後來。"})
    assert isinstance(found, list)
    assert found[0].response == "圆是曲线。"
