"""The chat page in a real browser, on the real server; only the model is scripted."""

from collections.abc import Iterator

import pytest

from tests.server.page_browser import (  # noqa: F401
    answers,
    ask,
    browser_fixture,
    expect,
    page_fixture,
    script_fixture,
    settled,
    visit_fixture,
)
from tests.server.served import Server, until

KEY = "correct-horse-battery"
STEP_SECONDS = 0.004


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("max_queue=0", step=STEP_SECONDS, streams=1) as server:
        yield server


@pytest.fixture(scope="module")
def address(server: Server) -> str:
    return f"{server.url}/"


def test_page_and_its_policy_come_from_the_server(page, server):
    _, headers, body = server.get("/")
    assert b"<script>" in body
    assert "unsafe" not in headers["content-security-policy"]
    expect(page.locator("#model")).to_have_text("scripted · scripted")
    expect(page.locator("#hint")).to_contain_text("最近 1 轮")
    page.locator("#tune").click()
    expect(page.get_by_label("温度")).to_have_attribute("placeholder", "0")
    expect(page.get_by_label("最长 token 数")).to_have_attribute("placeholder", "2000")


def test_answer_is_streamed_and_counted(page):
    ask(page, "写两行")
    assert answers(page) == ["第一行\n第二行"]
    expect(page.locator(".meta")).to_contain_text("7 token")
    ask(page, "还有呢")  # the scripted model says what it read
    assert answers(page)[1] == (
        "您问的是「用户：写两行\n助手：第一行\n第二行\n用户：还有呢\n助手：」"
    )
    page.locator("#new").click()
    ask(page, "攻击")
    assert answers(page) == ["安全的。"]


def test_stopped_answer_frees_its_place(page, server):
    ask(page, "慢", wait=False)
    expect(page.locator(".a")).to_contain_text("字字字")
    page.keyboard.press("Escape")
    settled(page)
    expect(page.locator(".mark")).to_have_text("已停止")
    until(lambda: server.metric("running") == 0)
    page.locator("#new").click()
    ask(page, "你好")
    assert answers(page) == ["你好！很高兴见到你。"]


def test_full_server_says_when_to_come_back(visit, page):
    ask(page, "慢", wait=False)
    expect(page.locator(".a")).to_contain_text("字字字")
    other = visit()
    ask(other, "你好")
    expect(other.locator(".oops p")).to_have_text("现在问的人太多")
    page.keyboard.press("Escape")
    again = other.get_by_role("button", name="再试一次")
    expect(again).to_be_enabled()
    again.click()
    settled(other)
    assert answers(other) == ["你好！很高兴见到你。"]


@pytest.mark.parametrize("question", ["错", "死"])
def test_answer_that_dies_is_kept_and_the_next_one_comes(page, server, question):
    ask(page, question)
    expect(page.locator(".oops p")).to_have_text("回答中断了")
    assert answers(page) == ["半"]
    until(lambda: server.get("/ready")[0] == 200)
    ask(page, "你好")
    assert answers(page)[1] == "你好！很高兴见到你。"


def test_what_is_refused_is_said(page):
    ask(page, "长" * 60)  # the model reads 41 tokens
    expect(page.locator(".oops p")).to_have_text("问题太长了")
    page.locator("#new").click()
    ask(page, "长" * 30_000)  # more than the body may have
    expect(page.locator(".oops p")).to_have_text("问题太长了")


def test_key_opens_the_server(visit):
    environment = {"CHATLM_API_KEY": KEY}
    with Server(environment=environment) as server:
        page = visit(address=f"{server.url}/")
        page.locator("#key").fill(KEY)
        page.locator("#key").press("Enter")
        expect(page.locator("#model")).to_have_text("scripted · scripted")
        ask(page, "你好")
        assert answers(page) == ["你好！很高兴见到你。"]
