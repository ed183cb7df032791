"""The chat page in a real browser: hostile text, small screens, two tabs, no storage, no mouse."""

import random

import pytest

from chatlm.sanitize import sanitize
from chatlm.server.page import PAGE
from tests.server.page_browser import (  # noqa: F401
    address_fixture,
    answers,
    ask,
    browser_fixture,
    expect,
    is_wider_than_screen,
    page_fixture,
    questions,
    script_fixture,
    settled,
    stored,
    titles,
    visit_fixture,
)
from tests.server.page_server import DEFAULT_ANSWER
from tests.server.served import until
from tests.test_sanitize import ATTACKS, HARMLESS

LONG = "".join(f"第{i}行，这里有一些字。\n\n" for i in range(40))
WIDE = f"{'长' * 300} {'x' * 300}\n\n```\n{'y' * 300}\n```\n\n- {'`z`' * 90}\n\n1. 一\n2. 二"
PARTS = [
    *(
        "\x1b",
        "\x1b",
        "[",
        "]",
        "P",
        "(",
        " ",
        "31m",
        "0;",
        "\x07",
        "\\",
        "\x9b",
        "\x9d",
        "\x9c",
        "\n",
    ),
    *("\r", "\t", "\x7f", "\x00", "汉", "a", "，", "👩", "🏽", "❤", "\ufe0f", "\u200d", "\u200b"),
    *("\u202e", "\u2028", "\xad", "x" * 100),
    *("🏴", "\U000e0067", "\U000e007f", "\ufe00", "\U000e0100", "\u115f", "\u034f", " "),
]
HOSTILE = (
    "<img src=x onerror=alert(1)><script>alert(2)</script>\n\n"
    "```<b>html\n</code></pre><script>alert(3)</script>\n```\n\n"
    "- <svg onload=alert(4)>\n- **<i>x</i>** `<u>y</u>`\n\n"
    "[链接](javascript:alert(5)) \x1b[31m红\x1b]0;t\x07 \u202e反\u2066 零\u200b宽\r\x00\x9b2J"
)


def test_models_text_stays_text(page, script):
    page.on("dialog", lambda dialog: pytest.fail(f"the page ran {dialog.message}"))
    script.answers = [HOSTILE]
    ask(page, HOSTILE)
    for selector in (".turn", "#list", "#title"):
        assert page.locator(f"{selector} :is(img, script, i, u, a, b)").count() == 0
    assert page.locator(".turn svg[onload]").count() == 0
    shown = page.locator(".a").inner_text()
    assert "<img src=x onerror=alert(1)><script>alert(2)</script>" in shown
    assert "<i>x</i> <u>y</u>" in shown
    assert "红 反 零宽" in shown
    assert page.locator(".code span").inner_text() == "<b>html"
    for text in (shown, page.locator(".q").inner_text(), page.title(), str(stored(page))):
        assert not set(text) & set("\x1b\x9b\x00\u202e\u2066\u200b")
    page.reload()
    assert page.locator(".a").inner_text() == shown


def test_page_cleans_text_as_the_terminal_does(page):
    def cleaned(texts):
        return page.evaluate("texts => texts.map(sanitize)", texts)

    known = [text for text, _ in ATTACKS if "\ud800" not in text] + HARMLESS
    assert cleaned(known) == [sanitize(text) for text in known]
    assert page.evaluate(r"sanitize('代理\ud800')") == "代理\ufffd"

    draw = random.Random(1)
    mixed = ["".join(draw.choices(PARTS, k=draw.randint(1, 12))) for _ in range(3000)]
    differing = {
        text: (ours, theirs)
        for text, ours, theirs in zip(mixed, cleaned(mixed), map(sanitize, mixed), strict=True)
        if ours != theirs
    }
    assert differing == {}


def test_markdown_becomes_elements(page, script):
    script.answers = [
        "第一段**粗**和`码`，2*3*4，**不 是**\n同段第二行\n\n3. 三\n4. 四\n  续\n\n"
        "* 点\n\n```py\n  a < b\n\n**c**"
    ]
    ask(page, "问")
    assert page.locator(".a").evaluate("a => [...a.children].map(e => e.tagName)") == (
        ["P", "OL", "UL", "DIV"]
    )
    assert page.locator(".a strong").all_inner_texts() == ["粗", "不 是"]
    assert page.locator(".a p").inner_text() == "第一段粗和码，2*3*4，不 是\n同段第二行"
    assert page.locator(".a ol").get_attribute("start") == "3"
    assert page.locator(".a ol li").all_inner_texts() == ["三", "四\n续"]
    assert page.locator(".a pre").inner_text() == "  a < b\n\n**c**"


def test_policy_lets_nothing_else_run(page):
    """The hashes are those of the two elements; a script that got in anyway would not run."""
    page.evaluate(
        "window.breaches = []; document.addEventListener('securitypolicyviolation',"
        " event => breaches.push(event.effectiveDirective))"
    )
    page.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s);"
        " document.body.innerHTML += '<p id=bait onclick=\"window.ran = 2\" style=color:red>'"
    )
    # Some browsers look at a handler when it is set, others when it would run.
    page.evaluate("document.getElementById('bait').click()")
    wanted = {"script-src-elem", "script-src-attr", "style-src-attr"}
    until(lambda: wanted <= set(page.evaluate("breaches")))  # they are reported a little later
    assert set(page.evaluate("breaches")) == wanted
    assert page.evaluate("window.ran") is None
    page.context.pages[0].complaints.clear()  # they were asked for


def test_page_needs_nothing_from_elsewhere():
    text = PAGE.read_text(encoding="utf-8")
    assert "\r" not in text
    outside = text.replace("http://www.w3.org/2000/svg", "")
    for word in ("http://", "https://", "@import", "url(", "innerHTML", "eval(", "document.write"):
        assert word not in outside, word


@pytest.mark.parametrize("width", [320, 375])
def test_phone_needs_no_sideways_scrolling(visit, script, width):
    page = visit(viewport={"width": width, "height": 640}, has_touch=True, is_mobile=True)
    for language in ("zh", "en"):
        page.evaluate(f"setLang('{language}')")
        assert not is_wider_than_screen(page)
        script.answers = [WIDE]
        script.errors = [(413, {})]
        ask(page, "问" * 200)
        assert not is_wider_than_screen(page)
        page.locator(".oops .solid").tap()
        page.locator(".q .solid").tap()
        settled(page)
        assert not is_wider_than_screen(page)
        page.locator("#tune").tap()
        assert not is_wider_than_screen(page)
        page.keyboard.press("Escape")
        page.locator("#menu").tap()
        expect(page.locator("#list .tools").first).to_be_in_viewport(ratio=1)
        assert not is_wider_than_screen(page)
        page.locator("#new").tap()
        expect(page.locator("#side")).not_to_be_visible()
    small = "e => e.checkVisibility() && Math.min(e.offsetWidth, e.offsetHeight) < 30"
    assert page.locator("button").evaluate_all(f"all => all.filter({small}).length") == 0


def test_reader_who_scrolled_up_is_left_alone(page, script):
    script.delay_seconds = 0.01
    script.answers = [LONG]
    ask(page, "问", wait=False)
    expect(page.locator(".a")).to_contain_text("第9行")
    at_end = "s => s.scrollHeight - s.clientHeight - s.scrollTop"
    assert page.locator("#scroll").evaluate(at_end) < 60
    page.locator("#scroll").hover()
    page.mouse.wheel(0, -150)
    page.wait_for_timeout(150)
    top = page.locator("#scroll").evaluate("s => s.scrollTop")
    page.wait_for_timeout(300)
    assert page.locator("#scroll").evaluate("s => s.scrollTop") == top
    page.get_by_role("button", name="回到底部").click()
    settled(page)
    assert page.locator("#scroll").evaluate(at_end) < 4
    expect(page.locator("#bottom")).not_to_be_visible()


def test_two_tabs_lose_nothing_of_each_other(page, script, address):
    ask(page, "甲一")
    other = page.context.new_page()
    other.goto(page.url)
    assert questions(other) == ["甲一"]
    other.locator("#new").click()
    ask(other, "乙")
    assert titles(page) == ["乙", "甲一"]
    script.delay_seconds = 0.1
    ask(page, "甲二", wait=False)  # both go on with one conversation at the same time
    other.get_by_role("button", name="甲一", exact=True).click()
    ask(other, "甲三", wait=False)
    settled(page)
    settled(other)
    answered = {t["q"] for one in stored(page) for t in one["turns"] if t["a"] == DEFAULT_ANSWER}
    assert answered == {"甲一", "甲二", "甲三", "乙"}
    ask(page, "甲四")  # what the other tab shows follows
    other.get_by_role("button", name=titles(page)[0], exact=True).first.click()
    assert questions(other) == questions(page)


@pytest.mark.parametrize(
    "storage",
    [
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('blocked') }});"
        "Object.defineProperty(window, 'sessionStorage', {get() { throw new Error('blocked') }})",
        "Storage.prototype.setItem = () => { throw new DOMException('', 'QuotaExceededError') }",
    ],
    ids=["blocked", "full"],
)
def test_page_works_without_storage(visit, storage):
    page = visit(storage)
    ask(page, "问")
    expect(page.locator("#toast")).to_contain_text("浏览器没有存下对话")
    page.locator("#new").click()
    ask(page, "再问")
    assert titles(page) == ["再问", "问"]
    page.get_by_role("button", name="问", exact=True).click()
    assert (questions(page), answers(page)) == (["问"], [DEFAULT_ANSWER])
    page.locator("#theme").click()
    page.locator("#lang").click()
    expect(page.locator("#input")).to_have_attribute("placeholder", "Ask something in Chinese…")


@pytest.mark.parametrize(
    ("turns", "note", "sent"),
    [
        (0, "历史不会发给模型", ["三"]),
        (1, "最近 1 轮", ["二", DEFAULT_ANSWER, "三"]),
    ],
)
def test_model_gets_as_much_history_as_it_reads(visit, script, turns, note, sent):
    script.history_turns = turns
    page = visit()
    expect(page.locator("#hint")).to_contain_text(note)
    for question in "一二三":
        ask(page, question)
    assert [message["content"] for message in script.requests[2]["messages"]] == sent


def test_only_filled_parameters_are_sent(page, script):
    page.locator("#tune").click()
    given = {"温度": "0.75", "top p": "0.9", "最长 token 数": "20", "重复惩罚": "1.1"}
    for label, value in given.items():
        page.get_by_label(label).fill(value)
    page.get_by_label("停止词").fill("。\n\\n")
    page.get_by_label("随机种子").fill("-1")  # refused by the field: not sent
    page.keyboard.press("Escape")
    page.reload()
    ask(page, "问")
    body = {key: script.requests[0].get(key) for key in script.requests[0]}
    expected = {"temperature": 0.75, "top_p": 0.9, "max_tokens": 20, "repetition_penalty": 1.1}
    assert {key: body.get(key) for key in expected} == expected
    assert body["stop"] == ["。", "\n"]
    assert "seed" not in body
    page.locator("#tune").click()
    page.get_by_role("button", name="全部清空").click()
    page.keyboard.press("Escape")
    ask(page, "问")
    assert not {*expected, "stop", "seed"} & set(script.requests[1])


def test_language_and_appearance_are_chosen_and_remembered(visit):
    page = visit(locale="en-GB", color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    expect(page.locator("#hello h1")).to_have_text("What would you like to ask?")
    assert page.evaluate("document.documentElement.lang") == "en"
    dark = page.evaluate(paper)
    page.locator("#lang").click()
    expect(page.locator("#hello h1")).to_have_text("今天想问点什么？")
    page.get_by_role("button", name="外观：跟随系统").click()
    page.reload()
    expect(page.get_by_role("button", name="外观：浅色")).to_be_visible()
    expect(page.locator("#hello h1")).to_have_text("今天想问点什么？")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.evaluate(paper) != dark
    page.locator("#theme").click()
    assert page.evaluate(paper) == dark


def test_keyboard_alone_is_enough(page, script):
    expect(page.locator("#input")).to_be_focused()
    page.keyboard.type("问")
    page.keyboard.press("Enter")
    settled(page)

    def tab_to(name, back=False):
        for _ in range(30):
            page.keyboard.press("Shift+Tab" if back else "Tab")
            focused = page.evaluate("document.activeElement.getAttribute('aria-label') ?? ''")
            if focused == name:
                outline = "getComputedStyle(document.activeElement).outlineStyle"
                assert page.evaluate(outline) == "solid"
                return
        pytest.fail(f"{name} is not reached")

    tab_to("重新回答", back=True)
    page.keyboard.press("Enter")
    settled(page)
    expect(page.locator("#input")).to_be_focused()
    tab_to("生成参数", back=True)
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("0.5")
    page.keyboard.press("Escape")
    expect(page.locator("#panel")).not_to_be_visible()
    tab_to("删除", back=True)
    page.keyboard.press("Enter")
    assert titles(page) == []
    page.keyboard.press("Enter")  # on "undo"
    assert titles(page) == ["问"]
    expect(page.locator("#input")).to_be_focused()
    page.keyboard.type("再问")
    page.keyboard.press("Enter")
    settled(page)
    assert script.requests[2]["temperature"] == 0.5
