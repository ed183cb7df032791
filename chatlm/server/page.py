"""The chat page and the policy that lets a browser run its own script and style, and nothing else.

In: page.html, which lies beside this module. Out: its bytes and its headers.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Page:
    """What GET / returns."""

    content: bytes
    headers: dict[str, str]


def load_page() -> Page:
    """Returns the page."""
    content = PAGE.read_bytes()
    named = {tag: " ".join(_hashes(content, tag)) for tag in ("script", "style")}
    policy = (
        f"default-src 'none'; script-src {named['script']}; style-src {named['style']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return Page(content, {"Content-Security-Policy": policy, "X-Frame-Options": "DENY"})


def _hashes(page: bytes, tag: str) -> list[str]:
    """Returns the names by which a policy allows the page's own elements of a kind."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in found]
    return [f"'sha256-{digest}'" for digest in digests] or ["'none'"]
