"""Wikipedia: variants, lost formulas, titles, and pages that are no articles."""

import pytest

from chatlm.corpus.example import Example
from chatlm.corpus.sources import SOURCES
from chatlm.corpus.wiki import variants as zhwiki


@pytest.mark.parametrize(
    ("markup", "shown"),
    [
        ("網路連-{zh-hans:接;zh-hant:線}-", "網路連接"),
        ("-{zh-hans:操作系统;\nzh-hant:作業系統; zh-cn:操作系统乙; }-", "操作系统乙"),
        ("-{zh-tw:馬鈴薯;zh-hk:薯仔}-", "馬鈴薯"),
        ("叫-{乾}-隆", "叫乾隆"),
        ("前-{H|zh-cn:甲;zh-tw:乙}-后", "前后"),
        ("前-{A|zh-cn:甲;zh-tw:乙}-后", "前甲后"),
        ("外-{zh-cn:内-{乾}-层;zh-tw:x}-外", "外内乾层外"),
        ("没有关上-{zh-cn:甲", "没有关上-{zh-cn:甲"),
        ("减号-{}-", "减号"),
    ],
)
def test_variant_markup_shows_what_mainland_readers_see(markup, shown):
    assert zhwiki.resolve_variants(markup) == shown


def test_conversion_changes_characters_and_leaves_simplified_text_alone():
    assert zhwiki.simplified("臺灣的乾隆沿著鐵路") == "台湾的乾隆沿着铁路"
    for text in ("程序的进程，软件著作权", "是么？显著、原著、著名、土著", "面条里面"):
        assert zhwiki.simplified(text) == text


def test_a_text_is_cut_before_the_sentence_that_lost_its_formula():
    text = "圓是曲線。它的面積是formula_1，其中formula_2是半徑。後來。"
    assert zhwiki.clean_text("圓", text) == ("圆", "圆是曲线。")
    assert zhwiki.clean_text("圓", "面積codice_1。") == ("圆", "")


def test_titles_and_texts_are_unescaped_and_empty_brackets_go():
    title, text = zhwiki.clean_text(
        "AT&amp;T_(公司)", "AT&amp;T（，）是（；英語：x）公司，main()是函数。"
    )
    assert title == "AT&T（公司）"
    assert text == "AT&T是（英语：x）公司，main()是函数。"


@pytest.mark.parametrize(
    ("title", "text", "reason"),
    [
        ("空", "", "empty_article"),
        ("旧名", "#重定向 新名", "redirect"),
        ("甲（消歧义）", "甲是姓。", "disambiguation"),
        ("元", "元可以指：\n货币单位", "disambiguation"),
        ("湖泊列表", "这是列表。", "list_article"),
        ("手指", "手指是手的一部分，指：不对。", ""),
    ],
)
def test_pages_that_are_no_articles_have_a_reason(title, text, reason):
    assert zhwiki.no_article(title, text) == reason


def test_an_article_becomes_a_question_about_its_title():
    convert = SOURCES["zhwiki"].convert
    found = convert({"title": "經濟學", "text": "經濟學\n\n經濟學研究選擇。"})
    assert isinstance(found, list)
    assert found == convert({"title": "經濟學", "text": "經濟學\n\n經濟學研究選擇。"})
    (example,) = found
    assert isinstance(example, Example)
    assert "经济学" in example.prompt
    assert example.response == "经济学研究选择。"
    assert convert({"title": "經濟學", "text": "formula_1。"}) == "lost_formula"
