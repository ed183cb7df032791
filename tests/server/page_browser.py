"""A headless browser on the chat page, and what the tests do there again and again.

In: `Script`, what the server shall say. Out: the fixtures `page`, a fresh visitor's, and `visit`,
which makes more of them. After each test they hold that the browser reported no script error and
no breach of the Content-Security-Policy. Without a browser, tests are skipped with the reason.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.server.page_server import Script, serving

playwright = pytest.importorskip("playwright.sync_api", reason="needs: pip install playwright")
CHROMIUM = os.environ.get("CHATLM_CHROMIUM") or shutil.which("chromium")
NO_BROWSER = "needs a browser: apt-get install chromium, or CHATLM_CHROMIUM=path"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
expect = playwright.expect
PATIENCE_MS = 20_000  # a busy machine is no failure
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module", name="script")
def script_fixture() -> Script:
    return Script()


@pytest.fixture(scope="module", name="address")
def address_fixture(script: Script) -> Iterator[str]:
    with serving(script) as url:
        yield url


@pytest.fixture(scope="module", name="browser")
def browser_fixture() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip(NO_BROWSER)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(name="visit")
def visit_fixture(browser: Any, script: Script, address: str) -> Iterator[Callable[..., Any]]:
    """Returns a function that opens the page in a browser profile of its own."""
    script.__dict__.update(Script().__dict__)
    contexts: list[Any] = []
    complaints: list[str] = []

    def listen(page: Any) -> None:
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text))

    def visit(before: str = "", address: str = address, **options: Any) -> Any:
        defaults = {"viewport": {"width": 1100, "height": 700}, "locale": "zh-CN"}
        context = browser.new_context(**(defaults | options))
        context.set_default_timeout(PATIENCE_MS)
        context.on("page", listen)
        contexts.append(context)
        if before:
            context.add_init_script(before)
        page = context.new_page()
        page.complaints = complaints
        page.goto(address)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [line for line in complaints if not line.startswith("Failed to load resource")] == []


@pytest.fixture(name="page")
def page_fixture(visit: Callable[..., Any]) -> Any:
    page = visit()
    expect(page.locator("#model:not(.off)")).to_be_visible()  # the server was asked for its model
    return page


def ask(page: Any, question: str, wait: bool = True) -> None:
    page.locator("#input").fill(question)
    page.locator("#input").press("Enter")
    if wait:
        settled(page)


def settled(page: Any) -> None:
    expect(page.locator(".turn:last-child")).to_have_attribute("aria-busy", "false")


def answers(page: Any) -> list[str]:
    return page.locator(".a").all_inner_texts()


def questions(page: Any) -> list[str]:
    return page.locator(".q > p").all_inner_texts()


def titles(page: Any) -> list[str]:
    return page.locator("#list .open").all_inner_texts()


def stored(page: Any) -> list[dict[str, Any]]:
    """Returns the conversations that the browser keeps."""
    items = page.evaluate("Object.entries(localStorage)")
    return [json.loads(text) for key, text in items if key.startswith("chatlm.talk.")]


def is_wider_than_screen(page: Any) -> bool:
    return page.evaluate(
        "[...document.querySelectorAll('html, body, #chat, #scroll, #turns, #panel, #side')]"
        ".some(e => e.scrollWidth > e.clientWidth && e.clientWidth)"
    )
