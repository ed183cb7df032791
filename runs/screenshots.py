"""Pictures of the chat page for the READMEs: a real browser, the real server, a real model.

In: a model, as `cli_demo.py serve` takes it. Out: PNG files in docs/screenshots/. What the model
says is not touched. Needs what the page's tests need (playwright, chromium), a Chinese font, such
as fonts-noto-cjk, and pngquant.

    python -m runs.screenshots out/train-001
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "screenshots"
MAX_BYTES = 150 * 1024
# What the starter model can answer; on much else it errs, and the page says so.
TALKS = [
    ["端午节是哪天？"],
    ["你是谁？", "如何保持健康？", "公历二月有多少天？"],
    ["《静夜思》是谁写的？", "失眠怎么办？", "说说长江注入什么海。"],
]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
DESKTOP = {"viewport": {"width": 1280, "height": 800}}
PHONE = {
    "viewport": {"width": 390, "height": 780},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}


@contextmanager
def served(model: str) -> Iterator[str]:
    """Yields the address of a server with a model."""
    command = [sys.executable, "cli_demo.py", "serve", f"model={model}", "port=0", "device=cpu"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = ""
        for line in process.stderr:
            address = "".join(re.findall(r"http://\S+/", line)) or address
            if " ready: " in line:
                break
        try:
            if process.poll() is None:
                yield address
        finally:
            process.terminate()


def open_page(browser: Browser, address: str, **options: Any) -> Page:
    """Returns the page as a Chinese visitor finds it."""
    page = browser.new_context(locale="zh-CN", **options).new_page()
    page.goto(address)
    expect(page.locator("#model:not(.off)")).to_be_visible()
    return page


def ask(page: Page, question: str) -> None:
    """Asks, and waits for the whole answer."""
    page.locator("#input").fill(question)
    page.locator("#send").click()
    expect(page.locator(".turn:last-child")).to_have_attribute("aria-busy", "false", timeout=60000)
    expect(page.locator(".oops")).to_have_count(0)


def talk(page: Page) -> None:
    """Has some conversations."""
    for questions in TALKS:
        page.evaluate("document.getElementById('new').click()")
        for question in questions:
            ask(page, question)
    page.mouse.move(640, 790)


def save(page: Page, name: str) -> None:
    """Writes a picture, with at most 256 colours."""
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path)
    subprocess.run(
        ["pngquant", "--force", "--skip-if-larger", "--output", str(path), str(path)], check=False
    )
    size = path.stat().st_size
    print(f"{path.relative_to(ROOT)}: {size:,} bytes")
    if size > MAX_BYTES:
        raise SystemExit(f"{path} has {size:,} bytes, at most {MAX_BYTES:,} are wanted")


def main(argv: Sequence[str]) -> int:
    """Makes all pictures; returns the exit code."""
    if len(argv) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    chromium = os.environ.get("CHATLM_CHROMIUM") or shutil.which("chromium")
    with served(argv[0]) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = open_page(browser, address, color_scheme="light", **DESKTOP)
        talk(page)
        save(page, "chat-light")
        page.emulate_media(color_scheme="dark")
        page.get_by_role("button", name=TALKS[1][0], exact=True).click()
        page.mouse.move(640, 790)
        save(page, "chat-dark")
        page = open_page(browser, address, color_scheme="light", **PHONE)
        talk(page)
        save(page, "chat-phone")
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
