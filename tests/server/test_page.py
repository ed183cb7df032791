"""The chat page in a real browser, against a server that says what it is told: what one does."""

import json
import re

import pytest

from chatlm.chat.conversation_file import read_messages
from tests.server.page_browser import (  # noqa: F401
    address_fixture,
    answers,
    ask,
    browser_fixture,
    expect,
    page_fixture,
    questions,
    script_fixture,
    settled,
    stored,
    titles,
    visit_fixture,
)
from tests.server.page_server import DEFAULT_ANSWER

LONG = "".join(f"第{i}行，这里有一些字。\n\n" for i in range(40))
CODE = "看：\n\n```python\nprint('你好')\n```\n\n- **一**\n- `二`"


def test_answer_comes_piece_by_piece_with_a_caret_and_ends_with_its_figures(page, script):
    script.hold_after = 6
    script.delay_seconds = 0.03
    script.answers = ["一二三四五六七八九十" * 3]
    ask(page, "数数", wait=False)
    expect(page.locator(".a.writing p")).to_have_text("一二三四五六七八九十一二")
    expect(page.locator("#send")).to_have_attribute("aria-label", "停止")
    script.hold_after = None
    settled(page)
    assert (questions(page), answers(page)) == (["数数"], ["一二三四五六七八九十" * 3])
    meta = page.locator(".meta").inner_text()
    ((tokens, rate, first),) = re.findall(
        r"(\d+) token · ([\d.]+) token/s · 首字 ([\d.]+) 秒", meta
    )
    assert tokens == "15"
    assert 0.1 < float(rate) < 40
    assert 0.02 < float(first) < 10
    (body,) = script.requests
    assert body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "数数"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_text_does_not_move_while_an_answer_grows_nor_at_its_end(page, script):
    script.delay_seconds = 0.01
    script.answers = [f"{'这是一个很长的段落，一直写下去。' * 8}\n\n- 一\n- 二", DEFAULT_ANSWER]
    ask(page, "先问一个")
    page.evaluate(
        "window.moved = []; new PerformanceObserver(list => moved.push(...list.getEntries()"
        ".flatMap(e => e.sources).map(s => s.node.closest?.('.turn > div, body *')?.className)))"
        ".observe({type: 'layout-shift'})"
    )
    ask(page, "写")
    page.wait_for_timeout(100)
    # The row of buttons goes down with every line, and is empty while it does.
    assert set(page.evaluate("moved")) <= {"meta"}
    page.locator(".a").last.evaluate("a => { a.style.paddingTop = '40px' }")
    page.wait_for_timeout(100)
    assert set(page.evaluate("moved")) > {"meta"}  # it would have been seen


def test_caret_takes_no_room_at_any_length(page):
    ask(page, "问")
    differing = """a => {
        const all = document.getElementById("scroll");
        const size = (name) => {
            a.className = name;
            return `${a.offsetHeight} ${all.scrollWidth}`;
        };
        const lengths = [...Array(130).keys()];
        return ["", "- 一\\n- ", "```\\n"].flatMap((start) => lengths.filter((n) => {
            show(a, `${start}${"字".repeat(n)}。`);
            return size("a") !== size("a writing");
        }));
    }"""
    assert page.locator(".a").evaluate(differing) == []


@pytest.mark.parametrize("way", ["Escape", "button"])
def test_stopped_answer_is_kept_and_marked(page, script, way):
    script.hold_after = 6
    script.answers = ["春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。", DEFAULT_ANSWER]
    ask(page, "背诗", wait=False)
    expect(page.locator(".a")).to_have_text("春眠不觉晓，处处闻啼鸟。")
    if way == "Escape":
        page.keyboard.press("Escape")
    else:
        page.locator("#send").click()
    settled(page)
    expect(page.locator(".mark")).to_have_text("已停止")
    assert answers(page) == ["春眠不觉晓，处处闻啼鸟。"]
    script.hold_after = None
    assert stored(page)[0]["turns"][0]["state"] == "stopped"
    ask(page, "再来")  # and the page goes on
    assert answers(page)[1] == DEFAULT_ANSWER


def test_retry_draws_anew_and_keeps_the_old_answer_until_the_new_one_speaks(page, script):
    script.answers = ["第一个", "第二个"]
    page.locator("#tune").click()
    page.get_by_label("随机种子").fill("7")
    page.keyboard.press("Escape")
    ask(page, "问")
    page.get_by_role("button", name="重新回答").click()
    expect(page.locator(".a")).to_have_text("第二个")
    assert script.requests[0]["seed"] == 7
    assert "temperature" not in script.requests[0]
    assert script.requests[1]["temperature"] == 0.8
    assert "seed" not in script.requests[1]
    script.errors = [(500, {})]
    page.get_by_role("button", name="重新回答").click()
    expect(page.locator(".oops")).to_contain_text("服务器出错了")
    assert answers(page) == ["第二个"]
    page.get_by_role("button", name="再试一次").click()
    expect(page.locator(".a")).to_have_text(DEFAULT_ANSWER)
    assert script.requests[3]["temperature"] == 0.8


def test_edited_question_replaces_what_followed_and_can_be_undone(page, script):
    script.answers = ["答一", "答二", "新答"]
    ask(page, "问一")
    ask(page, "问二")
    page.locator(".turn").first.hover()
    page.get_by_role("button", name="修改问题").first.click()
    area = page.locator(".q textarea")
    expect(area).to_be_focused()
    area.fill("改过的问题")
    area.press("Enter")
    expect(page.locator(".a")).to_have_text("新答")
    assert questions(page) == ["改过的问题"]
    page.get_by_role("button", name="撤销").click()
    assert (questions(page), answers(page)) == (["问一", "问二"], ["答一", "答二"])
    page.locator("#input").press("ArrowUp")  # the keyboard's way to edit the last one
    area.press("Escape")
    assert questions(page) == ["问一", "问二"]
    assert len(stored(page)) == 1


def test_reload_finds_the_list_and_the_open_conversation(page, script):
    ask(page, "旧的")
    page.locator("#new").click()
    script.hold_after = 9
    script.answers = [LONG]
    ask(page, "新的", wait=False)
    expect(page.locator(".a")).to_contain_text("第0行")
    page.reload()  # in the middle of an answer
    assert titles(page) == ["新的", "旧的"]
    assert answers(page)[0].startswith("第0行")
    expect(page.locator(".mark")).to_have_text("没有答完")
    page.get_by_role("button", name="旧的", exact=True).click()
    assert answers(page) == [DEFAULT_ANSWER]
    expect(page.locator("#title")).to_have_text("旧的")


@pytest.mark.parametrize(
    ("status", "says", "button"),
    [
        (400, "这个请求服务器不接受", "修改问题"),
        (413, "问题太长了", "修改问题"),
        (422, "这个请求服务器不接受", "修改问题"),
        (500, "服务器出错了", "再试一次"),
        (503, "模型还没准备好", "再试一次"),
    ],
)
def test_refusal_is_said_kindly(page, script, status, says, button):
    script.errors = [(status, {})]
    ask(page, "问")
    expect(page.locator(".oops p")).to_have_text(says)
    expect(page.locator(".oops")).to_contain_text(f"scripted {status}")
    page.locator(".oops").get_by_role("button", name=button).click()
    if button == "修改问题":
        page.locator(".q textarea").fill("短问")
        page.locator(".q textarea").press("Enter")
    expect(page.locator(".a")).to_have_text(DEFAULT_ANSWER)
    expect(page.locator(".oops")).to_have_count(0)


def test_busy_server_is_waited_for_as_long_as_it_asks(page, script):
    script.errors = [(429, {"Retry-After": "2"})]
    ask(page, "问")
    again = page.get_by_role("button", name="再试一次")
    expect(page.locator(".oops")).to_contain_text("2 秒后可以再试")
    expect(again).to_be_disabled()
    expect(again).to_be_enabled()
    expect(page.locator(".oops")).to_contain_text("可以再试了")
    assert len(script.requests) == 1  # offered, not done unasked
    again.click()
    expect(page.locator(".a")).to_have_text(DEFAULT_ANSWER)


def test_answer_that_breaks_off_is_kept_and_can_be_asked_again(page, script):
    script.break_after = 2
    ask(page, "问")
    expect(page.locator(".oops p")).to_have_text("回答中断了")
    expect(page.locator(".oops")).to_contain_text("engine died")
    assert answers(page) == [DEFAULT_ANSWER[:4]]
    script.break_after = None
    page.get_by_role("button", name="再试一次").click()
    expect(page.locator(".a")).to_have_text(DEFAULT_ANSWER)


def test_lost_network_is_said_and_its_return_is_noticed(page):
    page.context.set_offline(True)
    ask(page, "问")
    expect(page.locator(".oops p")).to_have_text("连不上服务")
    expect(page.locator("#model")).to_have_text("连不上服务，正在重试…")
    page.context.set_offline(False)
    expect(page.locator(".oops p")).to_have_text("已经重新连上")
    expect(page.locator("#model")).to_have_text("tiny")
    page.get_by_role("button", name="再试一次").click()
    expect(page.locator(".a")).to_have_text(DEFAULT_ANSWER)


def test_key_is_asked_for_and_kept_in_this_tab_only(visit, script):
    script.key = "geheim"
    page = visit()
    for given, note in [("falsch", "这台服务器要密钥"), ("geheim", "密钥不对")]:
        expect(page.locator("#ask-note")).to_contain_text(note)
        page.locator("#key").fill(given)
        page.locator("#key").press("Enter")
    expect(page.locator("#model")).to_have_text("tiny")
    assert page.evaluate("Object.entries(sessionStorage)") == [["chatlm.key", "geheim"]]
    assert "geheim" not in page.evaluate("JSON.stringify(localStorage) + document.body.innerHTML")
    page.locator("#tune").click()
    page.get_by_role("button", name="忘掉密钥").click()
    page.keyboard.press("Escape")
    ask(page, "问", wait=False)
    expect(page.locator("#key")).to_be_visible()  # Escape before that would close nothing
    page.locator("#key").press("Escape")
    expect(page.locator(".oops p")).to_have_text("需要密钥")


def test_enter_that_ends_a_composition_does_not_send(page, script):
    page.locator("#input").focus()
    session = page.context.new_cdp_session(page)
    session.send(
        "Input.imeSetComposition", {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6}
    )
    key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
    session.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **key})
    session.send("Input.dispatchKeyEvent", {"type": "keyUp", **key})
    page.evaluate(  # Safari's: the composition has ended, the key code says so
        "document.getElementById('input').dispatchEvent(new KeyboardEvent("
        "'keydown', {key: 'Enter', keyCode: 229, bubbles: true, cancelable: true}))"
    )
    assert page.locator(".turn").count() == 0
    session.send("Input.insertText", {"text": "你好"})
    expect(page.locator("#input")).to_have_value("你好")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("第二行")
    page.keyboard.press("Enter")
    settled(page)
    assert script.requests[0]["messages"][0]["content"] == "你好\n第二行"


def test_old_answer_outlives_a_page_that_closes_before_the_new_one_speaks(page, script):
    ask(page, "问")
    script.delay_seconds = 30
    page.get_by_role("button", name="重新回答").click()
    expect(page.locator(".turn")).to_have_attribute("aria-busy", "true")
    page.reload()
    assert answers(page) == [DEFAULT_ANSWER]


@pytest.mark.parametrize("allowed", [True, False])
def test_answer_and_code_are_copied_with_or_without_permission(visit, script, allowed):
    page = visit(
        "" if allowed else "Object.defineProperty(navigator, 'clipboard', {value: undefined})"
    )
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    script.answers = [CODE]
    ask(page, "代码")
    paste = "navigator.clipboard.readText()"
    if not allowed:
        paste = "document.execCommand('paste'), document.getElementById('input').value"
    for button, expected in [(".meta", CODE), (".code", "print('你好')")]:
        page.locator(button).get_by_role("button", name="复制").click()
        expect(page.locator("#say")).to_have_text("已复制")
        if allowed:
            assert page.evaluate(paste) == expected
        else:
            page.locator("#input").fill("")
            page.locator("#input").press("Control+v")
            expect(page.locator("#input")).to_have_value(expected)


def test_conversations_are_renamed_deleted_and_brought_back(page):
    ask(page, "甲")
    page.locator("#new").click()
    ask(page, "乙")
    item = page.locator("#list li", has_text="甲")
    item.hover()
    item.get_by_role("button", name="改名").click()
    page.keyboard.type("新名字")
    page.keyboard.press("Enter")
    expect(page.locator("#list")).to_contain_text("新名字")
    item = page.locator("#list li", has_text="乙")
    item.hover()
    item.get_by_role("button", name="删除").click()
    assert titles(page) == ["新名字"]
    expect(page.locator("#hello")).to_be_visible()
    page.get_by_role("button", name="撤销").click()
    assert sorted(titles(page)) == ["乙", "新名字"]
    assert questions(page) == ["乙"]
    page.reload()
    assert sorted(titles(page)) == ["乙", "新名字"]


def test_saved_file_is_the_terminals_and_comes_back(page, script, tmp_path):
    script.answers = ["答<b>一</b>\n第二行", "答二"]
    ask(page, "问一")
    ask(page, "问二")
    page.locator("#list li").hover()
    with page.expect_download() as download:
        page.get_by_role("button", name="导出").click()
    path = tmp_path / "chat.json"
    download.value.save_as(path)
    assert re.fullmatch(r"chat-\d{8}-\d{6}\.json", download.value.suggested_filename)
    said = ["问一", "答<b>一</b>\n第二行", "问二", "答二"]
    assert [message.content for message in read_messages(path)] == said
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["model"] == "tiny"
    assert {tuple(message) for message in content["messages"]} == {("role", "content")}
    page.locator("#file").set_input_files(path)
    expect(page.locator("#toast")).to_contain_text("已导入 1 个对话")
    assert len(titles(page)) == 2
    assert answers(page) == ["答<b>一</b>\n第二行", "答二"]
    path.write_text(json.dumps({"messages": content["messages"][:3]}))
    page.locator("#file").set_input_files(path)
    expect(page.locator("#toast")).to_contain_text("不是存下的对话")
